"""SMOOTH's setting in real time: the live daemon at the speed of its Table II. Emulated.

Front, worker, sockets, decoding of JPEG files and scheduling are real. The device is not: the
`emulated` backend takes the times of the profile `smooth-table2` and computes nothing, and it
stretches the preparation of an image to the paper's 3 ms in each of 8 threads. There is no network
but ipc; the paper's latencies are over WiFi.

`saturated` keeps requests waiting all the time, `fixed` sends 10 a second for each of 15 users,
evenly spaced, and counts from the time at which a request was due.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edged.client.aio import AsyncClient
from edged.manifest import SCHEMA, Manifest, PathStep, Preprocess, Value
from edged.profiles import SMOOTH_TABLE_2
from edged.store import Store
from tools.bench.report import emit
from tools.bench.serving import quantiles_ms, serving

TASKS = ("food", "flowers", "images")
USERS = 15
RATE = 10.0  # requests/s of each user
IN_FLIGHT = 4  # unanswered requests of each user when saturated
SIDE = 256  # pixels
IMAGES = 200
WARM_UP_S = 1.0
SATURATED = ("work-conserving", "monolithic", "smooth", "unbatched")
FIXED = ("work-conserving", "smooth")
PAPER = {"saturated_per_s": 143.6, "3tasks_base_per_s": 51.2, "fixed_mean_ms": 221.18}

User = Callable[[AsyncClient, int], Awaitable[None]]


def register(commands: Any) -> None:
    parser = commands.add_parser("table2", help="the live daemon at the speed of SMOOTH's Table II")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each saturated run")
    parser.add_argument("--requests", type=int, default=3000, help="of each run at a fixed rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    load = _Load(args.seed)
    with tempfile.TemporaryDirectory() as name:
        store, options = _store(Path(name))
        per_s: dict[str, float] = {}
        for policy in SATURATED:
            with serving(store, options.format(policy=policy)) as daemon:
                per_s[policy] = load.saturated(daemon.endpoint, args.seconds)
        fixed: dict[str, dict[str, float]] = {}
        for policy in FIXED:
            with serving(store, options.format(policy=policy)) as daemon:
                took_s = load.fixed(daemon.endpoint, args.requests)
            mean_ms = round(float(np.mean(took_s)) * 1e3, 2)
            fixed[policy] = {"mean_ms": mean_ms, **quantiles_ms(took_s)}
    emit(
        "table2",
        "emulated",
        seed=args.seed,
        tasks=len(TASKS),
        saturated_per_s={policy: round(rate, 1) for policy, rate in per_s.items()},
        ratio=round(per_s["work-conserving"] / per_s["monolithic"], 3),
        ratio_to_the_papers_baseline=round(
            per_s["work-conserving"] / PAPER["3tasks_base_per_s"], 3
        ),
        fixed={"users": USERS, "requests_per_s": USERS * RATE, **fixed},
        paper=PAPER,
    )
    return 0


class _Load:
    """Users, each with a connection of its own, who ask for random tasks."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._images = [_image(self._random) for _ in range(IMAGES)]
        self._sent = 0

    def saturated(self, endpoint: str, seconds: float) -> float:
        """The requests/s when each user always has IN_FLIGHT unanswered requests."""
        answered_s: list[float] = []
        end_s = time.monotonic() + WARM_UP_S + seconds

        async def one_after_the_other(client: AsyncClient) -> None:
            while time.monotonic() < end_s:
                await self._ask(client)
                answered_s.append(time.monotonic())

        async def user(client: AsyncClient, number: int) -> None:
            await asyncio.gather(*(one_after_the_other(client) for _ in range(IN_FLIGHT)))

        asyncio.run(_users(endpoint, user))
        return sum(end_s - seconds <= at < end_s for at in answered_s) / seconds

    def fixed(self, endpoint: str, requests: int) -> list[float]:
        """The seconds from the time at which each request was due to its answer."""
        took_s: list[float] = []
        begin_s = time.monotonic() + WARM_UP_S

        async def one(client: AsyncClient, due_s: float) -> None:
            await asyncio.sleep(due_s - time.monotonic())
            await self._ask(client)
            took_s.append(time.monotonic() - due_s)

        async def user(client: AsyncClient, number: int) -> None:
            mine = range(number, requests, USERS)
            await asyncio.gather(*(one(client, begin_s + n / (USERS * RATE)) for n in mine))

        asyncio.run(_users(endpoint, user))
        return took_s

    async def _ask(self, client: AsyncClient) -> None:
        self._sent += 1
        task = TASKS[self._random.integers(len(TASKS))]
        result = await client.infer(self._images[self._sent % IMAGES], task)
        assert result.emulated


async def _users(endpoint: str, user: User) -> None:
    """Run all users at once, from when they are connected until they have finished."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(AsyncClient(endpoint)) for _ in range(USERS)]
        await asyncio.gather(*(user(client, number) for number, client in enumerate(clients)))


def _image(random: np.random.Generator) -> bytes:
    """A JPEG file of smooth noise, about as large as that of a photo."""
    small = random.integers(0, 256, (SIDE // 8, SIDE // 8, 3), np.uint8)
    done, data = cv2.imencode(".jpg", cv2.resize(small, (SIDE, SIDE)))
    assert done
    return bytes(data)


def _store(folder: Path) -> tuple[Path, str]:
    """A store of a backbone and three heads, and the configuration of the times they take."""
    store = Store(folder / "store").create()
    with store.update() as change:
        backbone = change.add_block(b"backbone")
        for task in TASKS:
            change.put_model(_manifest(task, backbone, change.add_block(task.encode())))
    options = (
        '[scheduler]\npolicy = "{policy}"\nmax_batch_rows = 16\nstaging_rows = 48\n'
        f'[device]\nbackend = "emulated"\nprepare_threads = 8\ncache_dir = "{folder}/cache"\n'
        f'[device.options]\nprofile = "{SMOOTH_TABLE_2}"\n'
        f'[device.options.blocks]\n{backbone} = "backbone"\n"*" = "head"'
    )
    return store.path, options


def _manifest(task: str, backbone: str, head: str) -> Manifest:
    return Manifest(
        schema=SCHEMA,
        name=task,
        task=task,
        precision="fp32",
        inputs=("image",),
        outputs=("scores",),
        values=(
            Value("image", "FP32", (3, SIDE, SIDE)),
            Value("features", "FP32", (1024,)),
            Value("scores", "FP32", (100,)),
        ),
        steps=(
            PathStep(backbone, ("image",), ("features",)),
            PathStep(head, ("features",), ("scores",)),
        ),
        whole_bytes=0,
        preprocess=Preprocess(SIDE, SIDE),
    )
