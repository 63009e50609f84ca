"""Runs the batches that the front orders, on an executor, and reports each of them once.

A batch that fails leaves its requests staged, so that they can run again; only a lost device goes
on as an exception. Knows no threads: a lane calls `run`, a pipeline `submit` and `finish`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from edged.backends.base import DeviceLost
from edged.core.events import BatchFailed, Run
from edged.device.executor import Executor, InFlight, nothing_ran
from edged.device.failures import passing, typed
from edged.device.staging import Staged, Staging
from edged.device.turns import TurnQueue
from edged.errors import EdgedError
from edged.link import messages as link


class Submitted(msgspec.Struct, frozen=True, eq=False):
    """A batch in flight, and the requests in it."""

    message: Run
    requests: Sequence[Staged]
    in_flight: InFlight


class Batches:
    """Shared by all lanes; holds nothing of its own."""

    def __init__(
        self,
        staging: Staging,
        jobs: TurnQueue,
        report: Callable[[link.FromWorker, Sequence[memoryview]], None],
        *,
        report_block_runs: bool,
    ) -> None:
        """`report` may use the payload until it returns."""
        self._staging = staging
        self._jobs = jobs
        self._report = report
        self._report_block_runs = report_block_runs

    def run(self, executor: Executor, message: Run) -> None:
        """From its begin to its report. Raises DeviceLost."""
        submitted = self.submit(executor, message)
        if submitted is not None:
            self.finish(executor, submitted)

    def submit(self, executor: Executor, message: Run) -> Submitted | None:
        """Begin a batch; None if it has been reported already. Raises DeviceLost."""
        try:
            requests = self._staging.begin(message.members)
        except EdgedError as error:
            self._report(BatchFailed(message.batch, error.code, str(error)), ())
            return None
        prepare_s = self._prepare_deferred(requests, wide=message.wide)
        try:
            in_flight = executor.submit(message, requests, prepare_s)
        except DeviceLost:
            raise
        except Exception as caught:
            self._failed(message, requests, caught)
            return None
        if in_flight is None:
            self._done(message, requests, nothing_ran(message), ())
            return None
        return Submitted(message, requests, in_flight)

    def finish(self, executor: Executor, submitted: Submitted) -> None:
        """Wait for a batch and report it. Raises DeviceLost."""
        message, requests = submitted.message, submitted.requests
        try:
            outputs, payload = executor.finish(submitted.in_flight)
        except DeviceLost:
            raise
        except Exception as caught:
            self._failed(message, requests, caught)
            return
        if self._report_block_runs:
            outputs = msgspec.structs.replace(outputs, blocks=tuple(executor.runs))
        self._done(message, requests, outputs, payload)

    def _done(
        self,
        message: Run,
        requests: Sequence[Staged],
        outputs: link.BatchOutputs,
        payload: Sequence[memoryview],
    ) -> None:
        self._staging.end(message.members, requests, done=True)
        self._report(outputs, payload)  # before the executor's memory is used again

    def _failed(self, message: Run, requests: Sequence[Staged], caught: Exception) -> None:
        self._staging.end(message.members, requests, done=False)
        failure = passing(typed(caught, "a batch could not be run"))
        self._report(BatchFailed(message.batch, failure.code, str(failure)), ())

    def _prepare_deferred(self, requests: Sequence[Staged], *, wide: bool) -> float:
        """The seconds that it took. For a batch that is wide the preparing threads help."""
        deferred = [request.deferred for request in requests if request.deferred is not None]
        if not deferred:
            return 0.0
        started_ns = time.perf_counter_ns()
        for work in deferred[1:] if wide else ():
            self._jobs.put(work)
        for work in deferred:
            work()
        return (time.perf_counter_ns() - started_ns) / 1e9
