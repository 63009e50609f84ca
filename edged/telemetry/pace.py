"""Whether a board is throttled, and how much slower its GPU is than at the start: from readings.

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
HOLD_S = 10.0  # the clock under load is taken for the present one for so long without load
CHANGE = 0.1  # a change of the pace by less is not told
PACES = (0.5, 4.0)  # bounds of what is told

GPU_CLOCK = "gpu-clock"  # the GPU is busy and runs below its limit


class BoardState(msgspec.Struct, frozen=True):
    """A reading, and what it means beside those before it."""

    reading: BoardReading
    at_s: float  # monotonic
    throttled: tuple[str, ...] = ()  # reasons
    pace: float = 1.0  # batches take so many times as long as at the clocks of the first reading


class Pace:
    """Owns what was seen before. `look` takes readings in the order in which they were made."""

    def __init__(self) -> None:
        self._first_hz: int | None = None  # the limit at the first reading
        self._events: dict[str, int] | None = None
        self._seen_s: dict[str, float] = {}  # when each reason was seen last
        self._was_slow = False  # whether the last look found the GPU busy below its limit
        self._loaded_hz: tuple[int, float] | None = None  # clock below the limit, and when
        self._last = 1.0  # the pace by the last look alone
        self._told = 1.0

    def look(self, reading: BoardReading, now: float) -> BoardState:
        """What is to be told after this reading."""
        for reason in (*reading.alerts, *self._new_events(reading), *self._slow(reading.gpu, now)):
            self._seen_s[reason] = now
        self._seen_s = {why: at for why, at in self._seen_s.items() if now - at <= SHOW_S}
        return BoardState(reading, now, tuple(self._seen_s), self._pace(reading.gpu, now))

    def _new_events(self, reading: BoardReading) -> list[str]:
        """What was wrong with the supply since the last look."""
        before = reading.supply_events if self._events is None else self._events
        self._events = reading.supply_events
        return [why for why, count in reading.supply_events.items() if count > before.get(why, 0)]

    def _slow(self, gpu: GpuReading, now: float) -> list[str]:
        """Whether the GPU is busy below its limit, by two looks: a clock needs time to rise."""
        if gpu.load is None or gpu.hz is None or gpu.limit_hz is None or gpu.load < BUSY_LOAD:
            self._was_slow = False
            return []
        is_slow = 0 < gpu.hz < FULL_CLOCK * gpu.limit_hz
        if not is_slow:
            self._loaded_hz = None
        elif self._was_slow:
            self._loaded_hz = gpu.hz, now
        was_slow, self._was_slow = self._was_slow, is_slow
        return [GPU_CLOCK] if is_slow and was_slow else []

    def _pace(self, gpu: GpuReading, now: float) -> float:
        clock_hz = gpu.limit_hz
        if clock_hz is None or clock_hz <= 0:
            return self._told
        if self._first_hz is None:
            self._first_hz = clock_hz
        if self._loaded_hz is not None:
            loaded_hz, at_s = self._loaded_hz
            if now - at_s <= HOLD_S:
                clock_hz = min(clock_hz, loaded_hz)
        least, most = PACES
        pace = min(max(self._first_hz / clock_hz, least), most)
        if _differ(pace, self._told) and not _differ(pace, self._last):
            # Back at the first clocks it is exactly 1, so nothing of the past is kept.
            self._told = pace if _differ(pace, 1.0) else 1.0
        self._last = pace
        return self._told


def _differ(one: float, other: float) -> bool:
    return abs(one / other - 1.0) > CHANGE
