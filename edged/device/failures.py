"""Whatever goes wrong in the worker, as an error that can go to the front."""

from __future__ import annotations

import errno
import logging

from edged.errors import EdgedError, ResourceExhausted, Unavailable

log = logging.getLogger("edged.device")

# Of the machine, not of what was asked: others may give it back.
_PASSING = {
    errno.ENOMEM: "memory",
    errno.ENOSPC: "room on the disk",
    errno.EDQUOT: "room on the disk",
    errno.EMFILE: "descriptors of this process",
    errno.ENFILE: "descriptors of this machine",
}


def typed(error: BaseException, what: str, **fields: object) -> EdgedError:
    """An error that can go to the front. What the machine lacks for the moment is Unavailable; one
    that is not ours is a bug and leaves a traceback. `fields`: for the log, as edged.logs.FIELDS.
    """
    if isinstance(error, EdgedError):
        return error
    lacks = "memory" if isinstance(error, MemoryError) else None
    if isinstance(error, OSError) and error.errno is not None:
        lacks = _PASSING.get(error.errno)
    if lacks is not None:
        log.error("%s: no %s is left", what, lacks, extra=fields)
        return Unavailable(f"{what}: no {lacks} is left; try again later, or make room")
    log.error("%s; this is a bug", what, exc_info=error, extra=fields)
    return EdgedError(f"{what}: {type(error).__name__}: {error}; this is a bug")


def passing(error: EdgedError) -> EdgedError:
    """As it is told of what has been possible before: memory that is wanting now may be there
    again later.
    """
    return Unavailable(str(error)) if isinstance(error, ResourceExhausted) else error
