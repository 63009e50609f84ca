"""The operations, what each endpoint answers, and the header of each request and reply. Pure."""

from __future__ import annotations

from enum import IntEnum
from typing import TypeAlias

from edged.wire import admin, replies, requests

GRANTS, SHARED_MEMORY = "grants", "shared_memory"  # extensions that clients look for
DEFAULT_ENDPOINT = "ipc:///run/edged/edged.sock"
DEFAULT_ADMIN_ENDPOINT = "ipc:///run/edged/edged.admin"

RequestHeader: TypeAlias = requests.OrdinaryRequest | admin.AdminRequest
ReplyHeader: TypeAlias = replies.OrdinaryReply | admin.AdminReply


class Op(IntEnum):
    """The byte after the magic. 0x40 to 0x5f are the admin endpoint's: `AdminOp`."""

    INFER = 0x01
    CANCEL = 0x02
    PING = 0x03
    ANNOUNCE = 0x04
    CHUNK = 0x05  # a part of the payload of an INFER
    SHARE = 0x06
    SERVER_LIVE = 0x10
    SERVER_READY = 0x11
    SERVER_METADATA = 0x12
    MODEL_READY = 0x20
    MODEL_METADATA = 0x21
    REPOSITORY_INDEX = 0x22
    STATISTICS = 0x23
    ERROR = 0x7F


class AdminOp(IntEnum):
    """The byte after the magic, on the admin endpoint."""

    REPOSITORY_RELOAD = 0x44
    RESIDENCY = 0x45
    MODEL_SET = 0x46


# Operations of earlier versions, which MODEL_SET has replaced. Their numbers are not used again.
WITHDRAWN = {
    0x40: "REPOSITORY_MODEL_LOAD",
    0x41: "REPOSITORY_MODEL_UNLOAD",
    0x42: "MODEL_PIN",
    0x43: "MODEL_UNPIN",
}

# The requests that the ordinary endpoint answers.
REQUESTS: dict[int, type[RequestHeader]] = {
    Op.INFER: requests.Infer,
    Op.CANCEL: requests.Cancel,
    Op.PING: requests.Ping,
    Op.ANNOUNCE: requests.Announce,
    Op.CHUNK: requests.Chunk,
    Op.SHARE: requests.Share,
    Op.SERVER_LIVE: requests.ServerLive,
    Op.SERVER_READY: requests.ServerReady,
    Op.SERVER_METADATA: requests.ServerMetadata,
    Op.MODEL_READY: requests.ModelReady,
    Op.MODEL_METADATA: requests.ModelMetadata,
    Op.REPOSITORY_INDEX: requests.RepositoryIndex,
    Op.STATISTICS: requests.StatisticsQuery,
}

# The requests that the admin endpoint answers: its own, and the questions that anybody may ask.
ADMIN_REQUESTS: dict[int, type[RequestHeader]] = {
    AdminOp.REPOSITORY_RELOAD: admin.Reload,
    AdminOp.RESIDENCY: admin.ResidencyQuery,
    AdminOp.MODEL_SET: admin.ModelSet,
    **{
        op: header
        for op, header in REQUESTS.items()
        if op not in (Op.INFER, Op.CANCEL, Op.ANNOUNCE, Op.CHUNK, Op.SHARE, Op.STATISTICS)
    },
}

# The replies of both endpoints.
REPLIES: dict[int, type[ReplyHeader]] = {
    Op.INFER: replies.InferReply,
    Op.CANCEL: replies.CancelReply,
    Op.PING: replies.PingReply,
    Op.ANNOUNCE: replies.GrantReply,
    Op.CHUNK: replies.ChunkReply,
    Op.SHARE: replies.ShareReply,
    Op.SERVER_LIVE: replies.LiveReply,
    Op.SERVER_READY: replies.ReadyReply,
    Op.SERVER_METADATA: replies.ServerMetadataReply,
    Op.MODEL_READY: replies.ModelReadyReply,
    Op.MODEL_METADATA: replies.ModelMetadataReply,
    Op.REPOSITORY_INDEX: replies.RepositoryIndexReply,
    Op.STATISTICS: replies.StatisticsReply,
    AdminOp.REPOSITORY_RELOAD: admin.ReloadReply,
    AdminOp.RESIDENCY: admin.ResidencyReply,
    AdminOp.MODEL_SET: admin.ModelSetReply,
    Op.ERROR: replies.ErrorReply,
}


def why_unsupported(number: int) -> str:
    """Why an endpoint does not answer the operation with this number."""
    if number in WITHDRAWN:
        return (
            f"operation 0x{number:02x}, {WITHDRAWN[number]}, was replaced by "
            f"0x{AdminOp.MODEL_SET:02x}, {AdminOp.MODEL_SET.name}: use an edged command or client "
            "of the daemon's version"
        )
    if number in ADMIN_REQUESTS and number not in REQUESTS:
        return f"operation 0x{number:02x} is for the admin endpoint (server.admin) only"
    if number in REQUESTS:
        return (
            f"operation 0x{number:02x} is not for the admin endpoint: connect to server.endpoints"
        )
    return f"operation 0x{number:02x} is not known: see docs/protocol.md"
