"""What cutting costs: a chain of six blocks against the uncut model in ONNX Runtime, one row.

As the daemon runs them: one pool of threads and one arena for all sessions, buffers bound. The
two take turns, so that a change of the machine's speed meets both alike.
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

from export.assemble import whole_block
from export.layers import Path as Layers
from export.source import Source, draft
from tools.bench.convnets import NETS, SIDE
from tools.bench.report import emit

Floats: TypeAlias = "npt.NDArray[np.float32]"

BLOCKS = 6
LIMITS = {"mobilenet_v2": 1.25, "resnet18": 1.08}  # of the ratio
ROUND = 10  # runs of one, then of the other


def register(commands: Any) -> None:
    parser = commands.add_parser("chain", help="a chain of six blocks against the uncut model")
    parser.add_argument("--runs", type=int, default=300, help="timed of each")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    ort.set_global_thread_pool_sizes(args.threads, 1)
    cpu = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    ort.create_and_register_allocator(cpu, None)
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
        limit=LIMITS,
        onnxruntime=ort.__version__,
    )
    return 0


def compare(build: Callable[[Path, int], None], args: argparse.Namespace) -> list[list[float]]:
    """Seconds of each run of the uncut model, and of the chain."""
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as folder:
        file = Path(folder, "uncut.onnx")
        build(file, args.seed)
        parts = cut(draft(Source("t", file)).path, BLOCKS)
        uncut, chain = Chain([file.read_bytes()]), Chain([whole_block(p).data for p in parts])
    image = np.random.default_rng(args.seed).standard_normal((1, 3, SIDE, SIDE), np.float32)
    expected = uncut(image)
    assert np.allclose(expected, chain(image), atol=1e-4 * np.abs(expected).max()), "this is a bug"
    return measure([lambda: uncut(image), lambda: chain(image)], args.runs)


def cut(path: Layers, count: int) -> list[Layers]:
    """`count` runs of the same number of layers, more or less, of a chain."""
    ends = [round(i * len(path.uses) / count) for i in range(count + 1)]
    parts = []
    for start, end in pairwise(ends):
        uses = path.uses[start:end]
        parts.append(Layers(uses[0].reads, uses[-1].writes, uses, path.values, path.layers))
    return parts


class Chain:
    """Sessions, each bound to the buffer that the one before it fills."""

    def __init__(self, models: Sequence[bytes]) -> None:
        options = ort.SessionOptions()
        options.use_per_session_threads = False
        options.add_session_config_entry("session.use_env_allocators", "1")
        self._input = np.empty((1, 3, SIDE, SIDE), np.float32)
        self._steps = []
        buffer = ort.OrtValue.ortvalue_from_numpy(self._input)
        self._first = buffer
        for model in models:
            session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            (taken,), (given,) = session.get_inputs(), session.get_outputs()
            made = session.run(None, {taken.name: buffer.numpy()})[0]
            binding = session.io_binding()
            binding.bind_ortvalue_input(taken.name, buffer)
            buffer = ort.OrtValue.ortvalue_from_numpy(made)
            binding.bind_ortvalue_output(given.name, buffer)
            self._steps.append((session, binding))
        self._output = buffer

    def __call__(self, image: Floats) -> Floats:
        self._first.update_inplace(image)
        for session, binding in self._steps:
            session.run_with_iobinding(binding)
        made: Floats = self._output.numpy()
        return made


def measure(calls: Sequence[Callable[[], object]], runs: int) -> list[list[float]]:
    """Seconds of each run of each of `calls`, in turns, after a first untimed round."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(-1, -(-runs // ROUND)):
        for call, took in zip(calls, times, strict=True):
            for _ in range(ROUND):
                started = time.perf_counter()
                call()
                if turn >= 0:
                    took.append(time.perf_counter() - started)
    return times
