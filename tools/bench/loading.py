"""Loading and unloading: time to switch models, speed of loading, effect on others, memory.

Every part prints one line with ratios of figures of that run. Weights are random; a conv block is
three 3 x 3 convolutions of 512 channels, a dense one three products with 1536 x 1536 weights, which
ONNX Runtime packs anew at each load; both have 28 MB. Files are evicted from the page cache before
each cold read or load. Part `cgroup` needs root and memory control groups of version 1.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import random
import select
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edged.backends.block_files import files_of
from edged.client import Client
from edged.client.admin import Admin
from edged.config import cores
from edged.core.events import BlockLoaded, BlockLoadFailed, Load, Unload
from edged.device.process import WorkerProcess
from edged.device.settings import Settings
from edged.errors import EdgedError
from edged.link import messages as link
from edged.store import Store
from tools.bench.backbones import chain_of
from tools.bench.report import emit
from tools.bench.serving import quantiles_ms, serving

MIB = 1 << 20
LAYERS = 3
CHUNK_BYTES = MIB
PATIENCE_S = 120.0
SHAPES = {"conv": (512, 3, 3), "dense": (1536,)}


def register(commands: Any) -> None:
    parser = commands.add_parser("loading", help="blocks that come and go")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load by clients")
    parser.add_argument("--count", type=int, default=1000, help="cycles and failures")
    parser.add_argument("--runs", type=int, default=5, help="of what is timed; medians count")
    parser.add_argument("--seed", type=int, default=1)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    for part in args.parts:
        with tempfile.TemporaryDirectory(prefix="edged-bench-") as name:
            PARTS[part](Path(name), args)
    return 0


# --- parts ------------------------------------------------------------------------------------


def _disk(folder: Path, args: argparse.Namespace) -> None:
    """A cold load against a plain read of the files that it reads, and of the block's own file."""
    for kind in ("conv", "dense"):
        store = _store(folder / kind, kind, {"one": [0], "two": [1]})
        block = store.model("one").steps[0].block
        with _worker(store) as worker:
            (entry,) = (folder / kind / "cache").glob(f"{block}*")
            files = list(entry.iterdir())
            figures: dict[str, list[float]] = {"read": [], "read_block": [], "load": []}
            for _ in range(args.runs):
                worker.unload(block)
                _evict(files)
                figures["read"].append(_timed_ms(partial(_read, files)))
                own = files_of(store.block_path(block))
                _evict(own)
                figures["read_block"].append(_timed_ms(partial(_read, own)))
                _evict(files)
                figures["load"].append(worker.load(block).load_s * 1e3)
        medians = {name: round(statistics.median(times), 2) for name, times in figures.items()}
        emit(
            "loading-disk",
            "measured",
            seed=args.seed,
            kind=kind,
            bytes=sum(file.stat().st_size for file in files),
            block_bytes=store.block_size(block),
            ms=medians,
            ratio_of_plain_read=round(medians["read"] / medians["load"], 3),
            ratio_of_plain_read_of_block=round(medians["read_block"] / medians["load"], 3),
        )


def _switch(folder: Path, args: argparse.Namespace) -> None:
    """First answers of two models that share 9 of 10 blocks, when one model fits at a time."""
    for kind in ("conv", "dense"):
        shared = list(range(9))
        models = {"a": [*shared, 100], "b": [*shared, 101], "other": list(range(200, 210))}
        store = _store(folder / kind, kind, models)
        cache = folder / kind / "cache"
        given = {"x": np.ones((1, *SHAPES[kind]), np.float32)}
        besides = _besides_blocks(store, cache)
        size = sum(store.block_size(step.block) for step in store.model("a").steps)
        figures: dict[str, list[float]] = {"full": [], "switch": [], "resident": []}
        with _serving(store, cache, besides + round(1.05 * size)) as client:
            for _ in range(args.runs):
                for name, model in (
                    ("", "other"),
                    ("full", "a"),
                    ("switch", "b"),
                    ("resident", "b"),
                ):
                    if name != "resident":
                        _evict(cache.glob("*/*"))
                    took_ms = _timed_ms(partial(client.infer, given, model))
                    figures.setdefault(name, []).append(took_ms)
        medians = {name: round(statistics.median(figures[name]), 2) for name in figures if name}
        emit(
            "loading-switch",
            "measured",
            seed=args.seed,
            kind=kind,
            model_bytes=size,
            shared=0.9,
            first_answer_ms=medians,
            ratio=round(medians["switch"] / medians["full"], 3),
            ratio_above_resident=round(
                (medians["switch"] - medians["resident"]) / (medians["full"] - medians["resident"]),
                3,
            ),
        )


