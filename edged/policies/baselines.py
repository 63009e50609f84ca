"""Batching policies of other servers, to be compared with."""

from __future__ import annotations

from edged.core.batches.policies import GroupView, Rule


def greedy(view: GroupView) -> int:
    """Wait for the largest batch, always: SMOOTH's baseline (section IV-D)."""
    return view.limit_rows if view.staged_rows >= view.limit_rows else 0


def one(view: GroupView) -> int:
    """No batching: SMOOTH's baselines with one model for each task."""
    return 1


def static(rows: int) -> Rule:
    """Wait for `rows` rows: the fixed batch of most servers, without their time-out."""

    def wanted(view: GroupView) -> int:
        size = min(rows, view.limit_rows)
        return size if view.staged_rows >= size else 0

    return wanted
