"""What a scraper sees: the text of a scrape, read by Prometheus's own parser."""

from __future__ import annotations

import http.client
import socket
from collections import Counter
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families


class Scrape:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self.samples = [sample for family in self.families for sample in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples of a name that have these labels; there must be one."""
        found = [
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert found, f"no sample of {name} with {labels}"
        return sum(found)

    def by(self, name: str, label: str) -> Counter[str]:
        """The samples of a name by one of their labels; those that are 0 are left out."""
        found: Counter[str] = Counter()
        for sample in self.samples:
            if sample.name == name:
                found[sample.labels[label]] += int(sample.value)
        return +found


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def get(where: Path | int, path: str = "/metrics") -> str:
    """The text at a socket's path, or at a port of 127.0.0.1."""
    if isinstance(where, int):
        connection = http.client.HTTPConnection("127.0.0.1", where, timeout=30)
    else:
        connection = _UnixConnection(where)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 200
        return response.read().decode()
    finally:
        connection.close()


def scrape(where: Path | int) -> Scrape:
    return Scrape(get(where))
