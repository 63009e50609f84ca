"""The loading policies, side by side: in which order needs are best loaded, and who may leave.

A policy is two small functions of values: the order of the needs, and the worth of a block that
could leave. `choice.py` asks them. They know nothing of queues, budgets and devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from edged.core.settings import Loading


@dataclass(frozen=True, slots=True)
class Leaver:
    """A block that could leave the device."""

    uses: float  # expected before the whole memory could be loaded anew, by all its models
    load_s: float  # to bring it back
    bytes: int
    used_s: float  # when a request last started with it


@dataclass(frozen=True, slots=True)
class Candidate:
    """A need that could be loaded now, and what that would bring and cost."""

    requests: int  # that wait and could still be answered in time
    due_s: float  # until the first of these has to be answered; infinite without deadlines
    waited_s: float  # the oldest
    load_s: float  # of its missing blocks
    run_s: float  # of its requests
    lost: float = 0.0  # answers that leaving models would then miss

    @property
    def work_s(self) -> float:
        return self.load_s + self.run_s

    @property
    def rate(self) -> float:
        """Answers in time for each second of work."""
        return (self.requests - self.lost) / max(self.work_s, 1e-9)


@dataclass(frozen=True, slots=True)
class Policy:
    """`order(candidates)`: positions of those worth loading, the best first.

    It is asked twice: for all needs before it is known what leaves for them, and for the best of
    these when that is known.
    """

    order: Callable[[Sequence[Candidate]], list[int]]
    worth: Callable[[Leaver], float]  # a byte; the least leaves first


def reload_worth(leaver: Leaver) -> float:
    """Seconds of loading that keeping it saves, a byte."""
    return leaver.load_s * leaver.uses / leaver.bytes if leaver.bytes else leaver.load_s


def recency(leaver: Leaver) -> float:
    return leaver.used_s


def fewest_late(candidates: Sequence[Candidate]) -> list[int]:
    """PartialLoading's question, online: which loads, in which order, miss the fewest requests?

    By Moore and Hodgson's rule for one machine ("Sequencing n jobs", 1968), with weights: in the
    order of deadlines, and whenever one would be late, the load that brings the fewest answers a
    second is put off. While all can be in time this is earliest deadline first; when all have the
    same deadline it is PartialLoading's Algorithm 3.
    """
    useful = [i for i, candidate in enumerate(candidates) if candidate.requests > candidate.lost]
    useful.sort(key=lambda i: (candidates[i].due_s, -candidates[i].rate))
    kept: list[tuple[float, int, int]] = []  # heap: the lowest rate first
    dropped: set[int] = set()
    work_s = 0.0
    for place, i in enumerate(useful):
        candidate = candidates[i]
        heappush(kept, (candidate.rate, -place, i))
        work_s += candidate.work_s
        while i not in dropped and work_s > candidate.due_s:
            worst = heappop(kept)[-1]
            dropped.add(worst)
            work_s -= candidates[worst].work_s
    put_off = sorted(dropped, key=lambda i: -candidates[i].rate)
    return [i for i in useful if i not in dropped] + put_off


def greedy(candidates: Sequence[Candidate]) -> list[int]:
    """PartialLoading, Algorithm 3: most users served for each second, whatever leaves for them."""
    useful = [i for i, candidate in enumerate(candidates) if candidate.requests]
    return sorted(
        useful,
        key=lambda i: -candidates[i].requests / max(candidates[i].work_s, 1e-9),
    )


def first_come(candidates: Sequence[Candidate]) -> list[int]:
    return sorted(range(len(candidates)), key=lambda i: -candidates[i].waited_s)


POLICIES: dict[Loading, Policy] = {
    "partial": Policy(fewest_late, reload_worth),
    "greedy": Policy(greedy, reload_worth),
    "lru": Policy(first_come, recency),
}
