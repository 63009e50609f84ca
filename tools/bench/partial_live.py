"""Loading policies beside each other through the live daemon: the library of `partial`, emulated.

Daemon, worker, sockets and client are real; the worker's blocks take another device's times to
load and to run, and no memory. Every policy gets the same recorded arrivals. `independent` is the
default policy on a store of the same models in which no two share a block.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from edged.client.aio import AsyncClient
from edged.errors import EdgedError
from edged.manifest import SCHEMA, Manifest, Step, Value
from edged.sim.loading import Scenario, run
from edged.store import Store
from tools.bench.partial import Load, with_arrivals
from tools.bench.report import emit
from tools.bench.serving import serving

RUNS = {"partial": ("partial", True), "independent": ("partial", False), "lru": ("lru", True)}
ROWS_MAX = 32
BEGIN_S = 1.0  # before the first arrival


class Answered(NamedTuple):
    """What became of the requests of one run."""

    in_time: int
    p50_ms: float
    p99_ms: float


def register(commands: Any) -> None:
    parser = commands.add_parser("partial-live", help="loading policies through the live daemon")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    load = Load()
    requests = round(load.rate * args.seconds)
    scenario = with_arrivals(load, requests, args.seed)
    fixed_bytes = _fixed_bytes(scenario)
    live = {name: _serve(scenario, fixed_bytes, *how) for name, how in RUNS.items()}
    share = {name: answered.in_time / requests for name, answered in live.items()}
    emit(
        "partial-live",
        "emulated",
        seed=args.seed,
        requests=requests,
        in_time={name: round(value, 3) for name, value in share.items()},
        points={
            other: round(100 * (share["partial"] - share[other]), 1)
            for other in ("lru", "independent")
        },
        latency_ms={name: [round(a.p50_ms, 1), round(a.p99_ms, 1)] for name, a in live.items()},
        simulated={name: round(run(scenario, name).served / requests, 3) for name in RUNS},
    )
    return 0


def _serve(scenario: Scenario, fixed_bytes: int, policy: str, shares: bool) -> Answered:
    with tempfile.TemporaryDirectory() as name:
        store, device = _store(Path(name), scenario, shares)
        memory = f'[memory]\npolicy = "{policy}"\nbudget_bytes = '
        with serving(store, f"{memory}{fixed_bytes + scenario.budget_bytes}\n{device}") as daemon:
            return asyncio.run(_replay(daemon.endpoint, scenario))


def _fixed_bytes(scenario: Scenario) -> int:
    """What front and worker take besides blocks: emulated blocks take nothing."""
    with tempfile.TemporaryDirectory() as name:
        store, device = _store(Path(name), scenario, shares=True)
        with serving(store, device) as daemon:
            front = psutil.Process(daemon.pid)
            return sum(process.memory_full_info().pss for process in (front, *front.children()))


def _store(folder: Path, scenario: Scenario, shares: bool) -> tuple[Path, str]:
    """The models of a scenario, which nobody looks into, and the device that emulates them."""
    store = Store(folder / "store").create()
    figures = []
    with store.update() as change:
        for i, model in enumerate(scenario.models):
            blocks = []
            times_ms = [model.beta_ms + model.mu_ms * rows for rows in (1, ROWS_MAX)]
            for block in model.blocks:
                content = f"block {block}" if shares else f"block {block} of model {i}"
                blocks.append(change.add_block(content.encode()))
                size = scenario.block_bytes[block]
                # The first block of a model stands for the run of all of them.
                is_first = block == model.blocks[0]
                run_s = [ms / 1e3 for ms in times_ms] if is_first else [1e-6, 1e-6]
                load_s = scenario.load.seconds(size)
                figures.append(
                    f"{blocks[-1]} = {{rows = [1, {ROWS_MAX}], time_s = {run_s}, "
                    f"weight_bytes = {size}, load_cold_s = {load_s}, load_warm_s = {load_s}}}\n"
                )
            change.put_model(_manifest(model.name, blocks))
    device = (
        f"[scheduler]\nmax_batch_rows = {ROWS_MAX}\nstaging_rows = {2 * ROWS_MAX}\n"
        '[device]\nbackend = "emulated"\ncache_dir = "cache"\n[device.options]\n'
        'device = "PartialLoading"\n[device.options.blocks]\n'
    )
    return store.path, device + "".join(dict.fromkeys(figures))


def _manifest(name: str, blocks: Sequence[str]) -> Manifest:
    values = ("x", *(f"v{i}" for i in range(len(blocks))))
    return Manifest(
        schema=SCHEMA,
        name=name,
        task=name,
        precision="fp32",
        inputs=("x",),
        outputs=(values[-1],),
        values=tuple(Value(value, "FP32", (16,)) for value in values),
        steps=tuple(Step(block, (values[i],), (values[i + 1],)) for i, block in enumerate(blocks)),
        whole_bytes=1,
    )


async def _replay(endpoint: str, scenario: Scenario) -> Answered:
    """Send each request at its time, whatever has become of the others."""
    deadline_s = scenario.deadline_ms / 1e3
    row = {"x": np.zeros((1, 16), np.float32)}
    took_s: list[float] = []

    async def ask(client: AsyncClient, task: str, at_s: float) -> None:
        await asyncio.sleep(at_s - time.monotonic())
        started_s = time.monotonic()
        try:
            await client.infer(row, [task], timeout_s=deadline_s)
        except EdgedError:
            return
        took_s.append(time.monotonic() - started_s)

    async with AsyncClient(endpoint) as client:
        begin_s = time.monotonic() + BEGIN_S
        await asyncio.gather(
            *(
                ask(client, scenario.models[asked].name, begin_s + at_ms / 1e3)
                for at_ms, asked in zip(scenario.arrivals_ms, scenario.asked, strict=True)
            )
        )
    in_time = [s * 1e3 for s in took_s if s <= deadline_s]
    p50, p99 = np.percentile(in_time, (50, 99)) if in_time else (np.nan, np.nan)
    return Answered(len(in_time), float(p50), float(p99))
