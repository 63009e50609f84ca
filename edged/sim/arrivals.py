"""Arrival processes: when requests come and what they ask for. Seeded; times in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edged.errors import InvalidArgument

Times = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When requests come, ascending; which task each asks for; which client each is from."""

    times_s: tuple[float, ...]
    tasks: tuple[int, ...]
    clients: tuple[int, ...] = ()  # empty: all from one


def generate(
    kind: str, *, users: int, rate_per_user: float, requests: int, tasks: int, seed: int
) -> Arrivals:
    """`requests` arrivals of `users` users who ask for random tasks. Raises InvalidArgument."""
    if kind not in KINDS:
        raise InvalidArgument(f"no arrivals are called {kind!r}: there are {', '.join(KINDS)}")
    for name, value in (("users", users), ("rate", rate_per_user), ("tasks", tasks)):
        if not value > 0:
            raise InvalidArgument(f"{name} is {value}: it must be above 0")
    rng = np.random.default_rng(seed)
    times = KINDS[kind](rng, users, rate_per_user, requests)
    chosen = rng.integers(0, tasks, requests)
    return Arrivals(tuple(map(float, times)), tuple(map(int, chosen)))


def _fixed(rng: np.random.Generator, users: int, rate: float, requests: int) -> Times:
    """All at one distance."""
    return np.arange(1, requests + 1) / (users * rate)


def _clocks(rng: np.random.Generator, users: int, rate: float, requests: int) -> Times:
    """Each user at a fixed rate, with a phase of its own."""
    each = -(-requests // users)
    phases = rng.random(users)[:, None]
    return np.sort(((phases + np.arange(each)) / rate).ravel())[:requests]


def _poisson(rng: np.random.Generator, users: int, rate: float, requests: int) -> Times:
    return np.cumsum(rng.exponential(1.0 / (users * rate), requests))


def _lognormal(sigma: float) -> Callable[[np.random.Generator, int, float, int], Times]:
    """Log-normal gaps of the same mean; the larger `sigma`, the heavier the tail."""

    def times(rng: np.random.Generator, users: int, rate: float, requests: int) -> Times:
        gaps = rng.lognormal(-(sigma**2) / 2, sigma, requests) / (users * rate)
        return np.cumsum(gaps)

    return times


def _bursts(rng: np.random.Generator, users: int, rate: float, requests: int) -> Times:
    """Poisson whose rate is 2.5 times the mean for one second, then 0.625 times for four."""
    unit = np.cumsum(rng.exponential(1.0, requests))  # arrivals of a process of rate one
    second, period = 2.5 * users * rate, 5.0 * users * rate
    cycles, inside = np.divmod(unit, period)
    slow = np.maximum(inside - second, 0.0) / (0.625 * users * rate)
    return cycles * 5.0 + np.minimum(inside, second) / (2.5 * users * rate) + slow


KINDS: dict[str, Callable[[np.random.Generator, int, float, int], Times]] = {
    "fixed": _fixed,
    "clocks": _clocks,
    "poisson": _poisson,
    "lognormal-0.7": _lognormal(0.7),
    "lognormal-1.8": _lognormal(1.8),
    "bursts": _bursts,
}
