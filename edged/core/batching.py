"""How large the next batch is: one small pure function for each policy.

A policy is asked whenever the device could begin a batch and a group has ready rows. It knows
what a View says and nothing else; which requests fill the rows is not its business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class View:
    """What a policy sees of one group."""

    ready_rows: int  # in staging memory, at least 1
    limit_rows: int  # the largest batch that is useful and that memory allows


Policy = Callable[[View], int]
"""Rows to run now; 0 waits for the next event."""


def work_conserving(view: View) -> int:
    """Run what is ready, at once. Needs no estimate of the load and never delays a lone request.

    Batches grow by themselves: what arrives while a batch runs forms the next one.
    """
    return min(view.ready_rows, view.limit_rows)


POLICIES: dict[str, Policy] = {"work-conserving": work_conserving}
