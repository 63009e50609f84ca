"""Whether a request can be run at all, and about when.

Puts together what the queue, the memory and the measured costs say. Decides and remembers nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from edged.core.batches.running import Batch, Running
from edged.core.costs import CostModel
from edged.core.events import Request
from edged.core.requests.staging_shares import Staging
from edged.core.requests.waiting import WaitingQueue
from edged.core.residency.memory import DeviceMemory, Verdict, too_many_rows_now
from edged.core.residency.needs import Need
from edged.core.settings import Settings
from edged.errors import Code


class Forecast:
    """Asked at arrivals, and for how long to stay away."""

    def __init__(self, settings: Settings, waiting: WaitingQueue, memory: DeviceMemory) -> None:
        self._settings = settings
        self._waiting = waiting
        self._memory = memory

    def too_large(self, request: Request) -> Verdict | None:
        """Why the request does not fit the limits, or not the memory that there is now."""
        limits, ledger = self._settings, self._memory.ledger
        most = min(ledger.most_batch_rows, limits.queue_rows)
        if request.rows > most:
            text = f"{request.rows} rows in one request, at most {most} are allowed"
            return Verdict(Code.RESOURCE_EXHAUSTED, text)
        if request.staging_rows > limits.staging_rows:
            text = (
                f"the request needs {request.staging_rows} prepared rows, "
                f"at most {limits.staging_rows} are allowed: ask in several requests"
            )
            return Verdict(Code.RESOURCE_EXHAUSTED, text)
        if request.rows > ledger.batch_rows:
            return too_many_rows_now(ledger.batch_rows)
        return None

    def late_by(
        self,
        request: Request,
        need: Need | None,
        costs: CostModel,
        *,
        staging: Staging,
        running: Running,
        now: float,
    ) -> float:
        """Seconds by which the request would miss its deadline, as far as is known; 0.0 if none."""
        if request.deadline_s is None:
            return 0.0
        pace_s = costs.pace_s or 0.0
        run_s = math.fsum(
            [costs.batch_s(part.group, request.rows) or 0.0 for part in request.parts]
        )
        is_missing = need is not None and need.missing
        everything = self._waiting.rows + staging.rows
        if not is_missing and now + pace_s * everything + run_s <= request.deadline_s:
            return 0.0  # even behind everybody: most requests are told by these few sums
        ahead = self._waiting.rows_ahead_of(request)
        if staging.rows:
            ordered_rows = min(staging.rows, running.rows)
            ahead += ordered_rows + staging.rows_ahead_of(request, ordered_rows)
        ready_s = pace_s * (ahead - _rows_done(running.batches, costs, now))
        if need is not None and need.missing:
            ready_s = max(ready_s, self._memory.load_s(need))
        return max(0.0, now + ready_s + run_s - request.deadline_s)

    def backlog_s(self, costs: CostModel, staged_rows: int) -> float | None:
        """About when the rows that wait now will have run; None before anything has run."""
        pace_s = costs.pace_s
        rows = self._waiting.rows - self._waiting.parked_rows + staged_rows
        return None if pace_s is None else pace_s * rows


def _rows_done(running: Iterable[Batch], costs: CostModel, now: float) -> float:
    """Of the batches that run, as far as they should have come by now."""
    done = 0.0
    for batch in running:
        took_s = costs.batch_s(batch.run.group, batch.run.rows)
        if took_s:
            done += batch.run.rows * min(1.0, max(0.0, now - batch.started_s) / took_s)
    return done