def _others(folder: Path, args: argparse.Namespace) -> None:
    """The latency of a resident model, alone and while others are loaded and unloaded all the time.

    An administrator loads the others, so that they have no batches. The two cases take turns.
    """
    others = {f"m{i}": [10 * i + j for j in range(1, 5)] for i in range(1, 5)}
    store = _store(folder, "dense", {"resident": [0], **others})
    size = store.block_size(store.model("resident").steps[0].block)
    given = {"x": np.ones((1, *SHAPES["dense"]), np.float32)}
    loads = 0
    alone_s: list[float] = []
    during_s: list[float] = []
    with (
        _daemon(store, folder / "cache", 0, 'pinned = ["resident"]\n') as endpoint,
        _client(endpoint) as client,
    ):
        admin_endpoint = endpoint.replace(".sock", ".admin")
        with Admin(admin_endpoint) as admin:
            for model in others:
                admin.set_model(model, "unloaded")
        for _ in range(args.runs):
            alone_s += _paced(client, given, "resident", args.seconds / args.runs)
            with _loading(admin_endpoint, list(others)) as loaded:
                during_s += _paced(client, given, "resident", args.seconds / args.runs)
            loads += len(loaded)
    alone, during = quantiles_ms(alone_s), quantiles_ms(during_s)
    emit(
        "loading-others",
        "measured",
        seed=args.seed,
        rate_per_s=RATE_PER_S,
        models_loaded=loads,
        bytes_per_s=round(loads * 4 * size / args.seconds),
        without=alone,
        during=during,
        ratio_p99=round(during["p99_ms"] / alone["p99_ms"], 3),
    )


def _cycles(folder: Path, args: argparse.Namespace) -> None:
    """The PSS of the worker after many loads and unloads, against that after a few."""
    for kind in ("conv", "dense"):
        store = _store(folder / kind, kind, {"one": [0], "two": [1]})
        block = store.model("one").steps[0].block
        with _worker(store) as worker:

            def cycle(worker: _Worker = worker, block: str = block) -> None:
                worker.unload(block)
                worker.load(block)

            _grown(f"loading-cycles-{kind}", worker, cycle, args)


def _failures(folder: Path, args: argparse.Namespace) -> None:
    """The PSS of the worker after many loads that fail (a missing file, a flipped bit)."""
    store = _store(folder, "dense", {"one": [0], "two": [1]})
    block = store.model("one").steps[0].block
    path = store.block_path(block)
    whole = path.read_bytes()
    flipped = whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:]
    for name, content in (("missing", None), ("flipped", flipped)):
        with _worker(store) as worker:
            worker.unload(block)
            for file in (folder / "cache").glob(f"{block}*/*"):
                file.unlink()
            path.unlink()
            if content is not None:
                path.write_bytes(content)

            def fail(worker: _Worker = worker) -> None:
                failed = worker.ask(Load(block))
                assert isinstance(failed, BlockLoadFailed), failed

            _grown(f"loading-failures-{name}", worker, fail, args)
        path.write_bytes(whole)


