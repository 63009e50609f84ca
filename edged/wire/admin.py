"""Headers of the admin endpoint: a message set of its own, in the same frames. Values only.

docs/protocol.md says the same for people.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from edged.typeinfo import describe
from edged.wire.base import Id, Name, ReplyBase, RequestBase

Residence: TypeAlias = Literal["loaded", "unloaded", "pinned", "unpinned"]
"""What an administrator can make of a model.

loaded     on the device now, and served; it may be evicted later
unloaded   served no more until it is loaded again; accepted requests are answered first
pinned     on the device, and never evicted
unpinned   it may be evicted again
"""


class ModelSet(RequestBase, frozen=True):
    """Asks the daemon to make the model `name` what `to` says."""

    id: Id
    name: Name
    to: Residence


class Reload(RequestBase, frozen=True):
    """Asks the daemon to read the store again and serve all that it holds. On failure nothing
    changes.
    """

    id: Id


class ResidencyQuery(RequestBase, frozen=True):
    """Asks which blocks are on the device, and for which models."""

    id: Id


class ModelSetReply(ReplyBase, frozen=True):
    """The model `name` is now what `to` says."""

    id: str
    name: str
    to: str


class ReloadReply(ReplyBase, frozen=True):
    """Names of models, sorted."""

    id: str
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class ModelResidency(ReplyBase, frozen=True):
    """One version of one model. `blocks_resident` of its `blocks` are on the device."""

    name: str
    version: str
    state: str  # SERVING, UNLOADED, COMING, GOING
    blocks: int
    blocks_resident: int
    total_bytes: int
    resident_bytes: int
    pinned: bool = False


class ResidencyReply(ReplyBase, frozen=True):
    """What several models share counts for each model, but once in `resident_bytes`."""

    id: str
    models: tuple[ModelResidency, ...] = ()
    resident_bytes: int = 0


AdminRequest: TypeAlias = ModelSet | Reload | ResidencyQuery
AdminReply: TypeAlias = ModelSetReply | ReloadReply | ResidencyReply


describe(*get_args(AdminRequest), *get_args(AdminReply))
