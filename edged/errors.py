"""The exception tree of `edged`. Every error knows the code that goes over the wire.

    EdgedError               INTERNAL            a bug or a broken device; the default
    ├── InvalidArgument      INVALID_ARG         the input is wrong: say what, and how to mend it
    │   ├── ConfigError                          ... in a configuration; names the path of the key
    │   └── PlanError                            ... in a planner's instance; names the field
    ├── NotFound             NOT_FOUND           no such task, model, block or file
    ├── Unsupported          UNSUPPORTED         well formed, but this build or model cannot do it
    ├── Unavailable          UNAVAILABLE         not now (starting, draining, full): try again later
    ├── ResourceExhausted    RESOURCE_EXHAUSTED  over a published limit or the memory budget
    ├── DeadlineExceeded     DEADLINE_EXCEEDED   the time-out passed, or cannot be met any more
    ├── Cancelled            CANCELLED           the caller took the request back
    └── StoreError           INTERNAL            the store on disk is damaged or of another version
        └── StoreAway                            ... or is not there, or cannot be read, at present

A message is one line: what was wrong, then what to do about it.

A start that fails ends with `EdgedError.start_status`, which tells the service manager whether to
try again: 2 where only an edit of the configuration or of the store helps (InvalidArgument,
NotFound, Unsupported, StoreError), 1 where time may (all others, StoreAway among them).
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar


class Code(str, Enum):
    """Error codes of the wire protocol (docs/protocol.md)."""

    INVALID_ARG = "INVALID_ARG"
    NOT_FOUND = "NOT_FOUND"
    UNSUPPORTED = "UNSUPPORTED"
    UNAVAILABLE = "UNAVAILABLE"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    CANCELLED = "CANCELLED"
    INTERNAL = "INTERNAL"


class EdgedError(Exception):
    """Base of all errors; `retry_after_s` is set where trying again later can help."""

    code: Code = Code.INTERNAL
    start_status: ClassVar[int] = 1  # exit status of a start that fails with it

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class InvalidArgument(EdgedError):
    code = Code.INVALID_ARG
    start_status = 2


class ConfigError(InvalidArgument):
    pass


class PlanError(InvalidArgument):
    pass


class NotFound(EdgedError):
    code = Code.NOT_FOUND
    start_status = 2


class Unsupported(EdgedError):
    code = Code.UNSUPPORTED
    start_status = 2


class Unavailable(EdgedError):
    code = Code.UNAVAILABLE


class ResourceExhausted(EdgedError):
    code = Code.RESOURCE_EXHAUSTED


class DeadlineExceeded(EdgedError):
    code = Code.DEADLINE_EXCEEDED


class Cancelled(EdgedError):
    code = Code.CANCELLED


class StoreError(EdgedError):
    code = Code.INTERNAL
    start_status = 2


class StoreAway(StoreError):
    start_status = 1


_BY_CODE: dict[Code, type[EdgedError]] = {
    cls.code: cls
    for cls in (
        InvalidArgument,
        NotFound,
        Unsupported,
        Unavailable,
        ResourceExhausted,
        DeadlineExceeded,
        Cancelled,
        EdgedError,
    )
}


def from_code(code: str, message: str, *, retry_after_s: float | None = None) -> EdgedError:
    """The exception of a coded error on the wire; an unknown code becomes EdgedError."""
    try:
        cls = _BY_CODE[Code(code)]
    except ValueError:
        cls, message = EdgedError, f"{message} (unknown error code {code!r})"
    return cls(message, retry_after_s=retry_after_s)
