"""Takes requests in and prepares them: payloads into staging rows, at once or by threads in turn.

The front says in a PayloadHeader what comes; the payload is read where it lies. Knows no batches.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from edged.core.events import Prepared, PrepareFailed
from edged.device import preparing
from edged.device.decoding import Decoding
from edged.device.failures import typed
from edged.device.staging import Deferred, Staged, Staging
from edged.device.turns import Job, TurnQueue
from edged.errors import Code, EdgedError
from edged.link import messages as link
from edged.link.channel import Receiver
from edged.manifest import Manifest
from edged.sharedmem.reader import RegionReader


class RequestIntake:
    """`take` is called by the thread that reads the front's orders."""

    def __init__(
        self,
        receiver: Receiver,
        staging: Staging,
        jobs: TurnQueue,
        regions: RegionReader,
        decoding: Decoding,
        *,
        manifests: Mapping[str, Manifest],
        row_s: float,
        report: Callable[[link.FromWorker], None],
    ) -> None:
        """`jobs`: for the threads that prepare. `row_s`: the seconds that an emulated device takes
        to prepare a row.
        """
        self._receiver = receiver
        self._staging = staging
        self._jobs = jobs
        self._regions = regions
        self._decoding = decoding
        self.manifests = manifests
        self._row_s = row_s
        self._report = report

    def take(self, message: link.PayloadHeader) -> None:
        """A request, whose payload is the next thing to be read if it is not shared."""
        if message.inline:
            self._prepare_inline(message)
            return
        payload = self._receiver.payload()
        if payload is None:
            return  # the front ended while it sent this
        try:
            staged = self._staging.admit(message)
        except EdgedError as error:
            self._report(PrepareFailed(message.rid, error.code, str(error)))
            return
        self._jobs.put_in_turn(
            functools.partial(self._prepare, message, payload, staged),
            level=message.level,
            client=message.client,
            rows=message.rows,
        )

    def _prepare_inline(self, message: link.PayloadHeader) -> None:
        """Ready for the Run that may be the next message; only a failure is reported."""
        try:
            staged = self._staging.admit(message)
        except EdgedError as error:
            self._leave_out(message, error)
            return
        if message.inputs[0].kind == "tensor":
            self._receive_tensors(message, staged)
        else:
            payload = self._receiver.payload() or ()
            staged.deferred = Deferred(
                functools.partial(self._fill_inline, message, payload, staged)
            )

    def _receive_tensors(self, message: link.PayloadHeader, staged: Staged) -> None:
        """Where they are staged, if they need no more than that."""
        shared = message.shared
        payload: Sequence[memoryview] = ()
        try:
            sizes = self._receiver.sizes if shared is None else shared.sizes
            place = preparing.in_place(message, staged, self.manifests, sizes)
            if shared is None:
                payload = self._receiver.payload(place) or ()
            elif place is not None:
                self._regions.read(shared, place)
        except Exception as caught:
            self._leave_out(message, _unprepared(caught, message))
            return
        if place is None:
            self._fill_inline(message, payload, staged)

    def _fill_inline(
        self, message: link.PayloadHeader, payload: Sequence[memoryview], staged: Staged
    ) -> None:
        try:
            for _ in self._steps(message, payload, staged):
                pass
        except Exception as caught:
            self._leave_out(message, _unprepared(caught, message))

    def _leave_out(self, message: link.PayloadHeader, error: EdgedError) -> None:
        self._staging.leave_out(message)
        self._report(PrepareFailed(message.rid, error.code, str(error)))

    def _prepare(
        self, message: link.PayloadHeader, payload: Sequence[memoryview], staged: Staged
    ) -> Job | None:
        return self._go_on(message, staged, self._steps(message, payload, staged), 0)

    def _go_on(
        self, message: link.PayloadHeader, staged: Staged, steps: Iterator[None], spent_ns: int
    ) -> Job | None:
        """Prepare step by step; what is left when others wait for their turn comes after them.

        `spent_ns`: on the steps before.
        """
        started_ns = time.perf_counter_ns() - spent_ns
        error: EdgedError | None = None
        try:
            for _ in steps:
                if not self._jobs.is_empty:
                    spent_ns = time.perf_counter_ns() - started_ns
                    return functools.partial(self._go_on, message, staged, steps, spent_ns)
        except Exception as caught:
            error = _unprepared(caught, message)
        self._emulate_preparing(message.rows, started_ns)
        prepare_s = (time.perf_counter_ns() - started_ns) / 1e9
        if self._staging.settle(staged, prepared=error is None):
            self._report(Prepared(message.rid, prepare_s))
        elif error is None:
            self._report(PrepareFailed(message.rid, Code.CANCELLED, "cancelled"))
        else:
            self._report(PrepareFailed(message.rid, error.code, str(error)))
        return None

    def _steps(
        self, message: link.PayloadHeader, payload: Sequence[memoryview], staged: Staged
    ) -> Iterator[None]:
        if message.shared is not None:
            payload = self._regions.read(message.shared)
        yield from preparing.steps(message, payload, staged, self.manifests, self._decoding)

    def _emulate_preparing(self, rows: int, started_ns: int) -> None:
        """Wait until as long has passed as the device that is emulated would take."""
        took_s = (time.perf_counter_ns() - started_ns) / 1e9
        left_s = rows * self._row_s - took_s
        if left_s > 0.0:
            time.sleep(left_s)


def _unprepared(error: Exception, message: link.PayloadHeader) -> EdgedError:
    fields = {"request": message.rid, "client": message.client}
    return typed(error, "a request could not be prepared", **fields)