def _refusals(folder: Path, args: argparse.Namespace) -> None:
    """The PSS of front and worker after many requests for models that can never fit."""
    models = {"small": [0], "large": list(range(1, 9))}
    store = _store(folder, "dense", models)
    cache = folder / "cache"
    besides = _besides_blocks(store, cache)
    size = store.block_size(store.model("small").steps[0].block)
    given = {"x": np.ones((1, *SHAPES["dense"]), np.float32)}
    with _serving(store, cache, besides + round(2.5 * size)) as client:

        def refuse(count: int) -> int:
            for _ in range(count):
                with contextlib.suppress(EdgedError):
                    client.infer(given, "large")
                    raise AssertionError("a model was served that cannot fit")
            memory = client.statistics().memory
            return memory["front_pss_bytes"] + memory["worker_pss_bytes"]

        refuse(args.count // 10)
        before = refuse(1)
        after = refuse(args.count)
    emit(
        "loading-refusals",
        "measured",
        seed=args.seed,
        count=args.count,
        pss_bytes=[before, after],
        ratio=round(after / before, 4),
    )


def _cgroup(folder: Path, args: argparse.Namespace) -> None:
    """A mixed load in a memory control group: is the account right, and is the limit reached?"""
    models = {f"m{i}": [0, 10 * i + 1, 10 * i + 2] for i in range(1, 9)}
    store = _store(folder, "conv", models)
    cache = folder / "cache"
    besides = _besides_blocks(store, cache)
    size = store.block_size(store.model("m1").steps[0].block)
    budget = besides + 8 * size
    given = {"x": np.ones((1, *SHAPES["conv"]), np.float32)}
    _evict(_files_of_python())
    _evict([*cache.glob("*/*"), *_files(store.path / "blocks")])
    group = Path(f"/sys/fs/cgroup/memory/edged-bench-{os.getpid()}")
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(budget + besides))
        figures = _in_group(group, store, cache, budget, given, args)
        stat = dict(
            line.split() for line in (group / "memory.oom_control").read_text().splitlines()
        )
        figures["failcnt"] = int((group / "memory.failcnt").read_text())
        figures["oom_kills"] = int(stat["oom_kill"])
        figures["peak_bytes"] = int((group / "memory.max_usage_in_bytes").read_text())
    finally:
        _remove_group(group)
    emit(
        "loading-cgroup",
        "measured",
        seed=args.seed,
        models=len(models),
        model_bytes=3 * size,
        fixed_bytes=besides,
        budget_bytes=budget,
        limit_bytes=budget + besides,
        **figures,
    )


PARTS: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "disk": _disk,
    "switch": _switch,
    "others": _others,
    "cycles": _cycles,
    "failures": _failures,
    "refusals": _refusals,
    "cgroup": _cgroup,
}

RATE_PER_S = 100


