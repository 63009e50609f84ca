"""Loading policies compared on the live daemon, with the library of `partial`.

Daemon, worker, sockets and client are real; every policy gets the same recorded arrivals.
`independent` is the default policy on a store of the same models in which no two share a block.

The blocks of backend `emulated` take another device's times to load and to run, and no memory.
Those of `onnxruntime` are real ResNets with random weights for small images, cut by the exporter;
each load reads them from disk, since unloading gives their page cache back. The library takes
minutes to export: `--library` keeps it, and the outcomes of policies that have run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edged.client import Client
from edged.client.aio import AsyncClient
from edged.errors import EdgedError
from edged.sim.loading import LoadingForm
from edged.sim.simulator import simulate
from edged.store import Store
from tools.bench.backbones import chain_of
from tools.bench.partial import Load, fine_tuned, with_arrivals
from tools.bench.report import emit
from tools.bench.serving import serving

RUNS = {
    "partial": ("partial", True),
    "greedy": ("greedy", True),
    "independent": ("partial", False),
    "lru": ("lru", True),
}
LEAD_S = 1.0  # time before the first arrival
ACCOUNT_PERIOD_S = 1.0  # time between two readings of the account
IMAGES = 64
START_S = 600.0  # time limit for preparing a library for this host


class Bed(NamedTuple):
    """The store and the device of a daemon."""

    store: Path
    device: str  # the device's sections of the configuration
    row: tuple[int, ...]  # shape of an input without the batch axis


class Outcome(msgspec.Struct, frozen=True):
    """The outcome of one run: its requests, and the budget."""

    requests: int
    in_time: int
    models_served: int
    p50_ms: float  # latency of the requests answered in time
    p99_ms: float
    others: dict[str, int]  # requests that were not answered in time, by code or "late"
    changed: int  # answers that differ from an earlier one of the same model to the same image
    looks: int  # readings of the account
    over_budget: int  # readings in which the account, or measured memory, was above the budget
    budget_bytes: int
    capacity_bytes: int  # part of the budget that was left for blocks at the first reading


def register(commands: Any) -> None:
    parser = commands.add_parser("partial-live", help="loading policies through the live daemon")
    parser.add_argument("--backend", choices=BEDS, default="emulated")
    parser.add_argument("--policies", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seconds", type=float, default=15.0, help="of arrivals")
    parser.add_argument("--rate", type=float, default=Load().rate, help="requests/s")
    parser.add_argument("--deadline-ms", type=float, default=Load().deadline_ms)
    parser.add_argument("--library", type=Path, metavar="FOLDER", help="keep all that is made")
    parser.add_argument("--seed", type=int, default=1)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    load = Load(rate=args.rate, deadline_ms=args.deadline_ms)
    form = with_arrivals(load, round(load.rate * args.seconds), args.seed)
    with _folder(args.library) as folder:
        bench = _Bench(folder, form, load, args)
        outcomes = {name: bench.outcome(name) for name in args.policies}
    share = {name: outcome.in_time / outcome.requests for name, outcome in outcomes.items()}
    emulated = args.backend == "emulated"
    emit(
        "partial-live",
        "emulated" if emulated else "measured",
        seed=args.seed,
        backend=args.backend,
        requests=len(form.asked),
        rate_per_s=load.rate,
        deadline_ms=load.deadline_ms,
        in_time={name: round(value, 3) for name, value in share.items()},
        points={
            other: round(100 * (share["partial"] - share[other]), 1)
            for other in share
            if "partial" in share and other != "partial"
        },
        **({"simulated": _simulated(form, share)} if emulated else {}),
        outcomes={name: msgspec.to_builtins(outcome) for name, outcome in outcomes.items()},
    )
    return 0


def _simulated(form: LoadingForm, names: Iterable[str]) -> dict[str, float]:
    """The results of the policies under a virtual clock, with the times of the emulated device."""
    return {
        name: round(simulate(form.scenario(name)).served / len(form.asked), 3) for name in names
    }


@contextlib.contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as name:
        yield Path(name)


class _Bench:
    """Runs the policies in a folder, or reads the outcomes that an earlier run kept there."""

    def __init__(
        self, folder: Path, form: LoadingForm, load: Load, args: argparse.Namespace
    ) -> None:
        self._folder = folder
        self._form = form
        self._load = load
        self._args = args
        body = msgspec.json.encode((args.backend, form))
        self._key = hashlib.sha256(body).hexdigest()[:8]

    def outcome(self, name: str) -> Outcome:
        policy, shares = RUNS[name]
        path = self._folder / f"{self._key}-{name}.json"
        if not path.exists():
            outcome = self._serve(self._bed(shares), policy, self._budget_bytes())
            path.write_bytes(msgspec.json.encode(outcome))
        return msgspec.json.decode(path.read_bytes(), type=Outcome)

    def _bed(self, shares: bool) -> Bed:
        return BEDS[self._args.backend](
            self._folder, self._form, self._load, shares, self._args.seed
        )

    def _budget_bytes(self) -> int:
        """The budgeted share of the blocks' bytes, plus all that the daemon takes besides."""
        path = self._folder / f"{self._key}-budget.json"
        if not path.exists():
            bed = self._bed(True)
            with (
                serving(bed.store, bed.device, start_s=START_S) as daemon,
                Client(daemon.endpoint) as client,
            ):
                memory = client.statistics().memory
            besides = memory["total_bytes"] - memory["blocks_bytes"]
            budget = besides + round(self._load.budget * memory["blocks_bytes"])
            path.write_bytes(msgspec.json.encode(budget))
        return msgspec.json.decode(path.read_bytes(), type=int)

    def _serve(self, bed: Bed, policy: str, budget_bytes: int) -> Outcome:
        memory = f'[memory]\npolicy = "{policy}"\nbudget_bytes = {budget_bytes}\n'
        with serving(bed.store, memory + bed.device, start_s=START_S) as daemon:
            return asyncio.run(_Replay(self._form, bed.row, self._args.seed).over(daemon.endpoint))


