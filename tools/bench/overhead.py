"""What the daemon adds to a model that costs nothing: round trips and requests/s, by size.

Front and worker are their own processes, the backend computes a few additions, payloads are
tensors over ipc. A lone request is also sent, in the same run, to a daemon that never batches, and
then to one that keeps the processors awake, where the kernel lets it (`device.idle_latency_us`).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edged.client import Client
from edged.manifest import SCHEMA, Manifest, Step, Value
from edged.observe.awake import DEVICE
from edged.store import Store
from tools.bench.report import emit
from tools.bench.serving import CpuMeter, closed_loop, quantiles_ms, serving

FAKE = '[device]\nbackend = "fake"\ncache_dir = "cache"\n'
UNBATCHED = FAKE + '[scheduler]\npolicy = "unbatched"\n'
AWAKE = FAKE + "idle_latency_us = 0\n"


def register(commands: Any) -> None:
    parser = commands.add_parser("overhead", help="the daemon around a model that costs nothing")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--bytes", type=int, default=150_528, help="of a request's payload")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    values = args.bytes // 4
    inputs = [{"x": np.full((1, values), i, np.float32)} for i in range(4)]
    with tempfile.TemporaryDirectory() as name:
        store = _store(Path(name), values)
        with (
            serving(store, FAKE) as daemon,
            serving(store, UNBATCHED) as unbatched,
            Client(daemon.endpoint) as client,
            Client(unbatched.endpoint) as other,
        ):
            alone, plain = [], []
            for _ in range(4):  # in turns, so that the machine's moods meet both alike
                part_s = args.seconds / 4
                alone += closed_loop(client, inputs, ["a"], in_flight=1, seconds=part_s)[0]
                plain += closed_loop(other, inputs, ["a"], in_flight=1, seconds=part_s)[0]
            meter = CpuMeter(daemon)
            trips, rate = closed_loop(
                client, inputs, ["a"], in_flight=64, seconds=args.seconds, warm_up_s=0.0
            )
            cpu_us = meter.us_each(len(trips))
        awake = _awake(store, inputs, args.seconds)
    emit(
        "overhead",
        "measured",
        seed=0,
        payload_bytes=values * 4,
        one_in_flight=quantiles_ms(alone),
        never_batching=quantiles_ms(plain),
        ratio=round(float(np.median(alone) / np.median(plain)), 3),
        awake=None if awake is None else quantiles_ms(awake),
        awake_ratio=None if awake is None else round(float(np.median(awake) / np.median(alone)), 3),
        in_flight_64={"requests_per_s": round(rate), **quantiles_ms(trips), "cpu_us": cpu_us},
    )
    return 0


def _awake(store: Path, inputs: list[dict[str, Any]], seconds: float) -> list[float] | None:
    """Last, as the processors stay awake for a while after; None where the kernel does not let."""
    if not os.access(DEVICE, os.W_OK):
        return None
    with serving(store, AWAKE) as daemon, Client(daemon.endpoint) as client:
        return closed_loop(client, inputs, ["a"], in_flight=1, seconds=seconds)[0]


def _store(folder: Path, values: int) -> Path:
    """One task of one block; the fake backend does not look into it."""
    path = folder / "store"
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
                values=(Value("x", "FP32", (values,)), Value("y", "FP32", (10,))),
                steps=(Step(block, ("x",), ("y",)),),
                whole_bytes=7,
            )
        )
    return path
