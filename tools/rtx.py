"""`make rtx`: builds blocks with TensorRT-RTX, which needs no GPU to build, and prints a table.

It shows that every operator is read and that plans come out of the typed graphs. It is not the
Jetson's TensorRT: kernels, build times on a board and all that runs stay unknown.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edged.backends.base import go_on
from edged.backends.tensorrt.child import Builds
from edged.backends.tensorrt.orders import PLAN, About, BuildOrder, HeadShape, Pools, Precision
from edged.errors import EdgedError
from edged.store import Store
from tools.bench.report import emit

MODULE = "tensorrt_rtx_bindings"
PACKAGES = ("tensorrt-rtx-cu13-libs==1.7.1.116", "tensorrt-rtx-cu13-bindings==1.7.1.116")

MODELS = ("swinv2-micro", "vit-micro", "resnet18")

_TIMEOUT_S = 1800.0
_MAX_ROWS = 16
_POOLS = Pools(256 << 20, 2 << 30, 3)


@dataclass(frozen=True, slots=True)
class Row:
    """One entry of the table."""

    model: str
    what: str
    kind: str
    about: About
    file_bytes: int  # size of the block
    plan_bytes: int


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.rtx", description=__doc__)
    parser.add_argument("--packages", type=Path, default=Path(".rtx"), metavar="DIR")
    parser.add_argument("--demo", type=Path, default=Path(".demo"), help="the demo's folder")
    parser.add_argument(
        "--model", action="append", choices=(*MODELS, "swinv2-base"), help="these; default: all"
    )
    args = parser.parse_args(argv)
    _install(args.packages)
    rows, failed = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for model, store in _stores(args.model or MODELS, args.demo, Path(folder)):
            for row in _build_all(model, store, Path(folder)):
                failed += isinstance(row, str)
                rows += [row] if isinstance(row, Row) else []
                print(row if isinstance(row, str) else _line(row), flush=True)
    emit(
        "rtx",
        "builds with TensorRT-RTX 1.7 (not the Jetson's TensorRT)",
        seed=0,
        failed=failed,
        rows=[msgspec.to_builtins(row.about) | {"plan_bytes": row.plan_bytes} for row in rows],
    )
    return 1 if failed else 0


def _install(folder: Path) -> None:
    """TensorRT-RTX in a folder of its own, where only the processes that build look for it."""
    sys.path.append(str(folder.absolute()))
    if importlib.util.find_spec(MODULE) is None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder)]
        subprocess.run([*pip, "--no-deps", *PACKAGES], check=True)
        importlib.invalidate_caches()


def _build_all(model: str, store: Store, folder: Path) -> Iterator[Row | str]:
    """Every block in FP16, the largest one in FP32 as well, and the engines of its heads."""
    blocks = store.blocks()
    largest = max(blocks, key=lambda block: blocks[block])
    heads: dict[str, HeadShape] = {}
    for block, size in blocks.items():
        path = store.block_path(block)
        for precision in ("fp16", "fp32") if block == largest else ("fp16",):
            row = _build(model, str(path), precision, folder, size)
            yield row
            if isinstance(row, Row) and row.about.head is not None:
                heads[row.about.head.id] = row.about.head
    for shape in heads.values():
        yield _build(model, shape, "fp32", folder, 0)


def _build(
    model: str, what: str | HeadShape, precision: Precision, folder: Path, size: int
) -> Row | str:
    name = what.id if isinstance(what, HeadShape) else Path(what).name[:12]
    with tempfile.TemporaryDirectory(dir=folder) as target:
        order = BuildOrder(
            MODULE, what, target, precision, _MAX_ROWS, _POOLS, f"{target}/none.timings"
        )
        try:
            about = Builds(folder, timeout_s=_TIMEOUT_S).make(order, go_on)
        except EdgedError as error:
            return f"{model}: {name}: {error}"
        plan = Path(target) / PLAN
        kind = "weights of a head" if about.head else about.precision
        size_of_plan = plan.stat().st_size if plan.exists() else 0
        return Row(model, name, kind, about, size, size_of_plan)


def _line(row: Row) -> str:
    parity, worst = row.about.parity, ""
    if parity is not None:
        worst = "infinite" if parity.difference is None else f"{parity.difference:.2%}"
    cells = (
        row.model,
        row.what,
        row.kind,
        f"{row.file_bytes / 1e6:.2f}",
        f"{row.about.seconds - (parity.seconds if parity else 0):.1f}",
        f"{row.plan_bytes / 1e6:.2f}" if row.plan_bytes else "",
        f"{row.about.peak_bytes / 1e6:.0f}",
        "" if parity is None else f"{parity.seconds:.1f}",
        "" if parity is None else f"{parity.cosine:.6f}",
        worst,
        row.about.fallback,
    )
    return f"| {' | '.join(cells)} |"


def _stores(models: Sequence[str], demo: Path, folder: Path) -> Iterator[tuple[str, Store]]:
    """The demo's store, if it is there, and one for each of the models."""
    from tools.bench.backbones import MODELS as BACKBONES
    from tools.bench.backbones import exported, store_of
    from tools.bench.convnets import resnet18

    if (demo / "store").is_dir():
        yield "demo", Store(demo / "store")
    for model in models:
        path = folder / f"{model}.onnx"
        if model == "resnet18":
            resnet18(path, 0)
        else:
            exported(*BACKBONES[model](0), path)
        yield model, Store(store_of([path], folder / f"{model}.store"))


if __name__ == "__main__":
    sys.exit(main())