class _Replay:
    """Sends each request at its time, whether or not the others are answered."""

    def __init__(self, form: LoadingForm, row: tuple[int, ...], seed: int) -> None:
        random = np.random.default_rng(seed)
        self._images = random.standard_normal((IMAGES, 1, *row), np.float32)
        self._form = form
        self._deadline_s = form.deadline_ms / 1e3
        self._took_s: list[float] = []
        self._served: set[str] = set()
        self._others: Counter[str] = Counter()
        self._answers: dict[tuple[str, int], NDArray[Any]] = {}
        self._changed = 0
        self._looks: list[dict[str, int]] = []

    async def over(self, endpoint: str) -> Outcome:
        async with AsyncClient(endpoint) as client, AsyncClient(endpoint) as observer:
            looking = asyncio.create_task(self._look(observer))
            begin_s = time.monotonic() + LEAD_S
            await asyncio.gather(
                *(
                    self._ask(client, number, begin_s + at_ms / 1e3)
                    for number, at_ms in enumerate(self._form.arrivals_ms)
                )
            )
            looking.cancel()
        return self._outcome()

    async def _ask(self, client: AsyncClient, number: int, at_s: float) -> None:
        task = self._form.models[self._form.asked[number]].name
        image = number % IMAGES
        await asyncio.sleep(at_s - time.monotonic())
        started_s = time.monotonic()
        try:
            result = await client.infer(
                {"x": self._images[image]}, [task], timeout_s=self._deadline_s
            )
        except EdgedError as error:
            self._others[error.code.value] += 1
            return
        took_s = time.monotonic() - started_s
        answer = result[task].tensor
        first = self._answers.setdefault((task, image), answer)
        self._changed += not result.emulated and not np.allclose(
            answer, first, rtol=1e-3, atol=1e-3 * np.abs(first).max()
        )
        if took_s > self._deadline_s:
            self._others["late"] += 1
            return
        self._took_s.append(took_s)
        self._served.add(task)

    async def _look(self, client: AsyncClient) -> None:
        while True:
            self._looks.append((await client.statistics()).memory)
            await asyncio.sleep(ACCOUNT_PERIOD_S)

    def _outcome(self) -> Outcome:
        p50, p99 = np.percentile(self._took_s or [np.nan], (50, 99)) * 1e3
        first = self._looks[0]
        return Outcome(
            requests=len(self._form.asked),
            in_time=len(self._took_s),
            models_served=len(self._served),
            p50_ms=round(float(p50), 1),
            p99_ms=round(float(p99), 1),
            others=dict(self._others),
            changed=self._changed,
            looks=len(self._looks),
            over_budget=sum(map(_is_over, self._looks)),
            budget_bytes=first["budget_bytes"],
            capacity_bytes=first["budget_bytes"] - first["total_bytes"] + first["blocks_bytes"],
        )


