"""Memory of tasks that share a backbone: the daemon against an ONNX Runtime session for each model.

Proportional set size (PSS) of all processes after load at one batch size. The daemon is the real
one, `edged serve` with its worker, asked over its socket; the sessions are those of one process
that loads the same models uncut. Every figure is of a fresh process. What a process takes whatever
it serves, its fixed cost, is measured on a model of one small layer.

Weights are random or published, heads are random: memory does not depend on their values.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from edged.client import Client
from edged.store import Store
from tools.bench.report import emit
from tools.bench.serving import serving

if TYPE_CHECKING:
    import torch

BACKBONES = ("swinv2-base", "efficientnet-lite0")
CLASSES = 10
ROUNDS = 4  # ONNX Runtime plans its memory in the first runs of a shape
PATIENCE_S = 600.0
_NOTHING = "nothing"


def register(commands: Any) -> None:
    parser = commands.add_parser("memory", help="tasks on one backbone against whole models")
    parser.add_argument("--models", nargs="+", choices=BACKBONES, default=BACKBONES)
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4, help="in each batch")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", type=Path, help="keep models and store here and use them again")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as temporary:
        folder = args.dir or Path(temporary)
        nothing = _measure(_NOTHING, 1, folder, args)
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
    """The daemon by whole models, as they are and above the fixed cost of either side."""
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
    """Bytes by process: of the daemon `front` and `worker`; `sessions` serve the same uncut.

    `sessions_one_arena` is a process that knows how to share what whole models can share.
    """
    models = _models(name, tasks, folder / name, args.seed)
    store = _store(models, folder / name / "store")
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
    """Bytes of the daemon's two processes after a batch of each task alone and mixed ones."""
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


# --- models -----------------------------------------------------------------------------------


def _store(models: Sequence[Path], folder: Path) -> Path:
    from export.add import add_models
    from export.source import Source

    store = Store(folder).create()
    if not store.names():
        add_models(store, [Source(path.stem, path) for path in models])
    return folder


def _models(name: str, tasks: int, folder: Path, seed: int) -> list[Path]:
    """Whole models as ONNX files: one backbone, and a random head for each task."""
    import onnx
    from onnx import numpy_helper

    paths = [folder / f"task{number}.onnx" for number in range(tasks)]
    if all(path.exists() for path in paths):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    whole = _exported(*MODELS[name](seed), folder / "whole.onnx")
    (head,) = [w for w in whole.graph.initializer if len(w.dims) == 2 and CLASSES in w.dims]
    for number, path in enumerate(paths):
        random = np.random.default_rng([seed, number])
        weights = random.standard_normal(tuple(head.dims)).astype(np.float32) / 32
        head.CopyFrom(numpy_helper.from_array(weights, head.name))
        onnx.save(whole, path)
    return paths


def _exported(module: torch.nn.Module, example: torch.Tensor, path: Path) -> Any:
    """The module as an ONNX model that takes any number of rows."""
    import onnx
    import torch

    rows = torch.export.Dim("rows", min=1, max=64)
    program = torch.onnx.export(
        module.eval(),
        (example,),
        dynamo=True,
        dynamic_shapes=({0: rows},),
        input_names=["x"],
        output_names=["y"],
        verbose=False,
    )
    assert program is not None
    program.save(path, external_data=False)
    return onnx.load(path)


def _swinv2_base(seed: int) -> tuple[torch.nn.Module, torch.Tensor]:
    """Swin Transformer V2, base, window 8, 256 px (arXiv:2111.09883), 87 million random weights."""
    import torch
    from transformers import Swinv2Config, Swinv2ForImageClassification

    class Logits(torch.nn.Module):
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.model(pixels).logits

    torch.manual_seed(seed)
    config = Swinv2Config(
        image_size=256,
        window_size=8,
        embed_dim=128,
        depths=[2, 2, 18, 2],
        num_heads=[4, 8, 16, 32],
        num_labels=CLASSES,
    )
    return Logits(Swinv2ForImageClassification(config)), torch.zeros(2, 3, 256, 256)


def _efficientnet_lite0(seed: int) -> tuple[torch.nn.Module, torch.Tensor]:
    """The backbone of `make demo`."""
    import torch

    from tools.demo.backbone import efficientnet_lite0

    torch.manual_seed(seed)
    module, example = efficientnet_lite0()
    module._fc = torch.nn.Linear(1280, CLASSES)
    return module, example


def _nothing(seed: int) -> tuple[torch.nn.Module, torch.Tensor]:
    """One small layer: what is left is the cost of the processes."""
    import torch

    torch.manual_seed(seed)
    return torch.nn.Linear(4, CLASSES), torch.zeros(2, 4)


MODELS: dict[str, Callable[[int], tuple[torch.nn.Module, torch.Tensor]]] = {
    "swinv2-base": _swinv2_base,
    "efficientnet-lite0": _efficientnet_lite0,
    _NOTHING: _nothing,
}
