"""How soon a daemon answers: from its command to the first correct answer of the first task, and to
the last task's.

Beside it, in the same run, a bare process that imports the same libraries and opens the same
prepared files: one model for the first answer, all of them for the last. Measured are a second
start, whose blocks are prepared, the time from the death of the worker, and a first start with
nothing prepared. Rounds take turns; each figure is the median.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from edged import backends
from edged.client import Client
from edged.config import cores
from edged.manifest import Manifest
from edged.store import Store
from tools.bench import convnets
from tools.bench.backbones import MODELS, store_of, whole_models
from tools.bench.report import emit

LARGE = "resnet50"  # 107 MB each, and no two share a block
PATIENCE_S = 600.0
TOLERANCE = 1e-3


def register(commands: Any) -> None:
    parser = commands.add_parser("start", help="from the command to the first and the last answer")
    parser.add_argument("--models", choices=[*MODELS, LARGE], default="efficientnet-lite0")
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", type=Path, help="keep models and store here and use them again")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as temporary:
        folder = (args.dir or Path(temporary)) / f"{args.models}-{args.tasks}"
        bed = _Bed(_store(folder, args), Path(temporary), args.threads, args.seed)
        first = bed.first_start()
        rounds = [bed.round() for _ in range(args.rounds)]
    second = {key: round(statistics.median(r[key] for r in rounds), 3) for key in rounds[0]}
    emit(
        "start",
        "measured",
        seed=args.seed,
        models=args.models,
        tasks=args.tasks,
        threads=args.threads,
        rounds=args.rounds,
        second_start_s=second,
        ratio_first=round(second["first"] / second["bare_first"], 2),
        ratio_last=round(second["last"] / second["bare_last"], 2),
        ratio_killed_first=round(second["killed_first"] / second["bare_first"], 2),
        ratio_killed_last=round(second["killed_last"] / second["bare_last"], 2),
        first_start_s={key: round(value, 3) for key, value in first.items()},
        ratio_first_start=round(
            (first["first"] - first["prepare_first"]) / second["bare_first"], 2
        ),
        all_s=[{key: round(value, 3) for key, value in r.items()} for r in rounds],
    )
    return 0


def _store(folder: Path, args: argparse.Namespace) -> Path:
    if args.models != LARGE:
        models = whole_models(args.models, args.tasks, folder, args.seed)
        return store_of(models, folder / "store")
    folder.mkdir(parents=True, exist_ok=True)
    models = [folder / f"task{number:02}.onnx" for number in range(args.tasks)]
    for number, path in enumerate(models):
        if not path.exists():
            seeds = [(args.seed, number, layer) for layer in range(64)]
            convnets.resnet(path, 50, seeds, side=64, classes=1600)
    return store_of(models, folder / "store")


class _Bed:
    """One store and the cache of its blocks, prepared for this host."""

    def __init__(self, store: Path, folder: Path, threads: int, seed: int) -> None:
        self._store = Store(store)
        self._manifests = self._store.models()
        self._threads = threads
        self._cache = folder / "cache"
        (value,) = {model.value(model.inputs[0]) for model in self._manifests.values()}
        random = np.random.default_rng(seed)
        self._x = random.standard_normal((1, *value.shape)).astype(np.float32)
        self._folder = folder
        self._answers: list[NDArray[np.float32]] = []  # of the bare process, by task

    def first_start(self) -> dict[str, float]:
        """Seconds of a start with nothing prepared, and what preparing the blocks alone takes."""
        taken = self._prepared_in(self._folder / "prepared")
        self._cache = self._folder / "prepared"
        self._bare(len(self._manifests))
        self._cache = self._folder / "cache"
        with self._daemon() as (first_s, last_s, _):
            return {"first": first_s, "last": last_s, **taken}

    def round(self) -> dict[str, float]:
        """Seconds of one second start, one death of its worker, and the bare process twice."""
        bare_first_s = self._bare(1)[0]
        bare_last_s = self._bare(len(self._manifests))[-1]
        with self._daemon() as (first_s, last_s, pid):
            killed_s = self._kill(pid)
        return {
            "first": first_s,
            "last": last_s,
            "bare_first": bare_first_s,
            "bare_last": bare_last_s,
            "killed_first": killed_s[0],
            "killed_last": killed_s[1],
        }

    # --- the daemon -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _daemon(self) -> Iterator[tuple[float, float, int]]:
        """A daemon that has answered: seconds to the first and the last answer, and its pid."""
        with tempfile.TemporaryDirectory(prefix="edged-bench-") as name:
            socket, config = Path(name) / "edged.sock", Path(name) / "edged.toml"
            self._endpoint = f"ipc://{socket}"
            config.write_text(
                f'store = "{self._store.path.absolute()}"\n'
                f'[server]\nendpoints = ["{self._endpoint}"]\n'
                f'[device]\nthreads = {self._threads}\ncache_dir = "{self._cache}"\n'
                f"start_timeout_s = {PATIENCE_S}\n"
            )
            command = [sys.executable, "-m", "edged", "serve", "--config", str(config)]
            began_s = time.perf_counter()
            daemon = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            try:
                while not socket.exists():
                    if daemon.poll() is not None:
                        raise RuntimeError(f"the daemon ended with status {daemon.returncode}")
                    time.sleep(0.001)
                yield (*self._answered(began_s), daemon.pid)
            finally:
                daemon.send_signal(signal.SIGTERM)
                daemon.wait(PATIENCE_S)

    def _answered(self, began_s: float) -> tuple[float, float]:
        """Seconds until the first answer and the last; every one is compared."""
        with Client(self._endpoint, timeout_s=PATIENCE_S) as client:
            name = next(iter(self._manifests.values())).inputs[0]
            pending = [client.submit({name: self._x}, model.task) for model in self._models]
            taken_s = []
            for one, model, expected in zip(pending, self._models, self._answers, strict=True):
                found = next(iter(one.result()[model.task].tensors.values()))
                taken_s.append(time.perf_counter() - began_s)
                if not np.allclose(found.ravel(), expected, rtol=TOLERANCE, atol=TOLERANCE):
                    raise RuntimeError(f"{model.name} was answered wrongly")
        return taken_s[0], taken_s[-1]

    def _kill(self, pid: int) -> tuple[float, float]:
        """End the worker when the daemon has nothing to do; seconds to its next answers."""
        (worker,) = psutil.Process(pid).children()
        while worker.cpu_percent(0.5) > 5.0:  # it measures in idle moments
            pass
        began_s = time.perf_counter()
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait(PATIENCE_S)
        return self._answered(began_s)

    # --- the bare process -----------------------------------------------------------------------

    def _bare(self, models: int) -> list[float]:
        """Seconds to each answer of a process that serves so many models, from its command."""
        asked = {
            "threads": self._threads,
            "x": self._x.ravel().tolist(),
            "shape": self._x.shape,
            "models": [self._plain(model) for model in self._models[:models]],
        }
        data = json.dumps(asked).encode()
        command = [sys.executable, "-m", "tools.bench.bare_start"]
        began_s = time.perf_counter()
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(data)
            process.stdin.close()
            taken_s, answers = [], []
            for line in process.stdout:
                taken_s.append(time.perf_counter() - began_s)
                answers.append(np.asarray(json.loads(line), np.float32))
        if len(answers) != models:
            raise RuntimeError("the bare process has failed")
        self._answers = self._answers if len(self._answers) > models else answers
        return taken_s

    @property
    def _models(self) -> Sequence[Manifest]:
        """In the order in which the daemon loads them."""
        return [self._manifests[name] for name in sorted(self._manifests)]

    def _plain(self, model: Manifest) -> dict[str, Any]:
        return {
            "input": model.inputs[0],
            "output": model.outputs[0],
            "steps": [
                (str(next(self._cache.glob(f"{step.block}-*/model.onnx"))), step.reads, step.writes)
                for step in model.steps
            ],
        }

    def _prepared_in(self, cache: Path) -> dict[str, float]:
        """Seconds that preparing takes: the blocks of the first model, and those of all."""
        shutil.rmtree(cache, ignore_errors=True)
        backend = backends.create("onnxruntime", {}, threads=self._threads, cache_dir=cache)
        began_s = time.perf_counter()
        taken_s = []
        for model in self._models:
            for step in model.steps:
                if not backend.is_prepared(step.block):
                    self._store.verify_block(step.block)
                    backend.prepare(step.block, self._store.block_path(step.block))
            taken_s.append(time.perf_counter() - began_s)
        return {"prepare_first": taken_s[0], "prepare_all": taken_s[-1]}