def _grown(name: str, worker: _Worker, step: Callable[[], None], args: argparse.Namespace) -> None:
    for _ in range(max(10, args.count // 10)):
        step()
    before = worker.memory()
    started_s = time.monotonic()
    for _ in range(args.count):
        step()
    took_s = time.monotonic() - started_s
    after = worker.memory()
    emit(
        name,
        "measured",
        seed=args.seed,
        count=args.count,
        seconds=round(took_s, 1),
        pss_bytes=[before.pss_bytes, after.pss_bytes],
        # The PSS of libraries depends on how many processes on the machine share them just then;
        # memory that no file backs does not depend on others.
        private_bytes=[before.private_bytes, after.private_bytes],
        ratio=round(after.pss_bytes / before.pss_bytes, 4),
        ratio_of_growth=round(
            1 + (after.private_bytes - before.private_bytes) / before.pss_bytes, 4
        ),
    )


def _paced(client: Client, given: Any, task: str, seconds: float) -> list[float]:
    """The seconds from fixed times to the answers of requests sent then, or as soon as possible."""
    trips: list[float] = []
    begin_s = time.monotonic() + 0.1
    for number in range(round(seconds * RATE_PER_S)):
        at_s = begin_s + number / RATE_PER_S
        time.sleep(max(0.0, at_s - time.monotonic()))
        client.infer(given, task)
        trips.append(time.monotonic() - at_s)
    return trips


def _in_group(
    group: Path, store: Store, cache: Path, budget: int, given: Any, args: argparse.Namespace
) -> dict[str, Any]:
    """Serve random models from a daemon in `group`, and read its account all the time."""
    chance = random.Random(args.seed)
    names = list(store.names())
    looks: list[dict[str, int]] = []
    answered = switches = 0
    tasks = group / "cgroup.procs"
    here = Path("/sys/fs/cgroup/memory") / _own_group() / "cgroup.procs"
    tasks.write_text(str(os.getpid()))  # the daemon starts in the group of its parent
    try:
        with _serving(store, cache, budget) as client:
            here.write_text(str(os.getpid()))
            end_s = time.monotonic() + 10 * args.seconds
            model = names[0]
            while time.monotonic() < end_s:
                if chance.random() < 0.3:
                    model, switches = chance.choice(names), switches + 1
                burst = [client.submit(given, model) for _ in range(chance.randint(1, 8))]
                for pending in burst:
                    pending.result()
                    answered += 1
                looks.append(client.statistics().memory)
    finally:
        here.write_text(str(os.getpid()))
    measured = [look["front_pss_bytes"] + look["worker_pss_bytes"] for look in looks]
    totals = [look["total_bytes"] for look in looks]
    return {
        "seconds": 10 * args.seconds,
        "answered": answered,
        "switches": switches,
        "looks": len(looks),
        "max_total_bytes": max(totals),
        "max_measured_bytes": max(measured),
        "account_below_measured": sum(t < m for t, m in zip(totals, measured, strict=True)),
        "account_above_budget": sum(
            t > look["budget_bytes"] for t, look in zip(totals, looks, strict=True)
        ),
    }


def _own_group() -> str:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return path.lstrip("/")
    raise EdgedError("this process is in no memory control group of version 1")


def _remove_group(group: Path) -> None:
    for _ in range(100):  # the kernel takes a moment to remove processes that have ended
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.05)


# --- a worker, a daemon, a store --------------------------------------------------------------


@contextlib.contextmanager
def _loading(endpoint: str, models: Sequence[str]) -> Iterator[list[str]]:
    """Have models loaded and unloaded in turn meanwhile; yields the list of those loaded so far."""
    stop = threading.Event()
    loaded: list[str] = []

    def load_all_the_time() -> None:
        with Admin(endpoint) as admin:
            while not stop.is_set():
                model = models[len(loaded) % len(models)]
                admin.set_model(model, "loaded")
                admin.set_model(model, "unloaded")
                loaded.append(model)

    thread = threading.Thread(target=load_all_the_time)
    thread.start()
    try:
        yield loaded
    finally:
        stop.set()
        thread.join()


class _Worker:
    """Talks to one worker process as the front does, one message at a time."""

    def __init__(self, process: WorkerProcess) -> None:
        self._process = process

    def ask(self, message: link.ToWorker) -> link.FromWorker:
        self._process.sender.put([link.encode(message)])
        self._process.sender.flush()
        return self.next()

    def next(self) -> link.FromWorker:
        while (frames := self._process.receiver.receive()) is None:
            ready, _, _ = select.select(
                [self._process.receiver.descriptor, self._process.death_fd], [], [], PATIENCE_S
            )
            if self._process.receiver.descriptor not in ready:
                raise EdgedError(self._process.exit_reason())
        return link.decode_from_worker(frames[0])

    def load(self, block: str) -> BlockLoaded:
        loaded = self.ask(Load(block))
        assert isinstance(loaded, BlockLoaded), loaded
        return loaded

    def unload(self, block: str) -> None:
        self.ask(Unload(block))

    def memory(self) -> link.WorkerMemory:
        memory = self.ask(link.Measure(1))
        assert isinstance(memory, link.WorkerMemory), memory
        return memory


@contextlib.contextmanager
def _worker(store: Store) -> Iterator[_Worker]:
    threads = cores()
    settings = Settings(str(store.path), str(store.path.parent / "cache"), threads=threads)
    process = WorkerProcess(settings)
    try:
        worker = _Worker(process)
        ready = worker.next()
        assert isinstance(ready, link.Ready), ready
        models = store.models().values()
        for block in dict.fromkeys(step.block for model in models for step in model.steps):
            worker.load(block)
        yield worker
    finally:
        process.close()


@contextlib.contextmanager
def _daemon(store: Store, cache: Path, budget: int, more: str = "") -> Iterator[str]:
    sections = (
        f'[device]\ncache_dir = "{cache}"\n[memory]\nbudget_bytes = {budget}\n'
        f"reserve_bytes = 0\n{more}"
    )
    with serving(store.path, sections) as daemon:
        yield daemon.endpoint


def _client(endpoint: str) -> Client:
    return Client(endpoint, timeout_s=PATIENCE_S)


@contextlib.contextmanager
def _serving(store: Store, cache: Path, budget: int) -> Iterator[Client]:
    with _daemon(store, cache, budget) as endpoint, _client(endpoint) as client:
        yield client


def _besides_blocks(store: Store, cache: Path) -> int:
    """The bytes that a daemon of this store takes besides its blocks when all are loaded."""
    with _serving(store, cache, 0) as client:
        memory = client.statistics().memory
        return memory["total_bytes"] - memory["blocks_bytes"]


def _store(folder: Path, kind: str, models: Mapping[str, Sequence[int]]) -> Store:
    """A store of models as chains of blocks. The number of a block seeds its weights."""
    store = Store(folder / "store").create()
    ids: dict[int, str] = {}
    with store.update() as change:
        for number in dict.fromkeys(n for numbers in models.values() for n in numbers):
            ids[number] = change.add_block(_BLOCKS[kind](number))
        for name, numbers in models.items():
            change.put_model(chain_of(name, [ids[n] for n in numbers], SHAPES[kind]))
    return store


def _conv(seed: int) -> bytes:
    width = SHAPES["conv"][0]
    return _chain(seed, "Conv", (width, width, 3, 3), SHAPES["conv"], pads=[1, 1, 1, 1])


def _dense(seed: int) -> bytes:
    width = SHAPES["dense"][0]
    return _chain(seed, "MatMul", (width, width), SHAPES["dense"])


_BLOCKS = {"conv": _conv, "dense": _dense}


def _chain(
    seed: int, operator: str, weight: tuple[int, ...], shape: tuple[int, ...], **attributes: Any
) -> bytes:
    """LAYERS times the operator and a ReLU, with He's initialisation."""
    chance = np.random.default_rng(seed)
    scale = np.sqrt(2 / np.prod(weight[1:]))
    nodes, constants, at = [], [], "x0"
    for layer in range(LAYERS):
        values = (chance.standard_normal(weight, np.float32) * scale).astype(np.float32)
        constants.append(numpy_helper.from_array(values, f"w{layer}"))
        nodes.append(helper.make_node(operator, [at, f"w{layer}"], [f"h{layer}"], **attributes))
        at = "y0" if layer == LAYERS - 1 else f"r{layer}"
        nodes.append(helper.make_node("Relu", [f"h{layer}"], [at]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", *shape])
        for name in ("x0", "y0")
    ]
    graph = helper.make_graph(nodes, "block", ends[:1], ends[1:], constants)
    opset = [helper.make_opsetid("", 17)]
    model: bytes = helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()
    return model


# --- files ------------------------------------------------------------------------------------


def _timed_ms(call: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    call()
    return (time.perf_counter() - started_s) * 1e3


def _read(files: Sequence[Path]) -> None:
    buffer = bytearray(CHUNK_BYTES)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _evict(files: Iterable[Path]) -> None:
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.fdatasync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _files_of_python() -> Iterator[Path]:
    """The files that a daemon reads to start: the standard library and the packages it needs."""
    library = Path(os.__file__).parent
    yield from (path for path in library.rglob("*.py[co]") if "site-packages" not in path.parts)
    yield from (library / "lib-dynload").iterdir()
    for package in ("numpy", "onnxruntime", "cv2", "zmq", "msgspec", "edged"):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        yield from (path for path in Path(spec.origin).parent.rglob("*") if path.is_file())
