"""One backbone for two sizes of picture: its bytes in the store, in the cache and in memory.

Each figure is that of a store with both models over that of the larger of two stores with one each.
Memory is what the worker has mapped of prepared blocks (PSS), and what the ledger counts as blocks.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from edged.client import Client
from edged.config import cores
from edged.store import Store
from export.listing import contents
from tools.bench.backbones import MODELS, whole_models
from tools.bench.report import emit
from tools.bench.serving import serving


def register(commands: Any) -> None:
    parser = commands.add_parser("sizes", help="one backbone at two sizes of picture")
    parser.add_argument("--models", choices=MODELS, default="efficientnet-lite0")
    parser.add_argument("--sides", type=int, nargs=2, default=(224, 320), help="pixels")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--seed", type=int, default=1)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as name:
        folder = Path(name)
        models = {
            side: whole_models(args.models, 1, folder / str(side), args.seed, side)[0]
            for side in args.sides
        }
        alone = [_figures(folder / f"only-{side}", {side: models[side]}, args) for side in models]
        both = _figures(folder / "both", models, args)
    emit(
        "sizes",
        "measured",
        seed=args.seed,
        model=args.models,
        sides=args.sides,
        threads=args.threads,
        bytes_alone=alone,
        bytes_both=both,
        ratios={key: round(both[key] / max(one[key] for one in alone), 3) for key in both},
    )
    return 0


def _figures(folder: Path, models: Mapping[int, Path], args: argparse.Namespace) -> dict[str, int]:
    """Bytes of the store, of its prepared blocks, and of what a daemon holds of them."""
    from export.add import add_models
    from export.source import Source

    store = Store(folder / "store").create()
    add_models(store, [Source(f"side{side}", path) for side, path in models.items()])
    cache = folder / "cache"
    sections = f'[device]\ncache_dir = "{cache}"\nthreads = {args.threads}\n'
    with serving(store.path, sections) as daemon, Client(daemon.endpoint) as client:
        for side in models:
            row = np.zeros((1, 3, side, side), np.float32)
            client.infer({"x": row}, [f"side{side}"])
        (worker,) = psutil.Process(daemon.pid).children()
        mapped = [one for one in worker.memory_maps() if one.path.startswith(f"{cache}/")]
        ledger = client.statistics().memory
    files = [file.stat() for file in cache.rglob("*") if file.is_file()]
    return {
        "store": contents(store).block_bytes,
        "cache": sum({file.st_ino: file.st_size for file in files}.values()),
        "mapped": sum(one.pss for one in mapped),
        "ledger": int(ledger["blocks_bytes"]),
    }
