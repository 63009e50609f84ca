"""How large the next batch is: the policies, side by side.

A policy is asked whenever the device could begin a batch and a group has ready rows. It knows
what a View says and nothing else; which requests fill the rows is not its business.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from edged.core.events import GroupCost
from edged.errors import InvalidArgument
from edged.typeinfo import describe


class View(msgspec.Struct, frozen=True):
    """What a policy sees of one group."""

    ready_rows: int  # in staging memory, at least 1
    limit_rows: int  # the largest batch that is useful and that memory allows
    rate_rows_s: float = 0.0  # of arrivals, as of the latest beat, if the policy follows them
    cost: GroupCost | None = None  # measured times, where known
    waited_s: float = 0.0  # by the row that has been ready for longest, as the rate


Rule: TypeAlias = Callable[[View], int]
"""How many rows to run now; 0 waits for the next event."""


@dataclass(frozen=True, slots=True)
class Policy:
    """`rule()` makes the rule of one group: most have no memory, and it is always the same."""

    rule: Callable[[], Rule]
    follows_rate: bool = False  # asked again at every beat of the arrival rate
    exclusive: bool = False  # one request on the device at a time, preparation included


class Smooth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What Algorithm 1 assumes besides the profile: other stages, and how the load is measured."""

    prepare_workers: int = 8
    prepare_s: float = 0.003  # of one row in one worker
    head_s: float = 0.0003  # of one row
    window_s: float = 1.0  # over which arrivals are counted
    beat_s: float = 0.1  # between two looks at the load


def work_conserving(view: View) -> int:
    """Run what is ready, at once. Needs no estimate of the load and never delays a lone request.

    Batches grow by themselves: what arrives while a batch runs forms the next one.
    """
    return min(view.ready_rows, view.limit_rows)


def profiled(view: View) -> int:
    """As `work_conserving`, in sizes that were measured only: for devices with a plan for each."""
    sizes = view.cost.rows if view.cost is not None else (1,)
    return max((rows for rows in sizes if rows <= work_conserving(view)), default=1)


def greedy(view: View) -> int:
    """Wait for the largest batch, always: SMOOTH's baseline (section IV-D)."""
    return view.limit_rows if view.ready_rows >= view.limit_rows else 0


def one(view: View) -> int:
    """No batching: SMOOTH's baselines with one model for each task."""
    return 1


def static(rows: int) -> Rule:
    """Wait for `rows` rows: the fixed batch of most servers, without their time-out."""

    def wanted(view: View) -> int:
        size = min(rows, view.limit_rows)
        return size if view.ready_rows >= size else 0

    return wanted


def smooth(assumed: Smooth) -> Rule:
    """SMOOTH, Algorithm 1: wait for the batch that `smallest_feasible` names at the present rate.

    The paper leaves the batch size undefined where no size is feasible; the largest one is taken.
    """
    return _waiting_for(lambda cost, rate: smallest_feasible(cost, rate, assumed) or cost.rows[-1])


def smooth_keep(assumed: Smooth) -> Rule:
    """SMOOTH, Algorithm 1 as printed: where no size is feasible nothing is assigned, and the batch
    size stays what it was; before any was feasible, the smallest."""
    return _waiting_for(_Kept(assumed))


class _Kept:
    """The latest size that was feasible."""

    def __init__(self, assumed: Smooth) -> None:
        self._assumed = assumed
        self._rows: int | None = None

    def __call__(self, cost: GroupCost, rate_rows_s: float) -> int:
        found = smallest_feasible(cost, rate_rows_s, self._assumed)
        self._rows = found or self._rows or cost.rows[0]
        return self._rows


def smooth_timeout(assumed: Smooth) -> Rule:
    """As `smooth`, but what has waited for 2 B / load, twice as long as a batch should take to
    fill, runs: the batching delay of most servers. Up to a beat late, for want of an own timer."""
    full = smooth(assumed)

    def rows(view: View) -> int:
        wanted = full(view)
        if wanted or view.cost is None:
            return wanted
        size = smallest_feasible(view.cost, view.rate_rows_s, assumed) or view.cost.rows[-1]
        late = view.waited_s * view.rate_rows_s >= 2 * size
        return work_conserving(view) if late else 0

    return rows


def _waiting_for(chosen: Callable[[GroupCost, float], int]) -> Rule:
    """Wait for the batch size that is chosen by measured times and rate (rows/s)."""

    def rows(view: View) -> int:
        if view.cost is None:
            return work_conserving(view)  # nothing is measured yet, so nothing can be chosen
        wanted = min(chosen(view.cost, view.rate_rows_s), view.limit_rows)
        return wanted if view.ready_rows >= wanted else 0

    return rows


def smallest_feasible(cost: GroupCost, rate_rows_s: float, assumed: Smooth) -> int | None:
    """The batch size of SMOOTH's Algorithm 1; None when the load is above what any size carries.

    It minimises t_net + t_pre + t_B + t_head + B / load over the sizes with
    min(workers / t_pre, B / t_B, 1 / t_head) >= load. Both t_B and B / load grow with B, so that
    is the smallest feasible size; without load it is 1. Rates in rows/s, times in s.
    """
    others = min(assumed.prepare_workers / assumed.prepare_s, 1.0 / assumed.head_s)
    for rows, time_s in zip(cost.rows, cost.time_s, strict=True):
        if min(others, rows / time_s) >= rate_rows_s:
            return rows
    return None


def policy(name: str, assumed: Smooth | None = None) -> Policy:
    """The policy called `name`; `static:B` waits for B rows. Raises InvalidArgument."""
    kind, _, parameter = name.partition(":")
    if kind == "static" and _STATIC_ROWS.fullmatch(parameter):
        return _simple(static(int(parameter)))
    if name in _SMOOTH:
        make = _SMOOTH[name]
        return Policy(lambda: make(assumed or Smooth()), follows_rate=True)
    if name in _SIMPLE:
        return _SIMPLE[name]
    raise InvalidArgument(
        f"no batching policy is called {name!r}: there are "
        f"{', '.join(sorted([*_SIMPLE, *_SMOOTH]))} and static:B, as static:4, "
        "with B from 1 to 9999"
    )


def _simple(rule: Rule, *, exclusive: bool = False) -> Policy:
    return Policy(lambda: rule, exclusive=exclusive)


_STATIC_ROWS = re.compile(r"[1-9][0-9]{0,3}")

_SIMPLE = {
    "work-conserving": _simple(work_conserving),
    "work-conserving-profiled": _simple(profiled),
    "greedy": _simple(greedy),
    "unbatched": _simple(one),
    "monolithic": _simple(one, exclusive=True),
}

_SMOOTH: dict[str, Callable[[Smooth], Rule]] = {
    "smooth": smooth,
    "smooth-keep": smooth_keep,
    "smooth-timeout": smooth_timeout,
}


describe(Smooth)
