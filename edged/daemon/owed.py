"""What one worker owes the front: each order gets the reports that edged.link.messages says.

A report of something that was not ordered, or that lacks something that was, would leave the
scheduler with figures that are not true. So it is refused before anybody acts on it, and whoever
sent it is not to be trusted any more. Knows no scheduler and no sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, TypeVar

import msgpack
import msgspec

from edged.core.events import Member
from edged.daemon.pending import Pending
from edged.errors import EdgedError
from edged.link import messages as link
from edged.manifest import Manifest
from edged.wire import ITEM_BYTES, Buffer

T = TypeVar("T")


class Untrusted(EdgedError):
    """A report that cannot be read, or that is not owed. Its worker has to go.

    `batch`: the one that it is about, as far as is known.
    """

    def __init__(self, message: str, batch: int | None = None) -> None:
        super().__init__(message)
        self.batch = batch


def read(frame: bytes | memoryview) -> link.FromWorker:
    """The report in the first frame of a message. Raises Untrusted."""
    try:
        return link.decode_from_worker(frame)
    except (msgspec.MsgspecError, ValueError, RecursionError, MemoryError) as error:
        text = f"a report of the device worker cannot be read: {error}"
        raise Untrusted(text, _batch_in(frame)) from error


def _batch_in(frame: bytes | memoryview) -> int | None:
    """The batch that an unreadable report begins with, if it does."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(frame)
    try:
        unpacker.read_array_header()
        kind, batch = unpacker.unpack(), unpacker.unpack()
    except Exception:  # not even that can be read, which may fail in any way
        return None
    is_of_batch = kind in (link.BatchDone.__name__, link.BatchFailed.__name__)
    return batch if is_of_batch and isinstance(batch, int) else None


