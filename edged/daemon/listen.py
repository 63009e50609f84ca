"""The daemon's sockets for clients and administrators, with all that guards them.

Brings their messages to the front and carries the front's messages away. Knows no worker.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
from collections.abc import Callable, Container

import zmq

from edged import wire
from edged.config import Config
from edged.daemon.endpoint import Endpoint
from edged.daemon.front import Front
from edged.daemon.peers.connections import PeerConnection
from edged.daemon.peers.door import Door, allow_descriptors
from edged.daemon.peers.guard import Guard
from edged.daemon.peers.listening import listen
from edged.sharedmem.owner import SharedRegions

log = logging.getLogger("edged")

REFUSALS = 1000  # refusals that a client may leave unread, beside the answers that it is owed
HANDSHAKE_S = 5.0  # a connection that does not speak ZeroMQ's protocol by then is closed
LINGER_S = 2.0  # the time in which the last replies can leave


class Listener:
    """Owns the sockets from `open` to `close`. `poller` tells when they have something."""

    def __init__(self, config: Config, poller: select.poll) -> None:
        self._config = config
        self._poller = poller
        self._context = zmq.Context()
        self._locks: list[int] = []  # locks of ipc sockets; held until the end
        limits = config.published_limits()
        self.clients = Endpoint(self._client_socket, limits)
        self.admins = Endpoint(self._admin_socket, limits)
        self.regions = SharedRegions(config.server.socket_permissions)
        self._door = Door(allow_descriptors())
        self.guard = Guard((self.clients, self.admins), self._door)

    def open(self) -> None:
        """Let clients and administrators come. Raises Unavailable."""
        server = self._config.server
        for address in server.parsed_endpoints:
            self._locks += listen(self._bind_clients, address, server.socket_permissions)
        self._watch(self.clients)
        self._poller.register(self._door.descriptor, select.POLLIN)
        if server.shared_memory:
            self.regions.open(server.endpoints)
            if self.regions.descriptor is not None:
                self._poller.register(self.regions.descriptor, select.POLLIN)
        if server.parsed_admin is not None:  # where only the account of the daemon may connect
            self._locks += listen(self._bind_admins, server.parsed_admin, 0o600, "administration")
            self._watch(self.admins)

    def close(self, *, at_once: bool) -> None:
        """End all connections; unless `at_once`, the last replies may leave first."""
        self._door.close()
        for endpoint in (self.clients, self.admins):
            endpoint.close(linger=0 if at_once else None)

    def release(self) -> None:
        """Wait for the last replies to leave, and let another daemon listen."""
        self.regions.close()
        self._context.term()
        for lock in self._locks:
            os.close(lock)

    # --- what the front sends -------------------------------------------------------------------

    def to_client(self, routing_id: bytes, frames: wire.Frames) -> bool:
        try:
            self.clients.send(routing_id, frames)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            return False
        return True

    def to_admin(self, routing_id: bytes, frames: wire.Frames) -> None:
        with contextlib.suppress(zmq.Again):
            self.admins.send(routing_id, frames)

    # --- what comes -----------------------------------------------------------------------------

    @property
    def is_unsure(self) -> bool:
        """Whether there may be messages that the descriptors do not tell of."""
        return self.clients.unsure or self.admins.unsure

    def on_ready(
        self, ready: Container[int], front: Front, flush: Callable[[], None], now: float
    ) -> None:
        """Take in who has connected or left, and bring messages to the front; `flush` after each.

        ready  descriptors, as polled
        """
        if (
            self.clients.connections.descriptor in ready
            or self.admins.connections.descriptor in ready
        ):
            self.guard.update(now)
        if self._door.descriptor in ready:
            self._door.let_in()
        if self.regions.descriptor in ready:
            self.regions.hand_out()
        for endpoint, take in ((self.clients, front.on_request), (self.admins, front.on_admin)):
            if endpoint.unsure or endpoint.descriptor in ready:
                for routing_id, frames in endpoint.messages(now):
                    take(routing_id, frames, now)
                    flush()
                if endpoint.flooder is not None:
                    self._renew(endpoint, endpoint.flooder, now)

    def _renew(self, endpoint: Endpoint, flooder: PeerConnection, now: float) -> None:
        """Let ZeroMQ drop a message that is too long to be read, with all that it holds."""
        log.warning("a client sends messages of too many frames: all have to connect again")
        self.guard.caught(flooder, now)
        for descriptor in (endpoint.descriptor, endpoint.connections.descriptor):
            self._poller.unregister(descriptor)
        endpoint.renew()
        self._door.renewed(endpoint)
        self._watch(endpoint)

    # --- sockets --------------------------------------------------------------------------------

    def _client_socket(self) -> zmq.Socket[bytes]:
        limits = self._config.published_limits()
        clients = self._router(limits.max_message_bytes)
        clients.setsockopt(zmq.ROUTER_MANDATORY, 1)  # an answer that nobody can get is an error
        clients.setsockopt(zmq.SNDHWM, limits.max_in_flight + REFUSALS)
        clients.setsockopt(zmq.RCVHWM, limits.max_in_flight)
        clients.setsockopt(zmq.TCP_KEEPALIVE, 1)  # else who vanished keeps a descriptor for ever
        clients.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 60)
        return clients

    def _admin_socket(self) -> zmq.Socket[bytes]:
        return self._router(self._config.limits.max_header_bytes)

    def _router(self, max_frame_bytes: int) -> zmq.Socket[bytes]:
        router = self._context.socket(zmq.ROUTER)
        router.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a client that reconnects keeps its name
        router.setsockopt(zmq.MAXMSGSIZE, max_frame_bytes)
        router.setsockopt(zmq.LINGER, round(LINGER_S * 1e3))
        router.setsockopt(zmq.HANDSHAKE_IVL, round(HANDSHAKE_S * 1e3))
        return router

    def _watch(self, endpoint: Endpoint) -> None:
        for descriptor in (endpoint.descriptor, endpoint.connections.descriptor):
            self._poller.register(descriptor, select.POLLIN)

    def _bind_clients(self, address: str, mode: int) -> None:
        self._door.bind(self.clients, address, mode)

    def _bind_admins(self, address: str, mode: int) -> None:
        self._door.bind(self.admins, address, mode)
