"""A process that scrapes a daemon's metrics each second, as Prometheus does, until it is ended."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

EACH_S = 1.0
_REQUEST = b"GET /metrics HTTP/1.1\r\nHost: edged\r\nAccept-Encoding: gzip\r\n\r\n"


@contextlib.contextmanager
def scraping(path: Path) -> Iterator[None]:
    """Scrape what is served at the socket `path` meanwhile."""
    scraper = subprocess.Popen([sys.executable, "-m", "tools.bench.scraper", str(path)])
    try:
        yield
        if scraper.poll() is not None:
            raise RuntimeError(f"the scraper has ended with status {scraper.returncode}")
    finally:
        scraper.kill()
        scraper.wait()


def main() -> None:
    while True:
        began_s = time.monotonic()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(sys.argv[1])
            connection.sendall(_REQUEST)
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        if b" 200 " not in answer[:20]:
            sys.exit(f"no metrics: {answer[:100]!r}")
        time.sleep(max(0.0, EACH_S - (time.monotonic() - began_s)))


if __name__ == "__main__":
    main()
