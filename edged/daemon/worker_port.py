"""The front's side of the link: the scheduler's orders to the worker, and the worker's reports.

A report is checked before anybody acts on it: by `read`, whether its figures can be true, and by
`WorkerPort.take`, whether it was ordered and lacks nothing. Else it would leave the scheduler with
figures that are not true: it raises Untrusted, and whoever sent it has to go. Knows no sockets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, Protocol

import msgpack
import msgspec

from edged import wire
from edged.config import Config
from edged.core.events import (
    BatchFailed,
    BlockLoaded,
    BlockLoadFailed,
    BlockUnloaded,
    Calibrate,
    Discard,
    Load,
    Prepare,
    Prepared,
    PrepareFailed,
    Run,
    Unload,
)
from edged.core.scheduler import Scheduler
from edged.daemon.outstanding import Outstanding, Preparation
from edged.daemon.pending import PendingRequest
from edged.errors import EdgedError
from edged.link import messages as link
from edged.manifest import Manifest

log = logging.getLogger("edged")


class WorkerOutlet(Protocol):
    """Where messages to the worker go."""

    def to_worker(self, frames: Sequence[wire.Buffer], *, soon: bool = True) -> None:
        """Never blocks, and keeps the order. Without `soon` it leaves with the next message."""


class Untrusted(EdgedError):
    """A report that cannot be read, or that is not owed. Its worker has to go.

    `batch`: the batch that it is about, as far as is known.
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
    """The batch that an unreadable report is about, if it begins with that."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(frame)
    try:
        unpacker.read_array_header()
        kind, batch = unpacker.unpack(), None
        if kind == link.BatchOutputs.__name__:
            unpacker.read_array_header()
            _, batch = unpacker.unpack(), unpacker.unpack()
        elif kind == BatchFailed.__struct_config__.tag:
            batch = unpacker.unpack()
    except Exception:  # not even that can be read, which may fail in any way
        return None
    return batch if isinstance(batch, int) else None


class WorkerPort:
    """Talks to one worker after the other. `ready` is what the present one has said of itself."""

    def __init__(
        self,
        config: Config,
        outlet: WorkerOutlet,
        scheduler: Scheduler,
        requests: Mapping[int, PendingRequest],
        models: Mapping[str, Manifest],
    ) -> None:
        """requests  those that have no answer yet, by `rid`
        models    all versions of models, by key
        """
        self._outlet = outlet
        self._scheduler = scheduler
        self._requests = requests
        self._models = models
        self.outstanding = Outstanding(
            config.device.start_timeout_s, config.device.hang_timeout_s, scheduler.expected_s
        )
        self.ready: link.Ready | None = None
        self.building: link.Building | None = None  # how far the present one was when it told
        self.lanes_prepare = False  # the lanes decode small images themselves
        self.is_emulated = False  # nothing is computed
        # Carries out each order of the scheduler.
        self.orders: dict[type, Callable[[Any, float], None]] = {
            Prepare: self._prepare,
            Run: self._run,
            Load: self._load,
            Unload: self._unload,
            Discard: self._discard,
            Calibrate: self._calibrate,
        }

    @property
    def settled_until_s(self) -> float:
        """Until then the worker needs no orders, even if clients ask for more: no batch is ordered,
        and nobody could decode what comes. Minus infinity when that cannot be said.
        """
        return self._scheduler.settled_until_s if self.lanes_prepare else float("-inf")

    # --- orders ---------------------------------------------------------------------------------

    def send(self, message: link.Define | link.Forget | link.Close | link.Measure) -> None:
        """Send what the scheduler has no part in. A worker that starts later knows it anyway."""
        if self.ready is None:
            return
        if isinstance(message, link.Define):
            self.outstanding.define(tuple(key for key, _ in message.models))
        elif isinstance(message, link.Measure):
            self.outstanding.measure()
        self._outlet.to_worker([link.encode(message)])

    def lose(self, batch: int | None, now: float) -> tuple[int, ...] | None:
        """The worker has ended, because of `batch` if that is known: the requests in it."""
        lost = None if batch is None else self.outstanding.batches.orders.get(batch)
        self.outstanding.begin(now)
        self.ready, self.building, self.lanes_prepare = None, None, False
        for request in self._requests.values():
            request.lose_worker()
        return None if lost is None else tuple(member.rid for member in lost.run.members)

    def _prepare(self, command: Prepare, now: float) -> None:
        request = self._requests[command.rid]
        request.is_ordered = True
        if request.results:
            request.forget_results()
        soon = True
        if not request.inline:
            order = Preparation(request.resolved.rows, request.level)
            self.outstanding.requests.begin(command.rid, order, now)
        elif self.lanes_prepare:
            # Its Run cannot come before that time, so the worker need not wake for it.
            soon = self._scheduler.settled_until_s <= now
        self._outlet.to_worker(request.order, soon=soon)

    def _run(self, command: Run, now: float) -> None:
        images = 0
        if self.lanes_prepare:
            images = sum([self._requests[m.rid].inline_images for m in command.members])
        self.outstanding.run(command, images, now)
        if log.isEnabledFor(logging.DEBUG):
            self._log_batch(command)
        self._outlet.to_worker([link.encode(command)])

    def _log_batch(self, run: Run) -> None:
        for member in run.members:
            request, models = self._requests[member.rid], ", ".join(member.models)
            of = f"batch {run.batch} of {run.rows} rows"
            log.debug("%s: %s in %s", request, models, of, extra=request.fields(member.rid))

    def _load(self, command: Load, now: float) -> None:
        self.outstanding.load(command.block, now)
        self._outlet.to_worker([link.encode(command)])

    def _unload(self, command: Unload, now: float) -> None:
        self.outstanding.unloads.begin(command.block, None, now)
        self._outlet.to_worker([link.encode(command)])

    def _discard(self, command: Discard, now: float) -> None:
        self._outlet.to_worker([link.encode(command)])

    def _calibrate(self, command: Calibrate, now: float) -> None:
        self.outstanding.calibrations.begin(command.model, command.rows, now)
        self._outlet.to_worker([link.encode(command)])

    # --- reports --------------------------------------------------------------------------------

    def take(self, report: link.FromWorker, frames: Sequence[wire.Buffer], now: float) -> Any:
        """Check a report, and put what a batch has found to its requests.

        Returns what the scheduler is to be told, or the report itself where it has no part in it.
        Raises Untrusted if the worker owes no such report.
        """
        if type(report) is link.BatchOutputs:
            batch = self.outstanding.batches.orders.get(report.done.batch)
            if batch is not None and self._collect(report, batch.run, frames):
                self.outstanding.batch_done(batch.run, now)
                return report.done
        elif not frames and _CHECKS[type(report)](self, report, now):
            return report
        done = report.done if isinstance(report, link.BatchOutputs) else report
        name = type(report).__name__
        raise Untrusted(
            f"the device worker has reported a {name} that does not fit what it was ordered to do; "
            "this is a bug",
            getattr(done, "batch", None),
        )

    def _collect(self, report: link.BatchOutputs, run: Run, frames: Sequence[wire.Buffer]) -> bool:
        """Put each answer to its request. False unless there is a whole one for each model of each
        member that is owed one; what was put there before is dropped when the worker is lost.
        """
        owed = {(member.rid, model) for member in run.members for model in member.models}
        given = iter(frames)
        for answer in report.answers:
            key = answer.rid, answer.model
            if key not in owed:
                return False  # nobody asked for it, or it was given before
            owed.remove(key)
            request = self._requests.get(answer.rid)  # None: it was refused while it ran
            tensors = _tensors(answer, None if request is None else request.resolved.rows, given)
            if tensors is None:
                return False
            if request is not None:
                model = self._models[answer.model]
                if len(answer.outputs) != len(model.outputs) - len(model.lengths):
                    return False
                request.add(model, answer, tensors)
        for rid, _ in owed:
            request = self._requests.get(rid)
            if request is not None and not request.has_failed:
                return False
        return next(given, None) is None

    def _on_ready(self, report: link.Ready, now: float) -> bool:
        if not self.outstanding.ready(report):
            return False
        self.ready = report
        self.lanes_prepare, self.is_emulated = report.lanes_prepare, report.emulated
        return True

    def _on_prepared(self, report: Prepared, now: float) -> bool:
        return self.outstanding.requests.end(report.rid, now)

    def _on_prepare_failed(self, report: PrepareFailed, now: float) -> bool:
        """An inline request may have been answered before this is read."""
        if self.outstanding.requests.end(report.rid, now):
            return True
        request = self._requests.get(report.rid)
        if request is None:
            return True
        if not request.inline or not request.is_ordered or request.has_failed:
            return False
        request.has_failed = True
        return True

    def _on_batch_failed(self, report: BatchFailed, now: float) -> bool:
        if not self.outstanding.batches.end(report.batch, now):
            return False
        log.error("batch %d failed: %s", report.batch, report.message)
        return True

    def _on_loaded(self, report: BlockLoaded, now: float) -> bool:
        if sum(report.pieces.values()) > report.bytes:
            return False
        return self.outstanding.loaded(report.block, report.load_s, now)

    def _on_load_failed(self, report: BlockLoadFailed, now: float) -> bool:
        if not self.outstanding.loads.end(report.block, now):
            return False
        if self.building is not None and report.block in self.building.waiting:
            return True  # it is built first, which is told apart
        for key, manifest in self._models.items():
            if any(step.block == report.block for step in manifest.steps):
                fields = {"block": report.block, "model": key}
                log.error("model %s cannot be served: %s", key, report.message, extra=fields)
        return True

    def _on_unloaded(self, report: BlockUnloaded, now: float) -> bool:
        return self.outstanding.unloads.end(report.block, now)

    def _on_defined(self, report: link.Defined | link.DefineFailed, now: float) -> bool:
        return self.outstanding.loads.end(report.models, now)

    def _on_building(self, report: link.Building, now: float) -> bool:
        if not (0.0 <= report.share <= 1.0 and len(report.waiting) <= max(report.of, 0)):
            return False
        self.outstanding.building(now)
        return True

    def _on_measured(self, report: link.ModelMeasured, now: float) -> bool:
        fits = all(one.rows > 0 and one.infer_us > 0 for one in report.warm_ups)
        return self.outstanding.calibrated(report.model, now) and fits

    def _on_memory(self, report: link.WorkerMemory, now: float) -> bool:
        return self.outstanding.measured()


def _tensors(
    answer: link.ModelAnswer, rows: int | None, given: Iterator[wire.Buffer]
) -> list[wire.Buffer] | None:
    """The tensors of an answer, taken from those that are given.

    None unless each output says something of each row. `rows` None: any number of rows will do.
    """
    tensors = []
    for output in answer.outputs:
        shape = output.shape
        if not shape or (rows is not None and shape[0] != rows):
            return None
        if output.classes is None:
            tensor = next(given, None)
            if tensor is None or len(tensor) != prod(shape) * wire.ITEM_BYTES[output.datatype]:
                return None
            tensors.append(tensor)
        elif len(output.classes) != shape[0]:
            return None
    return tensors


_CHECKS: dict[type, Callable[[WorkerPort, Any, float], bool]] = {
    link.Ready: WorkerPort._on_ready,
    link.WorkerFailed: lambda port, report, now: True,
    Prepared: WorkerPort._on_prepared,
    PrepareFailed: WorkerPort._on_prepare_failed,
    BatchFailed: WorkerPort._on_batch_failed,
    BlockLoaded: WorkerPort._on_loaded,
    BlockLoadFailed: WorkerPort._on_load_failed,
    BlockUnloaded: WorkerPort._on_unloaded,
    link.Defined: WorkerPort._on_defined,
    link.DefineFailed: WorkerPort._on_defined,
    link.Building: WorkerPort._on_building,
    link.WorkerMemory: WorkerPort._on_memory,
    link.ModelMeasured: WorkerPort._on_measured,
}