def _is_over(look: dict[str, int]) -> bool:
    measured = look["front_pss_bytes"] + look["worker_pss_bytes"]
    return max(look["total_bytes"], measured) > look["budget_bytes"]


# --- the backends ---------------------------------------------------------------------------------


def _emulated(folder: Path, form: LoadingForm, load: Load, shares: bool, seed: int) -> Bed:
    """A store of a scenario's models, which nobody reads, and the emulated device."""
    rows_max = form.b_max
    store = Store(folder / ("emulated" if shares else "emulated-unshared")).create()
    figures = []
    with store.update() as change:
        for i, model in enumerate(form.models):
            blocks = []
            times_ms = [model.beta_ms + model.mu_ms * rows for rows in (1, rows_max)]
            for block in model.blocks:
                content = f"block {block}" if shares else f"block {block} of model {i}"
                blocks.append(change.add_block(content.encode()))
                size = form.block_bytes[block]
                # The first block of a model stands for the run of all of them.
                is_first = block == model.blocks[0]
                run_s = [ms / 1e3 for ms in times_ms] if is_first else [1e-6, 1e-6]
                load_s = form.load.seconds(size)
                figures.append(
                    f"{blocks[-1]} = {{rows = [1, {rows_max}], time_s = {run_s}, "
                    f"weight_bytes = {size}, load_cold_s = {load_s}, load_warm_s = {load_s}}}\n"
                )
            change.put_model(chain_of(model.name, blocks, (16,)))
    device = (
        f"[scheduler]\nmax_batch_rows = {rows_max}\nstaging_rows = {2 * rows_max}\n"
        f'[device]\nbackend = "emulated"\ncache_dir = "{folder}/cache"\n[device.options]\n'
        'device = "PartialLoading"\n[device.options.blocks]\n'
    )
    return Bed(store.path, device + "".join(dict.fromkeys(figures)), (16,))


def _onnxruntime(folder: Path, form: LoadingForm, load: Load, shares: bool, seed: int) -> Bed:
    """The same models with weights, for ONNX Runtime."""
    from tools.bench import partial_library

    tuned = fine_tuned(load, np.random.default_rng(seed))
    name = f"{'shared' if shares else 'unshared'}-{seed}"
    store = partial_library.export(folder / name, tuned, shares=shares, seed=seed)
    device = (
        "[scheduler]\nmax_batch_rows = 8\nstaging_rows = 32\n"
        f'[device]\ncache_dir = "{folder}/cache"\nstart_timeout_s = {START_S}\n'
    )
    return Bed(store.path, device, (3, partial_library.SIDE, partial_library.SIDE))


BEDS: dict[str, Callable[[Path, LoadingForm, Load, bool, int], Bed]] = {
    "emulated": _emulated,
    "onnxruntime": _onnxruntime,
}
