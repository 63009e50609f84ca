"""Figures of processes: the suites, whole models, the daemon, and the memory of all of them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import xml.etree.ElementTree
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import psutil

from edged import wire
from edged.client import Client
from edged.config import cores
from edged.errors import EdgedError
from edged.store import Store
from tools.bench.clients import Clients, good_per_s, quantile_s
from tools.bench.serving import serving
from tools.demo.daemon import Daemon
from tools.gpucheck.findings import Served, Serving, Suite, Whole

CHECKOUT = Path(__file__).resolve().parents[2]
PATIENCE_S = 300.0  # time limit for a daemon to load and warm up
TIMEOUT_S = 30.0  # time-out of a request
WARM_UP_S = 2.0
CLIENTS = 4

UsedBytes = Callable[[Sequence[int]], int]
"""Bytes that these processes take of the device, from their ids; of a GPU, that all take."""


class CheckFailed(EdgedError):
    """Something could not be measured."""


class Setting(msgspec.Struct, frozen=True):
    """The settings of the measurements."""

    device: str  # torch's name of it: "cpu" or "cuda"
    model: str
    tasks: int
    rows: int  # of the largest batch
    seconds: float  # length of each measurement
    seed: int
    work: str  # folder of models and store, which are kept
    only: str | None = None  # of the suite, as pytest's -k

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes 1, 2, 4, .. and `rows`."""
        doubled = [2**power for power in range(self.rows.bit_length())]
        return (*(size for size in doubled if size < self.rows), self.rows)

    @property
    def folder(self) -> Path:
        return Path(self.work)

    @property
    def store(self) -> Path:
        return self.folder / "store"


# --- the suite --------------------------------------------------------------------------------


def suite(setting: Setting) -> Suite:
    """Run the tests of backends and of the CUDA device. The output goes to standard error."""
    report = setting.folder / "suite.xml"
    folders = [name for name in ("tests/backends", "tests/cuda") if (CHECKOUT / name).is_dir()]
    command = [sys.executable, "-m", "pytest", *folders, "-q", "-p", "no:cacheprovider"]
    command += ["-c", os.devnull, "--rootdir", "."]  # ours asks for plugins that may not be there
    command += [f"--junitxml={report}", *(("-k", setting.only) if setting.only else ())]
    status = subprocess.run(command, cwd=CHECKOUT, stdout=sys.stderr).returncode
    if status not in (0, 1):
        raise CheckFailed(f"the suite did not run: pytest ended with status {status}")
    (found,) = xml.etree.ElementTree.parse(report).getroot().iter("testsuite")
    count = {name: int(found.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    failed = count["failures"] + count["errors"]
    return Suite(count["tests"] - failed - count["skipped"], failed, count["skipped"])


# --- whole models -----------------------------------------------------------------------------


def whole(setting: Setting, used: UsedBytes) -> Whole:
    """Uncut models in a process of their own."""
    with _process(setting, setting.tasks) as process:
        taken_bytes = used([process.pid])
        printed, _ = process.communicate("go on\n")
    found = msgspec.json.decode(printed, type=Whole)
    return msgspec.structs.replace(found, used_bytes=taken_bytes)


def nothing(setting: Setting, used: UsedBytes) -> int:
    """The bytes of a process that has begun to use the device and its libraries."""
    with _process(setting, 0) as process:
        taken = used([process.pid])
        process.communicate("end\n")
    return taken


@contextlib.contextmanager
def _process(setting: Setting, tasks: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tools.gpucheck.whole", setting.model]
    command += ["--device", setting.device, "--tasks", str(tasks), "--seed", str(setting.seed)]
    command += ["--threads", str(cores()), "--seconds", str(setting.seconds)]
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


def served(setting: Setting, used: UsedBytes) -> Serving:
    """The live daemon: rows of all tasks together, one model per task one at a time, float16."""
    manifests = Store(setting.store).models()
    (value,) = {model.value(model.inputs[0]) for model in manifests.values()}
    tasks = sorted(manifests)

    def load_of(daemon: Daemon) -> Clients:
        return Clients(daemon.endpoint, value.shape, tasks, setting.seed)

    with _daemon(setting) as daemon:
        load = load_of(daemon)
        lone = load([["--in-flight", "1"]], setting.seconds, TIMEOUT_S)
        cross_task = _saturated(setting, daemon, load, in_flight=3 * setting.rows)
        front = psutil.Process(daemon.pid)
        taken_bytes = used([front.pid, *(child.pid for child in front.children())])
    with _daemon(setting, policy="monolithic") as daemon:
        alone = _saturated(setting, daemon, load_of(daemon), in_flight=CLIENTS)
    half = None
    if setting.device == "cuda":
        with _daemon(setting, precision="fp16") as daemon:
            half = _saturated(setting, daemon, load_of(daemon), in_flight=3 * setting.rows)
    lone_ms = quantile_s((fate.accepted_s for fate in lone), 50) * 1e3
    return Serving(cross_task, alone, lone_ms, taken_bytes, half)


@contextlib.contextmanager
def _daemon(
    setting: Setting, *, policy: str = "work-conserving", precision: str = "fp32"
) -> Iterator[Daemon]:
    sections = (
        f'[scheduler]\npolicy = "{policy}"\nmax_batch_rows = {setting.rows}\n'
        f"staging_rows = {3 * setting.rows}\nuseful_batches = false\n"
        f'[device]\nbackend = "torch"\nstart_timeout_s = {PATIENCE_S}\n'
        f'options = {{device = "{setting.device}", precision = "{precision}"}}\n'
        f'cache_dir = "{setting.folder / "cache"}"\n'
    )
    with serving(setting.store, sections, start_s=PATIENCE_S) as daemon:
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
