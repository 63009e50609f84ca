"""Attacks on the live daemon, one after the other, beside a client that keeps to the rules.

That client asks ten times a second and gives each request a second. The share of its requests that
is answered is compared with a run in which other processes take the same processor time and attack
nobody. Daemon, sockets, attackers and client are real processes; the device is that of SMOOTH's
Table II, emulated. Attackers run at nice 19.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from edged import profiles
from edged.budget import footprint
from edged.manifest import SCHEMA, Manifest, PathStep, Preprocess, Value
from edged.profiles.form import BlockProfile
from edged.store import Store
from tools.bench.attackers import ATTACKS
from tools.bench.report import emit
from tools.bench.serving import serving
from tools.demo.daemon import DaemonFailed

TASK = "scene"
DEVICE = "SMOOTH's Table II"
AIM = 0.95  # share of the requests answered, and ratio to the run without an attack
LEAD_S = 1.0  # the attack begins this much later than the client
MEMORY_PERIOD_S = 0.05  # time between two readings of the memory


def register(commands: Any) -> None:
    parser = commands.add_parser("attack", help="clients that keep to no rule beside one that does")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each attack")
    parser.add_argument("--only", choices=sorted(ATTACKS), action="append", help="these attacks")
    parser.add_argument("--budget-mb", type=int, default=600, help="of the daemon's memory")
    parser.add_argument("--seed", type=int, default=1)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    names = args.only or [name for name in ATTACKS if name != "burn"]
    budget_bytes = args.budget_mb * 1_000_000
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        store, sections = _store(Path(folder))
        sections += f"[memory]\nbudget_bytes = {budget_bytes}\n"
        for name in names:
            attacked = _one(store, sections, name, args.seconds)
            share = attacked["attackers_cpu_s"] / args.seconds
            control = _one(store, sections, "burn", args.seconds, burn=share)
            found[name] = _compared(attacked, control, budget_bytes)
    emit(
        "attack",
        "measured",
        seed=args.seed,
        device=f"{DEVICE}, emulated",
        seconds=args.seconds,
        budget_mb=args.budget_mb,
        aim=AIM,
        as_aimed=sum(attack["as_aimed"] for attack in found.values()),
        of=len(found),
        attacks=found,
    )
    return 0


def _compared(attacked: dict[str, Any], control: dict[str, Any], budget: int) -> dict[str, Any]:
    share, without = attacked["in_time"], control["in_time"]
    peak = attacked["peak_mb"]
    ratio = share / without if without else float("nan")
    fits = peak["together"] * 1e6 <= budget
    return {
        **attacked,
        "in_time_without": without,
        "ratio": round(ratio, 3),
        "gap_without_s": control["longest_gap_s"],
        "peak_of_budget": round(peak["together"] * 1e6 / budget, 3),
        "as_aimed": bool(
            share >= AIM
            and ratio >= AIM
            and fits
            and attacked["longest_gap_s"] <= 2.0
            and attacked["survived"]
        ),
    }


def _one(
    store: Path, sections: str, name: str, seconds: float, burn: float = 0.0
) -> dict[str, Any]:
    """The outcome of the client's requests, and the state of the daemon."""
    survived = True
    result: dict[str, Any] = {}
    try:
        with serving(store, sections) as daemon:
            memory = _Memory(daemon.pid)
            options = [daemon.endpoint, "--task", TASK, "--seconds"]
            client = subprocess.Popen(
                _python("innocent", *options, str(seconds + 2 * LEAD_S)), stdout=subprocess.PIPE
            )
            with memory.watched():
                time.sleep(LEAD_S)
                before_s = _children_cpu_s()
                attacker = _python("attackers", name, *options, str(seconds), "--burn", str(burn))
                subprocess.run(["nice", "-n", "19", *attacker], check=True, timeout=seconds + 60)
                cpu_s = _children_cpu_s() - before_s
                printed, _ = client.communicate(timeout=60)
            fate = json.loads(printed)
            result = {
                "sent": fate["sent"],
                "in_time": round(fate["in_time"] / fate["sent"], 4),
                "failed": fate["failed"],
                "longest_gap_s": round(fate["longest_gap_s"], 3),
                "attackers_cpu_s": round(cpu_s, 1),
                "peak_mb": memory.peak_mb(),
            }
    except DaemonFailed:
        survived = False
        if not result:
            raise
    return {**result, "survived": survived}


class _Memory:
    """The largest proportional set sizes of the daemon's processes."""

    def __init__(self, pid: int) -> None:
        self._front = psutil.Process(pid)
        self._peaks = {"front": 0, "worker": 0, "together": 0}
        self._is_over = threading.Event()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        watching = threading.Thread(target=self._watch)
        watching.start()
        try:
            yield
        finally:
            self._is_over.set()
            watching.join()

    def peak_mb(self) -> dict[str, float]:
        return {name: round(peak / 1e6, 1) for name, peak in self._peaks.items()}

    def _watch(self) -> None:
        while not self._is_over.wait(MEMORY_PERIOD_S):
            with contextlib.suppress(psutil.Error, OSError):  # a worker may just be replaced
                front = footprint(self._front.pid).pss_bytes
                worker = sum(footprint(c.pid).pss_bytes for c in self._front.children())
                for name, taken in (
                    ("front", front),
                    ("worker", worker),
                    ("together", front + worker),
                ):
                    self._peaks[name] = max(self._peaks[name], taken)


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"tools.bench.{module}", *arguments]


def _children_cpu_s() -> float:
    """Processor time of the children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _store(folder: Path) -> tuple[Path, str]:
    """One task that takes images, with a thousand labels, and the device that emulates it."""
    store = Store(folder / "store").create()
    with store.update() as change:
        backbone, head = change.add_block(b"a backbone"), change.add_block(b"a head")
        change.put_model(_manifest(backbone, head))
    blocks = profiles.read(profiles.SMOOTH_TABLE_2).blocks
    sections = (
        '[device]\nbackend = "emulated"\ncache_dir = "cache"\n'
        f'[device.options]\ndevice = "{DEVICE}"\n[device.options.blocks]\n'
        f"{backbone} = {_curve(blocks['backbone'])}\n"
        f"{head} = {_curve(blocks['head'])}\n"
        f"[scheduler]\nmax_batch_rows = {blocks['backbone'].rows[-1]}\n"
    )
    return store.path, sections


def _curve(block: BlockProfile) -> str:
    return f"{{rows = {list(block.rows)}, time_s = {list(block.time_s)}}}"


def _manifest(backbone: str, head: str) -> Manifest:
    return Manifest(
        schema=SCHEMA,
        name=TASK,
        task=TASK,
        precision="fp32",
        inputs=("image",),
        outputs=("scores",),
        values=(
            Value("image", "FP32", (3, 224, 224)),
            Value("features", "FP32", (16,)),
            Value("scores", "FP32", (1000,)),
        ),
        steps=(
            PathStep(backbone, ("image",), ("features",)),
            PathStep(head, ("features",), ("scores",)),
        ),
        whole_bytes=7,
        preprocess=Preprocess(224, 224),
        labels=tuple(f"a scene of kind {number}" for number in range(1000)),
    )
