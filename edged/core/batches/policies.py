"""What a batching policy is, and the two that serve: how many rows of a group it would run now.

`Device._start_one` asks the policy and has the last word.

A policy is asked whenever a batch could be ordered and a group has staged rows. It knows what a
GroupView says and nothing else; which requests fill the rows is not its business. The policies that
are there to be compared with are in `edged.policies`, which hands them to the scheduler.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Protocol, TypeAlias

import msgspec

from edged.core.events import GroupCost


class GroupView(msgspec.Struct, frozen=True):
    """What a policy sees of one group. Only a policy that follows a rate is told `rate_rows_s`,
    `waited_s` and `others_rows_s`."""

    staged_rows: int  # rows in staging memory, at least 1
    limit_rows: int  # rows of the largest batch that is useful and that memory allows
    rate_rows_s: float = 0.0  # rows a second that arrive for the whole device
    cost: GroupCost | None = None  # the measured times, where they are known
    waited_s: float = 0.0  # time for which the oldest row has been staged
    others_rows_s: float = inf  # rows a second that the slowest of the other stages can carry


Rule: TypeAlias = Callable[[GroupView], int]
"""How many rows to run now; 0 would rather wait, which the device overrules if no more can come."""


class Rate(Protocol):
    """How fast rows arrive. It changes at beats only."""

    def add(self, rows: int, now: float) -> None: ...

    def rows_per_s(self, now: float) -> float: ...

    def next_beat_s(self, now: float) -> float: ...


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """`rule()` makes the rule of one group: most have no memory, and it is always the same."""

    rule: Callable[[], Rule]
    rate: Callable[[float], Rate] | None = None  # makes the rate that is followed, at the start
    exclusive: bool = False  # one request on the device at a time, preparation included


def work_conserving(view: GroupView) -> int:
    """Run what is staged, at once. Needs no estimate of the load and never delays a lone request.

    Batches grow by themselves: what arrives while a batch runs forms the next one.
    """
    return min(view.staged_rows, view.limit_rows)


def profiled(view: GroupView) -> int:
    """As `work_conserving`, in sizes that were measured only: for devices with a plan for each."""
    sizes = view.cost.rows if view.cost is not None else (1,)
    return max((rows for rows in sizes if rows <= work_conserving(view)), default=1)


SERVING = {
    "work-conserving": BatchPolicy(lambda: work_conserving),
    "work-conserving-profiled": BatchPolicy(lambda: profiled),
}
