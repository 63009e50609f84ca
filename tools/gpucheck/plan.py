"""The steps of a check in their order, and how long each may take. Needs nothing but Python."""

from __future__ import annotations

from typing import NamedTuple


class Step(NamedTuple):
    name: str
    limit_s: float


# What needs no other step comes first, and after the store what the ratios are made of.
STEPS = (
    Step("facts", 30),
    Step("suite", 150),
    Step("faults", 60),
    Step("store", 180),
    Step("bare", 90),
    Step("daemon", 120),
    Step("memory", 60),
    Step("pipeline", 45),
    Step("parity", 90),
    Step("loads", 45),
)
