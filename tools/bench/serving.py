"""Parts that the daemon's benchmarks share: the daemon, loads, and meters of processor time."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from edged.client import Client, Pending
from edged.manifest import SCHEMA, Manifest, PathStep, Preprocess, Value
from edged.store import Store
from tools.demo.daemon import Daemon

QUIET_PERCENT = 10.0  # processor time of a worker that measures nothing


@contextlib.contextmanager
def serving(store: Path, sections: str = "", *, start_s: float = 120.0) -> Iterator[Daemon]:
    """The real daemon on `store`; `sections` are further lines of its configuration."""
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as name:
        folder = Path(name)
        config = folder / "edged.toml"
        config.write_text(
            f'store = "{store.absolute()}"\n{sections}\n[server]\n'
            f'endpoints = ["ipc://{folder}/edged.sock"]\n'
        )
        with Daemon(folder, config, start_s=start_s) as daemon:
            _wait_until_quiet(daemon, start_s)
            yield daemon


def _wait_until_quiet(daemon: Daemon, patience_s: float) -> None:
    """A daemon that has just started measures its models while nobody asks for anything."""
    worker = worker_of(psutil.Process(daemon.pid))
    end_s = time.monotonic() + patience_s
    quiet = 0
    while quiet < 2 and time.monotonic() < end_s:
        quiet = quiet + 1 if worker.cpu_percent(0.4) < QUIET_PERCENT else 0


def worker_of(front: psutil.Process) -> psutil.Process:
    """The device worker; with metrics the front has another child."""
    (worker,) = (child for child in front.children() if "edged.device" in child.cmdline())
    return worker


def one_task_store(
    path: Path, shape: tuple[int, ...], preprocess: Preprocess | None = None
) -> Path:
    """A store with one task of one block, which the fake backend does not read."""
    store = Store(path).create()
    with store.update() as change:
        block = change.add_block(b"nothing")
        change.put_model(
            Manifest(
                schema=SCHEMA,
                name="a",
                task="a",
                precision="fp32",
                inputs=("x",),
                outputs=("y",),
                values=(Value("x", "FP32", shape), Value("y", "FP32", (10,))),
                steps=(PathStep(block, ("x",), ("y",)),),
                whole_bytes=7,
                preprocess=preprocess,
            )
        )
    return path


def closed_loop(
    client: Client,
    inputs: Sequence[Any],
    tasks: Sequence[str],
    *,
    in_flight: int,
    seconds: float,
    warm_up_s: float = 0.5,
) -> tuple[list[float], float]:
    """Keep `in_flight` requests unanswered: round trips in s after the warm-up, and requests/s."""
    waiting: deque[Pending] = deque()
    trips: list[float] = []
    sent = 0
    began_s = time.monotonic()
    counted_from_s = began_s + warm_up_s
    end_s = counted_from_s + seconds
    while (now := time.monotonic()) < end_s:
        while len(waiting) < in_flight:
            waiting.append(client.submit(inputs[sent % len(inputs)], tasks))
            sent += 1
        result = waiting.popleft().result()
        if now >= counted_from_s:
            trips.append(result.round_trip_s)
    rate = len(trips) / (time.monotonic() - counted_from_s)
    for pending in waiting:
        pending.result()
    return trips, rate


class CpuMeter:
    """Meters the processor time of client (this process), front and worker since it was made."""

    def __init__(self, daemon: Daemon) -> None:
        front = psutil.Process(daemon.pid)
        worker = worker_of(front)
        self._processes = {"client": psutil.Process(), "front": front, "worker": worker}
        self._before = self._times_s()

    def us_each(self, requests: int) -> dict[str, float]:
        """Microseconds a request, which other work on the machine hardly changes."""
        after = self._times_s()
        return {
            name: round((after[name] - self._before[name]) * 1e6 / requests, 1) for name in after
        }

    def _times_s(self) -> dict[str, float]:
        times = {name: process.cpu_times() for name, process in self._processes.items()}
        return {name: of.user + of.system for name, of in times.items()}


class Others:
    """Meters the processor time of all other processes: whether a timing was disturbed."""

    def __init__(self, pids: Sequence[int]) -> None:
        """`pids` are our processes; this process is always one of them."""
        self._ours = [psutil.Process(pid) for pid in (os.getpid(), *pids)]
        self._before = self._times_s()

    def share(self) -> float:
        """The share of all processors that others took since the last call."""
        before, self._before = self._before, self._times_s()
        wall_s, busy_s, ours_s = (
            now - then for now, then in zip(self._before, before, strict=True)
        )
        return max(0.0, busy_s - ours_s) / wall_s / (os.cpu_count() or 1)

    def _times_s(self) -> tuple[float, float, float]:
        machine = psutil.cpu_times()
        ours = [process.cpu_times() for process in self._ours]
        return (
            time.monotonic(),
            sum(machine) - machine.idle - machine.iowait - machine.guest - machine.guest_nice,
            sum(of.user + of.system for of in ours),
        )


def quantiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """The p50 and p99 of times, in ms."""
    p50, p99 = np.percentile(seconds, (50, 99)) * 1e3
    return {"p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3)}
