"""Whether a board is throttled, and how much slower than at the start it is: from readings.

Pure: readings and times are passed in. Two looks have to agree before anything is said, and a
reason stays for some seconds, so that what flickers is not told again and again.
"""

from __future__ import annotations

import msgspec

from edged.telemetry.gpu import GpuReading
from edged.telemetry.reading import BoardReading

BUSY_LOAD = 0.9  # at this load a GPU that is not throttled runs at its limit
FULL_CLOCK = 0.95  # a clock of this share of the limit is at the limit
SHOW_S = 5.0  # a reason is shown for so long after it was seen last
HOLD_S = 10.0  # what was seen of a busy GPU holds for so long when it is not busy
CHANGE = 0.1  # a change of the pace by less is not told
PACES = (0.5, 4.0)  # bounds of what is told

GPU_CLOCK = "gpu-clock"  # the GPU is busy and runs below its limit


class BoardState(msgspec.Struct, frozen=True):
    """A reading, and what it means beside those before it."""

    reading: BoardReading
    at_s: float  # monotonic
    throttled: tuple[str, ...] = ()  # reasons
    # What computes there takes so many times as long as at the clocks of the start.
    gpu_pace: float = 1.0
    cpu_pace: float = 1.0


class Pace:
    """Owns what was seen before. `look` takes readings in the order in which they were made."""

    def __init__(self) -> None:
        self._events: dict[str, int] | None = None
        self._seen_s: dict[str, float] = {}  # when each reason was seen last
        # The share of its limit that the GPU runs at when it is busy. None: not seen yet.
        self._busy: float | None = None  # by the last look alone
        self._first_share: float | None = None
        self._share: tuple[float, float] | None = None  # the present one, and when it was seen
        self._gpu, self._cpu = _Steady(), _Steady()

    def look(self, reading: BoardReading, now: float) -> BoardState:
        """What is to be told after this reading."""
        for reason in (*reading.alerts, *self._new_events(reading), *self._slow(reading.gpu, now)):
            self._seen_s[reason] = now
        self._seen_s = {why: at for why, at in self._seen_s.items() if now - at <= SHOW_S}
        gpu_pace = self._gpu.look(reading.gpu.limit_hz, self._slower(now))
        cpu_pace = self._cpu.look(reading.cpu_limit_hz, 1.0)
        return BoardState(reading, now, tuple(self._seen_s), gpu_pace, cpu_pace)

    def _new_events(self, reading: BoardReading) -> list[str]:
        """What was wrong with the supply since the last look."""
        before = reading.supply_events if self._events is None else self._events
        self._events = reading.supply_events
        return [why for why, count in reading.supply_events.items() if count > before.get(why, 0)]

    def _slow(self, gpu: GpuReading, now: float) -> list[str]:
        """Whether the GPU is busy below its limit, by two looks: a clock needs time to rise."""
        before, self._busy = self._busy, _share_when_busy(gpu)
        if self._busy is None or before is None or _differ(self._busy, before):
            return []
        self._share = self._busy, now
        if self._first_share is None:
            self._first_share = self._busy
        return [GPU_CLOCK] if self._busy < FULL_CLOCK else []

    def _slower(self, now: float) -> float:
        """By what factor a busy GPU is farther below its limit than at the start."""
        if self._first_share is None or self._share is None or now - self._share[1] > HOLD_S:
            return 1.0
        return self._first_share / self._share[0]


class _Steady:
    """Owns one pace: it is told when two looks agree on a change."""

    def __init__(self) -> None:
        self._first_hz: int | None = None
        self._last = 1.0  # by the last look alone
        self._told = 1.0

    def look(self, limit_hz: int | None, slower: float) -> float:
        """The pace to tell, at this limit of the clock. None or 0: the limit is not told."""
        if not limit_hz:
            return self._told
        if self._first_hz is None:
            self._first_hz = limit_hz
        least, most = PACES
        pace = min(max(slower * self._first_hz / limit_hz, least), most)
        if _differ(pace, self._told) and not _differ(pace, self._last):
            # Back at the first clocks it is exactly 1, so nothing of the past is kept.
            self._told = pace if _differ(pace, 1.0) else 1.0
        self._last = pace
        return self._told


def _share_when_busy(gpu: GpuReading) -> float | None:
    """The share of its limit that a busy GPU runs at; None if it is not busy, or not told."""
    if not gpu.hz or not gpu.limit_hz or (gpu.load or 0.0) < BUSY_LOAD:
        return None
    return min(1.0, gpu.hz / gpu.limit_hz)


def _differ(one: float, other: float) -> bool:
    return abs(one / other - 1.0) > CHANGE
