"""Loads from several processes: starts them together and reports the outcome of their requests."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np

START_S = 1.5  # time for the processes to start


class Fate(msgspec.Struct, frozen=True):
    """The outcome of one client's requests."""

    sent: int
    held_back: int  # requests that the socket did not take
    unanswered: int
    uncoded: int  # errors without a known code or a text, answers to no request
    refused: dict[str, int]
    good_per_s: float  # requests a second that were answered in time
    accepted_s: tuple[float, ...]  # seconds between sending a request and its answer
    refused_s: tuple[float, ...]  # seconds between sending a request and its refusal


class Clients:
    """Runs processes of `tools.bench.open_loop` side by side; each run has seeds of its own."""

    def __init__(
        self, endpoint: str, shape: Sequence[int], tasks: Sequence[str], seed: int
    ) -> None:
        """`shape` is that of a request's one row of FP32."""
        self._command = [sys.executable, "-m", "tools.bench.open_loop", endpoint]
        self._command += ["--shape", *map(str, shape), "--tasks", *tasks]
        self._seed = seed

    def __call__(
        self,
        clients: Sequence[Sequence[str]],
        seconds: float,
        timeout_s: float,
        *,
        skip_s: float = 0.0,
        meanwhile: Callable[[float], None] | None = None,
    ) -> list[Fate]:
        """One process for each of `clients`, which are their options.

        `meanwhile` is called with the time on the monotonic clock at which the load ends.
        """
        begin_s = time.monotonic() + START_S
        processes = []
        for how in clients:
            self._seed += 1
            command = [*self._command, "--timeout-s", str(timeout_s), "--begin-s", str(begin_s)]
            command += ["--seconds", str(seconds), "--skip-s", str(skip_s)]
            command += ["--seed", str(self._seed), *how]
            processes.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        if meanwhile is not None:
            meanwhile(begin_s + seconds)
        printed = [process.communicate()[0] for process in processes]
        for process in processes:
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, process.args)
        return [msgspec.convert(json.loads(text), Fate) for text in printed]


def good_per_s(fates: Sequence[Fate]) -> float:
    """Requests a second that were answered in time, over all clients."""
    return sum(fate.good_per_s for fate in fates)


def quantile_s(times_s: Iterable[Sequence[float]], percent: float) -> float:
    """The quantile over the times of all clients; NaN if there are none."""
    together = np.concatenate([np.asarray(times) for times in times_s])
    return float(np.percentile(together, percent)) if together.size else float("nan")
