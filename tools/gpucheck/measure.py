"""Takes the figures: the suite, whole models, the daemon twice, and the memory of all of them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import xml.etree.ElementTree
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from edged import wire
from edged.client import Client
from edged.errors import EdgedError
from edged.store import Store
from tools.bench.backbones import store_of, whole_models
from tools.bench.clients import Clients, good_per_s, quantile_s
from tools.bench.serving import serving
from tools.demo.daemon import Daemon
from tools.gpucheck.findings import Conformance, Memory, Served, Whole

CHECKOUT = Path(__file__).resolve().parents[2]
PATIENCE_S = 300.0  # time limit for a daemon to load and warm up
TIMEOUT_S = 30.0  # time-out of a request
WARM_UP_S = 2.0
CLIENTS = 4

UsedBytes = Callable[[Sequence[int]], int]
"""Bytes that these processes take of the device, from their ids; of a GPU, that all take."""


class CheckFailed(EdgedError):
    """Something could not be measured."""


@dataclass(frozen=True)
class Setting:
    """The settings of the measurements."""

    device: str  # torch's name of it: "cpu" or "cuda"
    model: str
    tasks: int
    sizes: tuple[int, ...]  # batch sizes, ascending
    threads: int  # processor threads of one batch
    seconds: float  # length of each measurement
    seed: int
    folder: Path  # folder of models and store, which are kept

    @property
    def rows(self) -> int:
        return self.sizes[-1]


# --- the suite --------------------------------------------------------------------------------


def conformance(folder: Path, only: str | None) -> Conformance:
    """Run tests/backends, or `only` a part of it. The output goes to standard error."""
    report = folder / "conformance.xml"
    command = [sys.executable, "-m", "pytest", "tests/backends", "-q", "-p", "no:cacheprovider"]
    command += [f"--junitxml={report}", *(("-k", only) if only else ())]
    status = subprocess.run(command, cwd=CHECKOUT, stdout=sys.stderr).returncode
    if status not in (0, 1):
        raise CheckFailed(f"the conformance suite did not run: pytest ended with status {status}")
    (suite,) = xml.etree.ElementTree.parse(report).getroot().iter("testsuite")
    count = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    failed = count["failures"] + count["errors"]
    return Conformance(count["tests"] - failed - count["skipped"], failed, count["skipped"])


# --- whole models -----------------------------------------------------------------------------


def whole(setting: Setting, used: UsedBytes) -> tuple[Whole, int]:
    """Uncut models in a process of their own, and the bytes that it takes."""
    with _process(setting, setting.tasks) as process:
        taken = used([process.pid])
        printed, _ = process.communicate("go on\n")
    return msgspec.json.decode(printed, type=Whole), taken


def nothing(setting: Setting, used: UsedBytes) -> int:
    """The bytes of a process that has only begun to use the device."""
    with _process(setting, 0) as process:
        taken = used([process.pid])
        process.communicate("end\n")
    return taken


@contextlib.contextmanager
def _process(setting: Setting, tasks: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tools.gpucheck.whole", setting.model]
    command += ["--device", setting.device, "--tasks", str(tasks), "--seed", str(setting.seed)]
    command += ["--threads", str(setting.threads), "--seconds", str(setting.seconds)]
    command += ["--rows", *map(str, setting.sizes)]
    with subprocess.Popen(
        command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "resident\n":
            process.communicate()
            raise CheckFailed(f"whole models did not run: {' '.join(command)}")
        yield process
    if process.returncode:
        raise CheckFailed(f"whole models ended with status {process.returncode}")


# --- the daemon -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Serving:
    """The figures of the daemon."""

    side: int
    cross_task: Served
    alone: Served
    lone_ms: float
    used_bytes: int


def served(setting: Setting, used: UsedBytes) -> Serving:
    """The live daemon: rows of all tasks together, and then one model per task, one at a time."""
    models = whole_models(setting.model, setting.tasks, setting.folder, setting.seed)
    store = store_of(models, setting.folder / "store")
    manifests = Store(store).models()
    (value,) = {model.value(model.inputs[0]) for model in manifests.values()}
    tasks = sorted(manifests)
    with _daemon(setting, store, "work-conserving") as daemon:
        load = Clients(daemon.endpoint, value.shape, tasks, setting.seed)
        lone = load([["--in-flight", "1"]], setting.seconds, TIMEOUT_S)
        cross_task = _saturated(setting, daemon, load, in_flight=3 * setting.rows)
        front = psutil.Process(daemon.pid)
        taken = used([front.pid, *(child.pid for child in front.children())])
    with _daemon(setting, store, "monolithic") as daemon:
        load = Clients(daemon.endpoint, value.shape, tasks, setting.seed)
        alone = _saturated(setting, daemon, load, in_flight=CLIENTS)
    return Serving(
        value.shape[-1],
        cross_task,
        alone,
        quantile_s((fate.accepted_s for fate in lone), 50) * 1e3,
        taken,
    )


@contextlib.contextmanager
def _daemon(setting: Setting, store: Path, policy: str) -> Iterator[Daemon]:
    sections = (
        f'[scheduler]\npolicy = "{policy}"\nmax_batch_rows = {setting.rows}\n'
        f"staging_rows = {3 * setting.rows}\nuseful_batches = false\n"
        f'[device]\nbackend = "torch"\noptions = {{device = "{setting.device}"}}\n'
        f"threads = {setting.threads}\nstart_timeout_s = {PATIENCE_S}\n"
        f'cache_dir = "{setting.folder / "cache"}"\n'
    )
    with serving(store, sections, start_s=PATIENCE_S) as daemon:
        yield daemon


def _saturated(setting: Setting, daemon: Daemon, load: Clients, *, in_flight: int) -> Served:
    """Keep the device busy with requests from several processes."""
    each = ["--in-flight", str(-(-in_flight // CLIENTS))]
    with Client(daemon.endpoint) as client:
        before = client.statistics().batches
        seconds = WARM_UP_S + setting.seconds
        fates = load([each] * CLIENTS, seconds, TIMEOUT_S, skip_s=WARM_UP_S)
        batches = _since(before, client.statistics().batches)
    count = sum(batch.count for batch in batches)
    if not count:
        raise CheckFailed("the daemon ran no batch: see its log")
    refused: dict[str, int] = {}
    for fate in fates:
        for code, times in fate.refused.items():
            refused[code] = refused.get(code, 0) + times
    return Served(
        images_per_s=good_per_s(fates),
        mean_rows=sum(batch.rows * batch.count for batch in batches) / count,
        mixed=sum(batch.mixed for batch in batches) / count,
        unanswered=sum(fate.unanswered for fate in fates),
        refused=refused,
    )


def _since(
    before: Sequence[wire.BatchStatistics], after: Sequence[wire.BatchStatistics]
) -> list[wire.BatchStatistics]:
    known = {batch.rows: batch for batch in before}
    none = wire.BatchStatistics(0)
    return [
        wire.BatchStatistics(
            batch.rows,
            batch.count - known.get(batch.rows, none).count,
            batch.mixed - known.get(batch.rows, none).mixed,
        )
        for batch in after
    ]


def memory(nothing_bytes: int, whole_bytes: int, daemon_bytes: int, before: int) -> Memory:
    """The bytes that each took beyond those that were in use before."""
    return Memory(nothing_bytes - before, whole_bytes - before, daemon_bytes - before)
