"""The daemon's own cost: round trips and requests/s of a model that costs nothing, by size.

Front and worker are processes of their own, the backend computes a few additions, payloads are
tensors over ipc. A lone request is also sent, in the same run, to a daemon that never batches, and
then to one that keeps the processors awake, if the kernel allows it (`device.idle_latency_us`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edged.client import Client
from edged.observe.awake import DEVICE
from tools.bench.report import emit
from tools.bench.scraper import scraping
from tools.bench.serving import CpuMeter, closed_loop, one_task_store, quantiles_ms, serving

FAKE = '[device]\nbackend = "fake"\ncache_dir = "cache"\n'
UNBATCHED = FAKE + '[scheduler]\npolicy = "unbatched"\n'
AWAKE = FAKE + "idle_latency_us = 0\n"
METRICS = '[metrics]\nbind = "{path}"\n'


def register(commands: Any) -> None:
    parser = commands.add_parser("overhead", help="the daemon around a model that costs nothing")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--bytes", type=int, default=150_528, help="of a request's payload")
    parser.add_argument(
        "--scraped", action="store_true", help="the first daemon's metrics, each second"
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    values = args.bytes // 4
    inputs = [{"x": np.full((1, values), i, np.float32)} for i in range(4)]
    with tempfile.TemporaryDirectory() as name:
        store = one_task_store(Path(name) / "store", (values,))
        metrics = Path(name) / "metrics.sock"
        with (
            serving(store, FAKE + (METRICS.format(path=metrics) if args.scraped else "")) as daemon,
            scraping(metrics) if args.scraped else contextlib.nullcontext(),
            serving(store, UNBATCHED) as unbatched,
            Client(daemon.endpoint) as client,
            Client(unbatched.endpoint) as other,
        ):
            alone, plain = [], []
            for _ in range(4):  # turns, so that a change of the machine's speed affects both
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
        scraped=args.scraped,
        one_in_flight=quantiles_ms(alone),
        never_batching=quantiles_ms(plain),
        ratio=round(float(np.median(alone) / np.median(plain)), 3),
        awake=None if awake is None else quantiles_ms(awake),
        awake_ratio=None if awake is None else round(float(np.median(awake) / np.median(alone)), 3),
        in_flight_64={"requests_per_s": round(rate), **quantiles_ms(trips), "cpu_us": cpu_us},
    )
    return 0


def _awake(store: Path, inputs: list[dict[str, Any]], seconds: float) -> list[float] | None:
    """The round trips with processors kept awake; None if the kernel does not allow that.

    Measure this last, since the processors stay awake for a while afterwards.
    """
    if not os.access(DEVICE, os.W_OK):
        return None
    with serving(store, AWAKE) as daemon, Client(daemon.endpoint) as client:
        return closed_loop(client, inputs, ["a"], in_flight=1, seconds=seconds)[0]
