"""What the headers of all messages are made of: names, shapes, bounds, and the published limits.

Names are those of the Open Inference Protocol where it has one. docs/protocol.md is the same for
people: a change here is a change there.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from edged.manifest import MAX_TENSOR_NAME, NAME
from edged.typeinfo import describe

MAX_ITEMS = 256  # items that one array or map may have in the header of a request


class Limits(msgspec.Struct, frozen=True):
    """What one request may hold, published in the server metadata.

    The daemon also sets ZMQ_MAXMSGSIZE to `max_message_bytes`: a frame above it closes the
    connection without an answer, so clients check before they send.
    """

    max_message_bytes: int = 64 * 2**20  # all frames of a message together
    max_header_bytes: int = 65_536
    max_frames: int = 256
    max_rows: int = 64  # extent of axis 0
    max_pixels: int = 2**25  # height times width of one image; 8K video fits
    max_inputs: int = 16
    max_outputs: int = 64
    max_classification: int = 100
    max_priority: int = 100
    max_timeout_us: int = 3_600_000_000
    max_in_flight: int = 64  # unanswered INFER requests of one client
    max_shared_bytes: int = 256 * 2**20  # memory that one client shares with the daemon


Id: TypeAlias = Annotated[str, Meta(pattern=r"^[!-~]{1,128}\Z")]
"""What a client calls a request or a stream: 1 to 128 visible ASCII characters."""

Name: TypeAlias = Annotated[str, Meta(pattern=rf"^{NAME}\Z")]
"""The name of a task or a model, as in a manifest."""

TensorName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_TENSOR_NAME)]

Extent: TypeAlias = Annotated[int, Meta(ge=1, le=2**31 - 1)]

Shape: TypeAlias = Annotated[tuple[Extent, ...], Meta(min_length=1, max_length=8)]


class RequestBase(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The header of a request refuses unknown fields, so that a misspelt one cannot be ignored.

    A field at its default need not be sent.
    """


class ReplyBase(msgspec.Struct, frozen=True):
    """The header of a reply names every field. Who reads it ignores fields that it does not know,
    so that an older client can talk to a newer daemon.
    """


describe(Limits)
