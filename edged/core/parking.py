"""Parking: requests keep their places while their models are away from the device.

Here the requests and what is on the device are kept in step. Those that can never be served, or
whose load has failed, are refused. Owns the administrator's asks; the device's memory and the jobs
are the scheduler's.
"""

from __future__ import annotations

from typing import Any

from edged.core.costs import CostModel
from edged.core.events import Command
from edged.core.requests.job import State
from edged.core.requests.jobs import Jobs
from edged.core.residency.administrator import Asked, Asks
from edged.core.residency.memory import DeviceMemory, Verdict, too_many_rows_now
from edged.errors import Code


class Parking:
    """What is on the device, as the requests that need it see it."""

    def __init__(self, memory: DeviceMemory, jobs: Jobs) -> None:
        self.asks = Asks(memory)
        self._memory = memory
        self._jobs = jobs

    def handle(self, event: Any, now: float, out: list[Command]) -> None:
        """Take in an event of the device's memory, or what an administrator asks."""
        if isinstance(event, Asked):
            out += self.asks.handle(event)
        else:
            self._memory.handle(event, now)
        was_tight = self._memory.tight
        self._memory.refresh()
        if self._memory.tight and not was_tight:
            self._give_needs()
        self._move_shelves()
        verdicts = self._verdicts(now)
        self.settle(now, out)
        for rid, verdict in verdicts.items():
            code, text, retry_after_s = verdict
            self._jobs.refuse(self._jobs.by_rid[rid], code, text, now, out, retry_after_s)

    def settle(self, now: float, out: list[Command]) -> None:
        """Settle the asks that have come about, or cannot any more. A daemon that shuts down loads
        nothing more than what accepted requests need."""
        if self._jobs.is_draining:
            out += self.asks.give_up(Code.UNAVAILABLE, "the daemon is shutting down")
        out += self.asks.settle(now)

    def decide(self, costs: CostModel, backlog_s: float, now: float, out: list[Command]) -> None:
        """Order what to load and unload now; asked after every event while the memory is tight."""
        out += self._memory.loads.decide(costs, backlog_s, now)
        self._move_shelves()
        self.settle(now, out)

    def _verdicts(self, now: float) -> dict[int, Verdict]:
        """The waiting requests that cannot be served as things are, and why."""
        verdicts: dict[int, Verdict] = {}
        for need in self._memory.residency.needs:
            if need.missing and need.waiting:
                verdict = self._memory.verdict(need, now)
                if verdict is not None:
                    verdicts |= dict.fromkeys(need.arrived_s, verdict)
        most_rows = self._memory.ledger.batch_rows
        for job in self._jobs.waiting:
            if job.request.rows > most_rows:
                verdicts.setdefault(job.request.rid, too_many_rows_now(most_rows))
        return verdicts

    def _give_needs(self) -> None:
        """Give each request its need. While everything was on the device, none was counted."""
        for job in self._jobs.by_rid.values():
            if job.need is None:
                need = self._memory.need(job.request)
                need.open += 1
                if job.state is State.WAITING:
                    self._jobs.waiting.shelve(job, need)
                else:
                    job.need = need
                    need.in_use += 1

    def _move_shelves(self) -> None:
        """Park the requests whose needs have left the device; the others take turns."""
        moved, self._memory.residency.moved = self._memory.residency.moved, []
        for need in moved:
            if need.missing:
                self._jobs.waiting.park(need)
            else:
                self._jobs.waiting.unpark(need)
