"""Answers that need no device: whether the daemon is ready, what it serves, its limits. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from edged import __version__, wire
from edged.daemon.models.catalog import Catalog
from edged.errors import StoreError

EXTENSIONS = (
    "zmq_binary_frames", "classification", "schedule_policy", "statistics", "cancel", wire.GRANTS,
)  # fmt: skip

# The state of models by the state of the daemon; LOADING in any other state.
_MODEL_STATES = {"READY": "READY", "DRAINING": "UNAVAILABLE"}


@dataclass(frozen=True, slots=True)
class Situation:
    """All that the answers depend on."""

    catalog: Catalog
    limits: wire.Limits
    state: str  # STARTING, READY, RECOVERING, DRAINING
    reason: str  # why it is not ready, for people; empty if it is
    idle: Callable[[], Mapping[str, str]] = dict  # models that are not served now, and why
    shares_memory: bool = False  # clients on this host can share memory with the daemon
    pinned: Collection[str] = ()  # names of the models that never leave the device

    @property
    def ready(self) -> bool:
        return self.state == "READY"


def reply(header: wire.RequestHeader, situation: Situation) -> wire.ReplyHeader:
    """The reply to any request of `INQUIRIES`. Raises NotFound for an unknown task or model."""
    return INQUIRIES[type(header)](header, situation)


def _ping(header: wire.Ping, situation: Situation) -> wire.PingReply:
    return wire.PingReply(header.id)


def _server_live(header: wire.ServerLive, situation: Situation) -> wire.LiveReply:
    return wire.LiveReply(header.id, True)


def _server_ready(header: wire.ServerReady, situation: Situation) -> wire.ReadyReply:
    return wire.ReadyReply(header.id, situation.ready, situation.state, situation.reason)


def _server_metadata(header: wire.ServerMetadata, situation: Situation) -> wire.ServerMetadataReply:
    extensions = (*EXTENSIONS, wire.SHARED_MEMORY) if situation.shares_memory else EXTENSIONS
    return wire.ServerMetadataReply(header.id, "edged", __version__, extensions, situation.limits)


def _model_ready(header: wire.ModelReady, situation: Situation) -> wire.ModelReadyReply:
    try:
        name = situation.catalog.find(header.name).name
    except StoreError as error:
        return wire.ModelReadyReply(header.id, header.name, False, str(error))
    idle = situation.idle()
    if name in idle:
        return wire.ModelReadyReply(header.id, name, False, idle[name])
    return wire.ModelReadyReply(header.id, name, situation.ready, situation.reason)


def _model_metadata(header: wire.ModelMetadata, situation: Situation) -> wire.ModelMetadataReply:
    return situation.catalog.metadata(header.name, header.id)


def _repository_index(
    header: wire.RepositoryIndex, situation: Situation
) -> wire.RepositoryIndexReply:
    if header.ready and not situation.ready:
        return wire.RepositoryIndexReply(header.id, ())
    state = _MODEL_STATES.get(situation.state, "LOADING")
    models = situation.catalog.index(state, situation.reason, situation.idle(), situation.pinned)
    wanted = tuple(model for model in models if not header.ready or model.state == "READY")
    return wire.RepositoryIndexReply(header.id, wanted)


INQUIRIES: dict[type, Callable[[Any, Situation], wire.ReplyHeader]] = {
    wire.Ping: _ping,
    wire.ServerLive: _server_live,
    wire.ServerReady: _server_ready,
    wire.ServerMetadata: _server_metadata,
    wire.ModelReady: _model_ready,
    wire.ModelMetadata: _model_metadata,
    wire.RepositoryIndex: _repository_index,
}
