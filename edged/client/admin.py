"""The administrator's client: what changes a running daemon, over the admin endpoint."""

from __future__ import annotations

from types import TracebackType

from edged import wire
from edged.client.sync import Client


class Admin:
    """A connection to a daemon's admin endpoint; its socket is for the service's account alone.

        with Admin("ipc:///run/edged/edged.admin") as admin:
            admin.reload()

    Every method returns when it is done, or raises the coded error of a failure, at the latest
    after `timeout_s`; what was begun then goes on.
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

    def load(self, name: str) -> None:
        """Bring a model to the device, and serve it if it was unloaded. It may be evicted later."""
        self._client._ask(wire.ModelLoadReply, wire.ModelLoad, name)

    def unload(self, name: str) -> None:
        """Serve a model no more, until it is loaded again; what was accepted is answered first."""
        self._client._ask(wire.ModelUnloadReply, wire.ModelUnload, name)

    def pin(self, name: str) -> None:
        """Bring a model to the device and never evict it."""
        self._client._ask(wire.ModelPinReply, wire.ModelPin, name)

    def unpin(self, name: str) -> None:
        """Let a model be evicted again."""
        self._client._ask(wire.ModelUnpinReply, wire.ModelUnpin, name)

    def reload(self) -> wire.ReloadReply:
        """Serve what the store holds now. If any of it fails, nothing changes."""
        return self._client._ask(wire.ReloadReply, wire.Reload)

    def residency(self) -> wire.ResidencyReply:
        """What is on the device, and what for."""
        return self._client._ask(wire.ResidencyReply, wire.Residency)
