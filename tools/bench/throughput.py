"""The daemon on a real backbone against a loop written by hand, at both ends of the load.

The loop is one process that decodes frames and runs the uncut models (tools.bench.whole_loop), in
the arrangement that is best at saturation: lanes of one thread, or one of all threads, and the
size of its batches. It uses all threads for a lone frame. The daemon is the real one with its
default settings; its client, its front and its worker share the cores that the loop has for itself.
Both take turns, and ratios are of neighbouring turns, so that a change of the machine's speed
affects both; pairs are loop, daemon. Turns in which others took more than a twentieth of the
processors do not count. All frames differ. If there are several tasks, every request asks for all
of them, and the loop decodes a frame once.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import msgspec
import numpy as np
import psutil
import simplejpeg

from edged import malloc as heap
from edged import preprocess
from edged.client import Client
from edged.config import cores
from edged.errors import Unavailable
from edged.manifest import Preprocess
from tools.bench.backbones import store_of, whole_models
from tools.bench.report import emit
from tools.bench.serving import CpuMeter, Others, closed_loop, serving
from tools.demo.daemon import Daemon

BACKBONE = "efficientnet-lite0"
SIZES = (1, 2, 4, 8, 16)  # batch sizes of the loop
FRAMES = 64  # number of distinct frames
HEIGHT, WIDTH, QUALITY = 480, 640, 90  # JPEG files like those of a camera
SCAN_S = 0.5
DISTURBED = 0.05  # share of the processors that others take in a turn that is not counted
IN_FLIGHT = 64
_KEEP_BYTES, _KEEP_PIECE_BYTES = 64 * 2**20, 4 * 2**20  # docs/tuning.md advises this to clients


def register(commands: Any) -> None:
    parser = commands.add_parser("throughput", help="a real backbone against a loop by hand")
    parser.add_argument("--side", type=int, default=224, help="of the model's input, in pixels")
    parser.add_argument("--tasks", type=int, default=1, help="asked for on each frame")
    parser.add_argument("--input", choices=("jpeg", "tensor"), default="jpeg")
    parser.add_argument("--rounds", type=int, default=8, help="turns of either side")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each turn")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds for quiet turns")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", type=Path, help="keep models and store here and use them again")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    heap.keep(_KEEP_BYTES, _KEEP_PIECE_BYTES)
    side = args.side
    spec = Preprocess(height=side, width=side, resize="stretch", mean=(0.5,) * 3, std=(0.25,) * 3)
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as temporary:
        folder = (args.dir or Path(temporary)) / f"{BACKBONE}-{side}-{args.tasks}"
        models = whole_models(BACKBONE, args.tasks, folder, args.seed, side)
        store = store_of(models, folder / "store", spec)
        files = _jpegs(args.seed)
        inputs: list[Any] = files if args.input == "jpeg" else _tensors(files, spec)
        frames = Path(temporary) / "frames"
        _write(inputs, frames)
        as_json = msgspec.json.encode(spec).decode() if args.input == "jpeg" else None
        cache = f'[device]\ncache_dir = "{folder.absolute()}/cache"\n'
        with (
            _Loop(models, frames, as_json) as loop,
            serving(store, cache) as daemon,
            Client(daemon.endpoint) as client,
        ):
            figures = _compare(loop, client, daemon, inputs, args)
            batches = client.statistics().batches
    emit(
        "throughput",
        "measured",
        seed=args.seed,
        model=BACKBONE,
        side=side,
        tasks=args.tasks,
        input=args.input,
        **figures,
        batches={batch.rows: batch.count for batch in batches},
    )
    return 0


def _compare(
    loop: _Loop, client: Client, daemon: Daemon, inputs: Sequence[Any], args: argparse.Namespace
) -> dict[str, Any]:
    tasks = [f"task{number}" for number in range(args.tasks)]
    scan = {
        (how, rows): loop(do=how, rows=rows, seconds=SCAN_S)["rate"]
        for how in ("lanes", "wide")
        for rows in SIZES
    }
    best, rows = max(scan, key=lambda key: scan[key])
    front = psutil.Process(daemon.pid)
    others = Others([loop.pid, front.pid, *(child.pid for child in front.children())])
    rates: list[tuple[float, float]] = []
    alone_s: list[tuple[list[float], list[float]]] = []
    cpu_us: list[dict[str, float]] = []
    disturbed = 0
    give_up_s = time.monotonic() + args.patience
    while min(len(rates), len(alone_s)) < args.rounds and time.monotonic() < give_up_s:
        others.share()
        by_hand = loop(do=best, rows=rows, seconds=args.seconds)
        meter, count = CpuMeter(daemon), _answered(client)
        _, rate = closed_loop(client, inputs, tasks, in_flight=IN_FLIGHT, seconds=args.seconds)
        used_us = meter.us_each(_answered(client) - count)
        if others.share() < DISTURBED:
            rates.append((by_hand["rate"], rate))
            cpu_us.append({"loop": by_hand["cpu_us"], **used_us})
        else:
            disturbed += 1
        times_s = loop(do="alone", seconds=args.seconds / 2)["times_s"]
        trips, _ = closed_loop(client, inputs, tasks, in_flight=1, seconds=args.seconds / 2)
        if others.share() < DISTURBED:
            alone_s.append((times_s, trips))
        else:
            disturbed += 1
    if not rates or not alone_s:
        raise Unavailable(f"others took the processors in all {disturbed} turns: try again later")
    return {
        "saturated": {
            "loop": f"{best}, batches of {rows}",
            "results_per_s": [[round(rate * args.tasks, 1) for rate in pair] for pair in rates],
            "ratio": round(median(ours / theirs for theirs, ours in rates), 3),
            "cpu_us": {name: round(median(of[name] for of in cpu_us), 1) for name in cpu_us[0]},
            "cpu_ratio": round(
                median(of["loop"] / (sum(of.values()) - of["loop"]) for of in cpu_us), 3
            ),
        },
        "alone": {
            "p50_ms": [[round(1e3 * median(times), 2) for times in pair] for pair in alone_s],
            "ratio": round(median(median(ours) / median(theirs) for theirs, ours in alone_s), 3),
        },
        "disturbed_turns": disturbed,
        "scan": {f"{how} of {rows}": round(rate, 1) for (how, rows), rate in scan.items()},
    }


def _answered(client: Client) -> int:
    """The number of frames that the daemon has answered since its start."""
    return client.statistics().tasks[0].inference_count


class _Loop:
    """The process of the loop, which takes no processor time between calls."""

    def __init__(self, models: Sequence[Path], frames: Path, spec: str | None) -> None:
        threads = cores()
        self._command = [sys.executable, "-m", "tools.bench.whole_loop", *map(str, models)]
        self._command += ["--threads", str(threads), "--frames", str(frames)]
        self._command += ["--preprocess", spec] if spec is not None else []

    def __enter__(self) -> _Loop:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True)
        self.pid = self._process.pid
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def __call__(self, **order: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found


def _jpegs(seed: int) -> list[bytes]:
    """Crops of four photographs, as a camera would send them; no two are alike."""
    from skimage import data

    random = np.random.default_rng(seed)
    photos = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    files = []
    for number in range(FRAMES):
        photo = photos[number % len(photos)]
        height, width = (int(extent * random.uniform(0.7, 0.95)) for extent in photo.shape[:2])
        top, left = (
            random.integers(whole - part)
            for whole, part in zip(photo.shape[:2], (height, width), strict=True)
        )
        crop = cv2.resize(photo[top : top + height, left : left + width], (WIDTH, HEIGHT))
        files.append(simplejpeg.encode_jpeg(np.ascontiguousarray(crop), quality=QUALITY))
    return files


def _tensors(files: Sequence[bytes], spec: Preprocess) -> list[dict[str, Any]]:
    """The same frames as tensors that the models take, (rows 1, 3, side, side)."""
    tensors = np.empty((len(files), 1, 3, spec.height, spec.width), np.float32)
    for data, tensor in zip(files, tensors, strict=True):
        preprocess.prepare(data, spec, tensor[0])
    return [{"x": tensor} for tensor in tensors]


def _write(inputs: Sequence[Any], folder: Path) -> None:
    folder.mkdir()
    for number, one in enumerate(inputs):
        path = folder / f"{number:02}"
        if isinstance(one, bytes):
            path.write_bytes(one)
        else:
            np.save(path, one["x"])
