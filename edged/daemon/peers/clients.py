"""The clients that are connected: what they wait for, and whether they still live."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

FORGET_AFTER_S = 60.0  # an idle client that says nothing for this long leaves the table


@dataclass(slots=True, eq=False)
class ConnectedClient:
    """One DEALER socket of a client. The scheduler knows it by its `number`."""

    number: int
    routing_id: bytes
    seen_at: float
    promised_s: float | None = None  # the longest silence that it promised while it waits
    in_flight: dict[str, int] = field(default_factory=dict)  # its request ids, each with its `rid`
    is_gone: bool = False  # nobody reads its replies any more


class Clients:
    """Owns the table. Numbers are never used again."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._by_routing_id: dict[bytes, ConnectedClient] = {}
        self._last_number = 0
        self.find = self._by_routing_id.get  # the client with a routing id, if it is in the table

    def active(self, now: float) -> int:
        """The number of those that wait for answers, or were heard within the time-out."""
        since = now - self._timeout_s
        return sum(1 for c in self._by_routing_id.values() if c.in_flight or c.seen_at >= since)

    def enter(self, routing_id: bytes, now: float) -> ConnectedClient:
        """A client that was not in the table, and has just sent something."""
        self._last_number += 1
        client = ConnectedClient(self._last_number, routing_id, now)
        self._by_routing_id[routing_id] = client
        return client

    def knows(self, routing_id: bytes) -> bool:
        """Whether a client of this name is in the table."""
        return routing_id in self._by_routing_id

    def forget(self, client: ConnectedClient) -> None:
        if self._by_routing_id.get(client.routing_id) is client:
            del self._by_routing_id[client.routing_id]

    def sweep(self, now: float) -> Iterator[ConnectedClient]:
        """Forget clients that have been idle for long. Yields those that broke their promise to be
        heard while they wait for answers.
        """
        for client in list(self._by_routing_id.values()):
            silence_s = now - client.seen_at
            if client.in_flight:
                promised_s = client.promised_s
                if promised_s is not None and silence_s > max(self._timeout_s, 3 * promised_s):
                    self.forget(client)
                    yield client
            elif silence_s > FORGET_AFTER_S:
                self.forget(client)
