"""The administrator's client: changes a running daemon over its admin endpoint."""

from __future__ import annotations

from types import TracebackType

from edged import wire
from edged.client.questions import Inquiry, whole
from edged.client.sync import Client


class Admin:
    """A connection to a daemon's admin endpoint; its socket is for the service's account alone.

        with Admin("ipc:///run/edged/edged.admin") as admin:
            admin.reload()

    Every method returns when it is done, or raises the coded error of a failure, at the latest
    after `timeout_s`. What the daemon has begun by then goes on.
    """

    def __init__(
        self, endpoint: str = wire.DEFAULT_ADMIN_ENDPOINT, *, timeout_s: float = 300.0
    ) -> None:
        self._client = Client(endpoint, timeout_s=timeout_s, connect_timeout_s=min(5.0, timeout_s))

    def connect(self) -> Admin:
        """Raises Unavailable when no daemon answers."""
        self._client.connect()
        return self

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Admin:
        return self.connect()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def set_model(self, name: str, to: wire.Residence) -> None:
        """Make a model what `to` says.

        loaded    on the device now, and served if it was unloaded; it may be evicted later
        unloaded  served no more until it is loaded again; accepted requests are answered first
        pinned    on the device, and never evicted
        unpinned  it may be evicted again
        """
        header = wire.ModelSet(self._client._next_id(), name, to)
        self._client._ask(Inquiry(header, whole(wire.ModelSetReply)))

    def reload(self) -> wire.ReloadReply:
        """Serve what the store holds now. If any of it fails, nothing changes."""
        return self._client._ask(
            Inquiry(wire.Reload(self._client._next_id()), whole(wire.ReloadReply))
        )

    def residency(self) -> wire.ResidencyReply:
        """Which models and blocks are on the device."""
        return self._client._ask(
            Inquiry(wire.ResidencyQuery(self._client._next_id()), whole(wire.ResidencyReply))
        )
