"""The event loop of the simulator: the daemon's scheduler, a device and a virtual clock.

Knows no arrivals: whoever drives it tells them.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

from edged.core.events import Command, DrainAsked, Event, Woke
from edged.core.scheduler import Scheduler
from edged.sim.device import SimulatedDevice

Trace = Callable[[float, Event, list[Command]], None]
"""Called after each turn, as a recorder is."""


class Engine:
    """Owns the clock and the device's reports to come."""

    def __init__(self, scheduler: Scheduler, device: SimulatedDevice, trace: Trace) -> None:
        self._scheduler = scheduler
        self._device = device
        self._trace = trace
        self._due: list[tuple[float, int, Event]] = []  # heap
        self._order = 0  # reports of the same time come in the order of these numbers
        self.now = -math.inf  # time of the latest event
        self.events = 0

    def tell(self, event: Event, now: float) -> None:
        commands = self._scheduler.handle(event, now)
        self.events += 1
        self.now = now
        self._trace(now, event, commands)
        for command in commands:
            report = self._device.obey(command, now)
            if report is not None:
                self.expect(*report)

    def expect(self, at: float, event: Event) -> None:
        """Tell `event` when its time has come."""
        self._order += 1
        heapq.heappush(self._due, (at, self._order, event))

    def advance(self, until: float) -> None:
        """Everything that happens up to `until`; what the device reports goes before timers."""
        while self._next_at() <= until:
            self.step()

    def step(self) -> None:
        """The next thing that happens. There must be one."""
        at = self._next_at()
        if at == math.inf:
            raise ValueError("nothing happens any more: this is a bug of the simulator")
        if self._due and self._due[0][0] == at:
            self.tell(heapq.heappop(self._due)[2], at)
        else:
            self.tell(Woke(), at)

    def finish(self) -> None:
        """After the last arrival; a policy that still waits for company is told that none comes."""
        self._run_out()
        self.tell(DrainAsked(), self.now)
        self._run_out()

    def _run_out(self) -> None:
        while (at := self._next_at()) < math.inf:
            self.advance(at)

    def _next_at(self) -> float:
        """Infinity: nothing happens any more. Timers of the past are due now."""
        due_at = self._due[0][0] if self._due else math.inf
        return max(self.now, min(due_at, self._scheduler.wakeup_at()))
