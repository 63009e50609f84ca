"""The cost of cutting: a chain of six blocks against the uncut model in ONNX Runtime, one row.

The chain runs in the daemon's backend with its defaults, on all threads; the uncut model runs in
ONNX Runtime with its defaults. They take turns, so that a change of the machine's speed affects
both.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edged import backends
from edged.backends.base import BlockUse
from edged.config import cores
from edged.paths.layout import Tensor
from export.assemble import whole_block
from export.layers import Path as Layers
from export.source import Source, draft
from tools.bench.convnets import NETS, SIDE
from tools.bench.report import emit

Floats: TypeAlias = "npt.NDArray[np.float32]"

BLOCKS = 6
RATIOS_MAX = {"mobilenet_v2": 1.25, "resnet18": 1.08}
TURN = 10  # runs of one side before the other side's turn
PAUSE_S = 0.05


def register(commands: Any) -> None:
    parser = commands.add_parser("chain", help="a chain of six blocks against the uncut model")
    parser.add_argument("--runs", type=int, default=300, help="timed of each")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    times = {name: compare(build, args) for name, build in NETS.items()}
    emit(
        "chain",
        "measured",
        seed=args.seed,
        blocks=BLOCKS,
        rows=1,
        threads=args.threads,
        runs=args.runs,
        fastest_ms={name: [round(1e3 * min(t), 3) for t in pair] for name, pair in times.items()},
        median_ms={name: [round(1e3 * median(t), 3) for t in pair] for name, pair in times.items()},
        ratio={name: round(median(pair[1]) / median(pair[0]), 3) for name, pair in times.items()},
        limit=RATIOS_MAX,
        onnxruntime=ort.__version__,
    )
    return 0


def compare(build: Callable[[Path, int], None], args: argparse.Namespace) -> list[list[float]]:
    """The seconds of each run of the uncut model, and of each run of the chain."""
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as folder:
        file = Path(folder, "uncut.onnx")
        build(file, args.seed)
        parts = cut(draft(Source("t", file)).path, BLOCKS)
        uncut = Uncut(file.read_bytes(), args.threads)
        chain = Chain([whole_block(p).data for p in parts], Path(folder), args.threads)
    image = np.random.default_rng(args.seed).standard_normal((1, 3, SIDE, SIDE), np.float32)
    expected = uncut(image)
    assert np.allclose(expected, chain(image), atol=1e-4 * np.abs(expected).max()), "this is a bug"
    return measure([lambda: uncut(image), lambda: chain(image)], args.runs)


def cut(path: Layers, count: int) -> list[Layers]:
    """A chain cut into `count` parts with about the same number of layers."""
    ends = [round(i * len(path.uses) / count) for i in range(count + 1)]
    parts = []
    for start, end in pairwise(ends):
        uses = path.uses[start:end]
        parts.append(Layers(uses[0].reads, uses[-1].writes, uses, path.values, path.layers))
    return parts


class Uncut:
    """The uncut model as one ONNX Runtime session with its defaults."""

    def __init__(self, model: bytes, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        (self._input,) = (given.name for given in self._session.get_inputs())

    def __call__(self, image: Floats) -> Floats:
        made: Floats = self._session.run(None, {self._input: image})[0]
        return made


class Chain:
    """Blocks in the daemon's backend, each on the buffer that the one before it fills."""

    def __init__(self, models: Sequence[bytes], folder: Path, threads: int) -> None:
        self._backend = backends.create("onnxruntime", {}, threads=threads, cache_dir=folder)
        self._steps: list[tuple[str, list[Floats], list[Floats]]] = []
        taken = np.empty((1, 3, SIDE, SIDE), np.float32)
        for number, model in enumerate(models):
            block, path = f"{number:064x}", folder / f"{number}.onnx"
            path.write_bytes(model)
            made = Uncut(model, 1)(taken)
            use = BlockUse(*((Tensor("FP32", array.shape[1:]),) for array in (taken, made)))
            self._backend.load(block, path, [use])
            self._steps.append((block, [taken], [made]))
            taken = made

    def __call__(self, image: Floats) -> Floats:
        """The output, which is valid until the next call."""
        self._steps[0][1][0][:] = image
        for block, inputs, outputs in self._steps:
            self._backend.run(block, inputs, outputs, wide=True)
        return self._steps[-1][2][0]


def measure(calls: Sequence[Callable[[], object]], runs: int) -> list[list[float]]:
    """The seconds of each run of each of `calls`, in turns, after a first untimed round.

    The threads of the other side go to sleep before each turn; its first run is not timed.
    """
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(-1, -(-runs // TURN)):
        for call, took in zip(calls, times, strict=True):
            time.sleep(PAUSE_S)
            call()
            for _ in range(TURN):
                started = time.perf_counter()
                call()
                if turn >= 0:
                    took.append(time.perf_counter() - started)
    return times
