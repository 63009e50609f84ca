"""More load than the device carries, on the live daemon: goodput, deadlines, memory, fair shares.

The device is that of SMOOTH's Table II, emulated, so its capacity is known and the same on any
machine; daemon, sockets and clients are real. Capacity is measured in the same run by clients that
always have requests in flight. Then come three times as many requests at random times, and then one
client that floods beside others that ask for no more than their share. Every client is a process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from edged import profiles
from edged.manifest import SCHEMA, Manifest, PathStep, Value
from edged.profiles.form import BlockProfile
from edged.store import Store
from tools.bench.clients import Clients, Fate, good_per_s, quantile_s
from tools.bench.report import emit
from tools.bench.serving import serving

TASKS = ("a", "b", "c")
CLIENTS = 4
WARM_UP_S = 2.0  # start of the closed loop, which does not count
IN_FLIGHT = 24  # unanswered requests of each client in the closed loop
PATIENT_S = 10.0  # time-out that no request of the closed loop should reach
DEVICE = "SMOOTH's Table II"


def register(commands: Any) -> None:
    parser = commands.add_parser("overload", help="three times what the device carries; a flood")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the overload")
    parser.add_argument("--times", type=float, default=3.0, help="the capacity")
    parser.add_argument("--deadline-ms", type=float, default=500.0)
    parser.add_argument("--bytes", type=int, default=150_528, help="of a request's payload")
    parser.add_argument("--seed", type=int, default=1)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    values = args.bytes // 4
    deadline_s = args.deadline_ms / 1e3
    with tempfile.TemporaryDirectory() as name:
        store, sections = _store(Path(name), values)
        with serving(store, sections) as daemon:
            load = Clients(daemon.endpoint, [values], TASKS, args.seed)
            watch = _Memory(daemon.pid)
            closed = [["--in-flight", str(IN_FLIGHT)]] * CLIENTS
            capacity = good_per_s(load(closed, WARM_UP_S + 8.0, PATIENT_S, skip_s=WARM_UP_S))
            rate = ["--rate", str(args.times * capacity / CLIENTS)]
            crowd = load([rate] * CLIENTS, args.seconds, deadline_s, meanwhile=watch.until)
            share = capacity / CLIENTS
            others = [["--rate", str(share)]] * (CLIENTS - 1)
            flood = ["--rate", str(args.times * capacity)]
            flooded = load([flood, *others], args.seconds / 3, deadline_s)
    emit(
        "overload",
        "emulated",
        seed=args.seed,
        device=DEVICE,
        capacity_per_s=round(capacity, 1),
        deadline_ms=args.deadline_ms,
        seconds=args.seconds,
        offered_ratio=round(sum(fate.sent for fate in crowd) / args.seconds / capacity, 2),
        goodput_ratio=round(good_per_s(crowd) / capacity, 3),
        p99_of_deadline=round(quantile_s((fate.accepted_s for fate in crowd), 99) / deadline_s, 3),
        **_replies(crowd),
        refusal_p50_ms=round(quantile_s((fate.refused_s for fate in crowd), 50) * 1e3, 2),
        pss=watch.report(),
        flood={
            "shares_of_others": [round(fate.good_per_s / share, 3) for fate in flooded[1:]],
            **_replies(flooded),
        },
    )
    return 0


def _replies(fates: Sequence[Fate]) -> dict[str, Any]:
    """The outcomes of all requests; the last three figures should be 0."""
    refused: Counter[str] = Counter()
    for fate in fates:
        refused.update(fate.refused)
    return {
        "accepted": sum(len(fate.accepted_s) for fate in fates),
        "refused": dict(refused),
        "uncoded": sum(fate.uncoded for fate in fates),
        "unanswered": sum(fate.unanswered for fate in fates),
        "held_back": sum(fate.held_back for fate in fates),
    }


class _Memory:
    """Reads the proportional set size of front and worker once a second."""

    def __init__(self, pid: int) -> None:
        front = psutil.Process(pid)
        (worker,) = front.children()
        self._processes = {"front": front, "worker": worker}
        self._bytes: dict[str, list[int]] = {name: [] for name in self._processes}

    def until(self, end_s: float) -> None:
        while (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(1.0, left_s))
            for name, process in self._processes.items():
                self._bytes[name].append(process.memory_full_info().pss)

    def report(self) -> dict[str, Any]:
        """The means of the four quarters of the time in MB, and the last divided by the first."""
        found = {}
        for name, taken in self._bytes.items():
            quarters = [float(np.mean(part)) for part in np.array_split(taken, 4)]
            found[name] = {
                "mb": [round(mean / 1e6, 1) for mean in quarters],
                "ratio": round(quarters[-1] / quarters[0], 3),
            }
        return found


def _store(folder: Path, values: int) -> tuple[Path, str]:
    """A store with three tasks on one backbone, which nobody reads, and the emulated device."""
    store = Store(folder / "store").create()
    with store.update() as change:
        backbone = change.add_block(b"a backbone")
        for task in TASKS:
            head = change.add_block(f"head {task}".encode())
            change.put_model(_manifest(task, values, backbone, head))
    blocks = profiles.read(profiles.SMOOTH_TABLE_2).blocks
    rows = blocks["backbone"].rows[-1]
    sections = (
        f"[scheduler]\nmax_batch_rows = {rows}\nstaging_rows = {3 * rows}\n"
        '[device]\nbackend = "emulated"\ncache_dir = "cache"\n'
        f'[device.options]\ndevice = "{DEVICE}"\n[device.options.blocks]\n'
        f"{backbone} = {_curve(blocks['backbone'])}\n"
        f'"*" = {_curve(blocks["head"])}\n'
    )
    return store.path, sections


def _curve(block: BlockProfile) -> str:
    return f"{{rows = {list(block.rows)}, time_s = {list(block.time_s)}}}"


def _manifest(task: str, values: int, backbone: str, head: str) -> Manifest:
    return Manifest(
        schema=SCHEMA,
        name=task,
        task=task,
        precision="fp32",
        inputs=("x",),
        outputs=("y",),
        values=(
            Value("x", "FP32", (values,)),
            Value("features", "FP32", (16,)),
            Value("y", "FP32", (10,)),
        ),
        steps=(PathStep(backbone, ("x",), ("features",)), PathStep(head, ("features",), ("y",))),
        whole_bytes=7,
    )
