"""Memory of tasks that share a backbone: the daemon against an ONNX Runtime session for each model.

The figures are the proportional set size (PSS) of all processes after load at one batch size. The
daemon is the real one, `edged serve` with its worker, asked over its socket; the sessions are those
of one process that loads the same models uncut. Every figure is of a fresh process. The fixed cost,
which a process takes for any model, is measured on a model of one small layer.

Weights are random or published, heads are random: memory does not depend on their values.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from edged.client import Client
from edged.config import cores
from edged.store import Store
from tools.bench.backbones import NOTHING, store_of, whole_models
from tools.bench.report import emit
from tools.bench.serving import serving

BACKBONES = ("swinv2-base", "efficientnet-lite0")
ROUNDS = 4  # ONNX Runtime plans its memory in the first runs of a shape
PATIENCE_S = 600.0


def register(commands: Any) -> None:
    parser = commands.add_parser("memory", help="tasks on one backbone against whole models")
    parser.add_argument("--models", nargs="+", choices=BACKBONES, default=BACKBONES)
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4, help="in each batch")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", type=Path, help="keep models and store here and use them again")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as temporary:
        folder = args.dir or Path(temporary)
        nothing = _measure(NOTHING, 1, folder, args)
        for name in args.models:
            figures = _measure(name, args.tasks, folder, args)
            emit(
                "memory",
                "measured",
                seed=args.seed,
                model=name,
                tasks=args.tasks,
                rows=args.rows,
                threads=args.threads,
                pss_bytes=figures,
                fixed_pss_bytes=nothing,
                **_ratios(figures, nothing),
            )
    return 0


def _ratios(figures: dict[str, int], fixed: dict[str, int]) -> dict[str, float]:
    """The daemon's memory divided by that of whole models, with and without the fixed costs."""
    ratios: dict[str, float] = {}
    for when in ("", "_at_first_start"):
        daemon, cost = (sum(f[f"{p}{when}"] for p in ("front", "worker")) for f in (figures, fixed))
        above = figures["sessions"] - fixed["sessions"]
        ratios[f"ratio{when}"] = round(daemon / figures["sessions"], 3)
        ratios[f"ratio_above_fixed{when}"] = round((daemon - cost) / above, 3)
    daemon = figures["front"] + figures["worker"]
    ratios["ratio_to_one_arena"] = round(daemon / figures["sessions_one_arena"], 3)
    return ratios


def _measure(name: str, tasks: int, folder: Path, args: argparse.Namespace) -> dict[str, int]:
    """The bytes of each process: the daemon's `front` and `worker`, and `sessions` of whole models.

    `sessions_one_arena` is a process whose sessions share one arena, which whole models can share.
    """
    models = whole_models(name, tasks, folder / name, args.seed)
    store = store_of(models, folder / name / "store")
    with tempfile.TemporaryDirectory(prefix="edged-cache-", dir=folder) as cache:
        first = _daemon(store, Path(cache), args)  # prepares the blocks
        later = _daemon(store, Path(cache), args)
    return {
        "sessions": _sessions(models, args),
        "sessions_one_arena": _sessions(models, args, "--one-arena"),
        **later,
        **{f"{process}_at_first_start": count for process, count in first.items()},
    }


# --- the two sides ----------------------------------------------------------------------------


def _sessions(models: Sequence[Path], args: argparse.Namespace, *options: str) -> int:
    command = [sys.executable, "-m", "tools.bench.whole_sessions", *map(str, models), *options]
    for option in ("rows", "threads", "seed"):
        command += [f"--{option}", str(getattr(args, option))]
    command += ["--rounds", str(ROUNDS)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return int(json.loads(printed)["pss_bytes"])


def _daemon(store: Path, cache: Path, args: argparse.Namespace) -> dict[str, int]:
    """The bytes of the daemon's two processes after batches of each task alone and mixed ones."""
    manifests = Store(store).models()
    (value,) = {model.value(model.inputs[0]) for model in manifests.values()}
    random = np.random.default_rng(args.seed)
    sections = (
        f"[scheduler]\nmax_batch_rows = {args.rows}\n"
        f'[device]\nthreads = {args.threads}\ncache_dir = "{cache}"\nstart_timeout_s = {PATIENCE_S}'
    )
    with serving(store, sections, start_s=PATIENCE_S) as daemon:
        with Client(daemon.endpoint, timeout_s=PATIENCE_S) as client:
            for _ in range(ROUNDS):
                for task in manifests:
                    rows = random.random((args.rows, *value.shape), dtype=np.float32)
                    client.infer({value.name: rows}, task)
                row = random.random((1, *value.shape), dtype=np.float32)
                for pending in [client.submit({value.name: row}, task) for task in manifests]:
                    pending.result()
        front = psutil.Process(daemon.pid)
        (worker,) = front.children()
        return {
            "front": front.memory_full_info().pss,
            "worker": worker.memory_full_info().pss,
        }
