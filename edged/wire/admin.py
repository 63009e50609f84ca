"""The vocabulary of the admin endpoint: a message set of its own, in the same frames as the wire's.

Names are those of the Open Inference Protocol's model repository extension where it has one.
docs/protocol.md says the same for people.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeAlias

from edged.typeinfo import describe
from edged.wire.messages import (
    REPLIES,
    REQUESTS,
    Id,
    Name,
    Op,
    OrdinaryReply,
    OrdinaryRequest,
    ReplyBase,
    RequestBase,
)

DEFAULT_ADMIN_ENDPOINT = "ipc:///run/edged/edged.admin"


class AdminOp(IntEnum):
    """The byte after the magic."""

    REPOSITORY_MODEL_LOAD = 0x40
    REPOSITORY_MODEL_UNLOAD = 0x41
    MODEL_PIN = 0x42
    MODEL_UNPIN = 0x43
    REPOSITORY_RELOAD = 0x44
    RESIDENCY = 0x45


class ModelLoad(RequestBase, frozen=True):
    """Bring a model to the device now, and serve it from now on. It may be evicted later."""

    id: Id
    name: Name


class ModelUnload(RequestBase, frozen=True):
    """Serve a model no more, until it is loaded again; what was accepted is answered."""

    id: Id
    name: Name


class ModelPin(RequestBase, frozen=True):
    """Bring a model to the device and never evict it."""

    id: Id
    name: Name


class ModelUnpin(RequestBase, frozen=True):
    id: Id
    name: Name


class Reload(RequestBase, frozen=True):
    """Read the store again and serve what it holds now; all of it, or nothing changes."""

    id: Id


class Residency(RequestBase, frozen=True):
    """What is on the device, and what for."""

    id: Id


class ModelLoadReply(ReplyBase, frozen=True):
    """It is done, as the other three. `name`: of the model."""

    id: str
    name: str


class ModelUnloadReply(ReplyBase, frozen=True):
    id: str
    name: str


class ModelPinReply(ReplyBase, frozen=True):
    id: str
    name: str


class ModelUnpinReply(ReplyBase, frozen=True):
    id: str
    name: str


class ReloadReply(ReplyBase, frozen=True):
    """Names of models, sorted."""

    id: str
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class ModelResidency(ReplyBase, frozen=True):
    """One version of one model. `blocks_resident` of `blocks` are on the device."""

    name: str
    version: str
    state: str  # SERVING, UNLOADED, COMING, GOING
    blocks: int
    blocks_resident: int
    total_bytes: int
    resident_bytes: int
    pinned: bool = False


class ResidencyReply(ReplyBase, frozen=True):
    """Bytes of a block that several models share count in each of them."""

    id: str
    models: tuple[ModelResidency, ...] = ()
    resident_bytes: int = 0  # of all blocks, each once


RequestHeader: TypeAlias = (
    OrdinaryRequest | ModelLoad | ModelUnload | ModelPin | ModelUnpin | Reload | Residency
)
ReplyHeader: TypeAlias = (
    OrdinaryReply
    | ModelLoadReply
    | ModelUnloadReply
    | ModelPinReply
    | ModelUnpinReply
    | ReloadReply
    | ResidencyReply
)

# What an endpoint answers, by operation. The admin endpoint answers questions, too.
CLIENT_REQUESTS: dict[int, type[RequestHeader]] = {**REQUESTS}
ADMIN_REQUESTS: dict[int, type[RequestHeader]] = {
    AdminOp.REPOSITORY_MODEL_LOAD: ModelLoad,
    AdminOp.REPOSITORY_MODEL_UNLOAD: ModelUnload,
    AdminOp.MODEL_PIN: ModelPin,
    AdminOp.MODEL_UNPIN: ModelUnpin,
    AdminOp.REPOSITORY_RELOAD: Reload,
    AdminOp.RESIDENCY: Residency,
    **{
        op: REQUESTS[op]
        for op in REQUESTS
        if op not in (Op.INFER, Op.CANCEL, Op.ANNOUNCE, Op.CHUNK, Op.STATISTICS)
    },
}

ALL_REPLIES: dict[int, type[ReplyHeader]] = {
    **REPLIES,
    AdminOp.REPOSITORY_MODEL_LOAD: ModelLoadReply,
    AdminOp.REPOSITORY_MODEL_UNLOAD: ModelUnloadReply,
    AdminOp.MODEL_PIN: ModelPinReply,
    AdminOp.MODEL_UNPIN: ModelUnpinReply,
    AdminOp.REPOSITORY_RELOAD: ReloadReply,
    AdminOp.RESIDENCY: ResidencyReply,
}


describe(*ADMIN_REQUESTS.values(), *ALL_REPLIES.values())