class Owed:
    """Of one worker, from its start: it is told the orders, and `settle` takes the reports."""

    def __init__(self) -> None:
        self._is_up = False
        self._prepares: set[int] = set()  # that are not light: each gets one answer
        self._runs: dict[int, tuple[Member, ...]] = {}
        self._loads: set[str] = set()
        self._unloads: set[str] = set()
        self._defines = 0
        self._measures = 0
        self.calibrating: str | None = None  # model

    # --- orders ---------------------------------------------------------------------------------

    def prepare(self, rid: int) -> None:
        """One that is not light."""
        self._prepares.add(rid)

    def run(self, batch: int, members: tuple[Member, ...]) -> None:
        self._runs[batch] = members

    def load(self, block: str) -> None:
        self._loads.add(block)

    def unload(self, block: str) -> None:
        self._unloads.add(block)

    def define(self) -> None:
        self._defines += 1

    def measure(self) -> None:
        self._measures += 1

    def calibrate(self, model: str) -> None:
        self.calibrating = model

    def members(self, batch: int | None) -> tuple[int, ...] | None:
        """The requests of a batch that was ordered and has not been reported."""
        members = None if batch is None else self._runs.get(batch)
        return None if members is None else tuple(member.rid for member in members)

    # --- reports --------------------------------------------------------------------------------

    def settle(
        self,
        message: link.FromWorker,
        frames: Sequence[Buffer],
        pending: Mapping[int, Pending],
        models: Mapping[str, Manifest],
    ) -> None:
        """Take a report for what it settles. Raises Untrusted, and nobody has acted on it then.

        `pending`: the requests that have no answer yet; `models`: all versions, by key.
        """
        if isinstance(message, link.BatchDone):
            fits = self._batch_done(message, frames, pending, models)
        elif isinstance(message, link.Prepared):
            fits = message.rid in self._prepares and message.prepare_us >= 0 and not frames
            self._prepares.discard(message.rid)
        else:
            fits = not frames and _SETTLE[type(message)](self, message, pending)
        if not fits:
            raise Untrusted(
                f"the device worker has reported a {type(message).__name__} that does not fit "
                "what it was ordered to do; this is a bug",
                getattr(message, "batch", None),
            )

    def _ready(self, message: link.Ready, pending: Mapping[int, Pending]) -> bool:
        was_up, self._is_up = self._is_up, True
        return not was_up and message.lanes > 0 and message.row_bytes >= 0

    def _failed(self, message: link.Failed, pending: Mapping[int, Pending]) -> bool:
        return True

    def _prepare_failed(self, message: link.PrepareFailed, pending: Mapping[int, Pending]) -> bool:
        """A light one may have been answered before this is heard."""
        if _take(self._prepares, message.rid):
            return True
        request = pending.get(message.rid)
        if request is None:
            return True
        fits = request.light and request.is_ordered and not request.is_left_out
        request.is_left_out = request.is_left_out or fits
        return fits

    def _batch_failed(self, message: link.BatchFailed, pending: Mapping[int, Pending]) -> bool:
        return self._runs.pop(message.batch, None) is not None

    def _loaded(self, message: link.Loaded, pending: Mapping[int, Pending]) -> bool:
        measured = min(message.bytes_used, message.load_us) >= 0
        return _take(self._loads, message.block) and measured

    def _load_failed(self, message: link.LoadFailed, pending: Mapping[int, Pending]) -> bool:
        return _take(self._loads, message.block)

    def _unloaded(self, message: link.Unloaded, pending: Mapping[int, Pending]) -> bool:
        return _take(self._unloads, message.block)

    def _defined(
        self, message: link.Defined | link.DefineFailed, pending: Mapping[int, Pending]
    ) -> bool:
        self._defines -= 1
        return self._defines >= 0

    def _memory(self, message: link.Memory, pending: Mapping[int, Pending]) -> bool:
        self._measures -= 1
        measured = min(message.pss_bytes, message.private_bytes) >= 0
        return self._measures >= 0 and measured

    def _calibrated(self, message: link.Calibrated, pending: Mapping[int, Pending]) -> bool:
        was, self.calibrating = self.calibrating, None
        fits = all(one.rows > 0 and one.infer_us > 0 for one in message.warm_ups)
        return was == message.model and fits and message.row_bytes >= 0

    def _pong(self, message: link.Pong, pending: Mapping[int, Pending]) -> bool:
        return True

    def _batch_done(
        self,
        message: link.BatchDone,
        frames: Sequence[Buffer],
        pending: Mapping[int, Pending],
        models: Mapping[str, Manifest],
    ) -> bool:
        """Whether there is an answer for each model of each member that is owed one, and each
        answer is whole."""
        members = self._runs.get(message.batch)
        if members is None or message.infer_us < 0 or message.output_us < 0:
            return False
        wanted = {(m.rid, model): pending.get(m.rid) for m in members for model in m.models}
        given = iter(frames)
        for answer in message.answers:
            key = answer.rid, answer.model
            if key not in wanted:
                return False  # nobody asked for it, or it was given before
            request = wanted.pop(key)
            rows = None
            if request is not None:
                rows = request.resolved.rows
                if len(answer.outputs) != len(models[answer.model].outputs):
                    return False
            for output in answer.outputs:
                if not _is_whole(output, rows, given):
                    return False
        for request in wanted.values():
            if request is not None and not request.is_left_out:
                return False
        if next(given, None) is not None:
            return False
        del self._runs[message.batch]
        return True


def _is_whole(output: link.Output, rows: int | None, frames: Iterator[Buffer]) -> bool:
    """Whether an output says something of each row; `rows` None: of any number."""
    shape = output.shape
    if not shape or (rows is not None and shape[0] != rows):
        return False
    if output.classes is not None:
        return len(output.classes) == shape[0]
    frame = next(frames, None)
    return frame is not None and len(frame) == prod(shape) * ITEM_BYTES[output.datatype]


def _take(owed: set[T], what: T) -> bool:
    """Whether it is owed; it is not any more."""
    if what not in owed:
        return False
    owed.remove(what)
    return True


_SETTLE: dict[type, Callable[[Owed, Any, Mapping[int, Pending]], bool]] = {
    link.Ready: Owed._ready,
    link.Failed: Owed._failed,
    link.PrepareFailed: Owed._prepare_failed,
    link.BatchFailed: Owed._batch_failed,
    link.Loaded: Owed._loaded,
    link.LoadFailed: Owed._load_failed,
    link.Unloaded: Owed._unloaded,
    link.Defined: Owed._defined,
    link.DefineFailed: Owed._defined,
    link.Memory: Owed._memory,
    link.Calibrated: Owed._calibrated,
    link.Pong: Owed._pong,
}
