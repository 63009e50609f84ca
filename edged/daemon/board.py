"""What the board tells of itself, for the statistics, with the energy of answers. Pure."""

from __future__ import annotations

from edged import wire
from edged.observe.statistics import TaskCounters
from edged.telemetry.pace import BoardState


class BoardFigures:
    """Owns the latest state of the board, and the energy since the start."""

    def __init__(self, counters: TaskCounters) -> None:
        self._counters = counters
        self._state: BoardState | None = None
        self._busy_s = 0.0  # as the counters had it at the last state
        self._answers = 0
        self._energy_j: float | None = None  # None: the board does not tell its power
        self._paid_answers = 0  # those in the time that the energy is of

    def take(self, state: BoardState | None) -> None:
        """A look at the board; None: it tells nothing. The same one twice changes nothing."""
        last, self._state = self._state, state
        if state is last:
            return
        busy_s, answers = self._counters.busy_s, self._counters.answers
        power_w = None if state is None else state.reading.total_w
        if state is not None and last is not None and power_w is not None:
            # Where batches run side by side their times add up to more than the time.
            ran_s = min(busy_s - self._busy_s, state.at_s - last.at_s)
            self._energy_j = (self._energy_j or 0.0) + power_w * ran_s
            self._paid_answers += answers - self._answers
        self._busy_s, self._answers = busy_s, answers

    def pace(self, device: str) -> float:
        """Batches on this device take so many times as long as at the clocks of the start.

        device  the name that its backend gives it
        """
        if self._state is None:
            return 1.0
        if device.startswith("cuda"):
            return self._state.gpu_pace
        return self._state.cpu_pace if device.startswith("cpu") else 1.0  # others are emulated

    @property
    def throttled(self) -> tuple[str, ...]:
        """Why the board is throttled; empty: it is not, as far as it tells."""
        return () if self._state is None else self._state.throttled

    def report(self, pace: float) -> wire.BoardStatistics | None:
        """For clients; None where the board tells nothing."""
        if self._state is None:
            return None
        reading, energy_j = self._state.reading, self._energy_j
        each_j = energy_j / self._paid_answers if energy_j and self._paid_answers else None
        return wire.BoardStatistics(
            power_mode=reading.power_mode,
            gpu_load=reading.gpu.load,
            gpu_hz=reading.gpu.hz,
            gpu_limit_hz=reading.gpu.limit_hz,
            temperatures_c=reading.temperatures_c,
            rails_w=reading.rails_w,
            total_w=reading.total_w,
            throttled=self._state.throttled,
            pace=pace,
            answers_j=energy_j,
            answer_j=each_j,
        )
