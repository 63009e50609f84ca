"""Work for the preparing threads, in the order in which it is to be done.

Images of one client would otherwise be decoded before all that others send meanwhile, however few
rows of a batch they get. Knows no messages: only levels, clients and rows.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import threading
from collections import defaultdict
from collections.abc import Callable
from math import inf
from typing import TypeAlias

from edged.core.requests.fairness import Turns

Job: TypeAlias = "Callable[[], Job | None]"  # what is left of it, if it is to go on later


class TurnQueue:
    """Strict levels, turns of the clients inside a level. Any thread may call anything."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._jobs: list[tuple[float, int, int, Job | None]] = []  # heap: level, turn, order
        self._turns: defaultdict[float, Turns] = defaultdict(Turns)
        self._order = itertools.count()

    def put(self, job: Job | None) -> None:
        """Work that a batch waits for: before all other. None ends a thread, after all other."""
        with self._changed:
            level = -inf if job is not None else inf
            heapq.heappush(self._jobs, (level, 0, next(self._order), job))
            self._changed.notify()

    def put_in_turn(self, job: Job, *, level: int, client: int, rows: int) -> None:
        with self._changed:
            turn = self._turns[level].enter(client, rows)
            heapq.heappush(self._jobs, (level, turn, next(self._order), job))
            self._changed.notify()

    @property
    def is_empty(self) -> bool:
        return not self._jobs

    def get(self) -> Job | None:
        """The next one, as soon as there is one. What it leaves comes back by itself."""
        with self._changed:
            while not self._jobs:
                self._changed.wait()
            level, turn, _, job = heapq.heappop(self._jobs)
            if level in self._turns:
                self._turns[level].take(turn)
            return None if job is None else functools.partial(self._do, job, level, turn)

    def _do(self, job: Job, level: float, turn: int) -> None:
        """Its rows have turns of their own, one after the other. So between two rows, those whose
        turn comes before that of the next one go first."""
        rest = job()
        if rest is not None:
            with self._changed:
                heapq.heappush(self._jobs, (level, turn + 1, next(self._order), rest))
                self._changed.notify()
