"""Loading policies compared: a library that does not fit, PartialLoading, LRU's cliff.

Simulated: the daemon's scheduler under a virtual clock, with one loader and one lane. All policies
of a cell get the same recorded arrivals. Models are ResNets with their layers' true bytes; running
and loading times are those of edged/planner/loading/generate.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace

from edged.planner.loading.generate import RUN_MS, Setting, generate
from edged.planner.loading.methods import solve
from edged.planner.loading.resnet import layer_bytes
from edged.sim.loading import LoadingForm, SimModel, Speed
from edged.sim.simulator import simulate
from tools.bench.report import emit, save_figure

POLICIES = ("partial", "greedy", "independent", "lru")

Served = dict[str, float]  # the share of requests answered within the deadline, by policy


class Tuned(NamedTuple):
    """A model that was fine-tuned from a pre-trained ResNet."""

    number: int
    depth: int  # 18, 34 or 50
    frozen: int  # number of lowest layers that are those of the pre-trained model

    @property
    def name(self) -> str:
        return f"resnet{self.depth}-{self.number}"


class Load(NamedTuple):
    """The parameters that the sweeps vary. The defaults are those of the headline."""

    budget: float = 1 / 3  # share of the bytes of all distinct blocks
    sharing: tuple[float, float] = (0.75, 0.95)  # range of the share of a model's layers shared
    deadline_ms: float = 200.0
    rate: float = 100.0  # requests/s, Poisson
    zipf: float = 0.5  # exponent of the models' popularity


SWEEPS: dict[str, tuple[str, tuple[tuple[float, Load], ...]]] = {
    "budget": (
        "budget (part of the library's bytes)",
        tuple((part, Load(budget=part)) for part in (0.15, 0.25, 1 / 3, 0.5, 0.7, 0.9)),
    ),
    "sharing": (
        "layers shared (mean part)",
        tuple(
            (mean, Load(sharing=(mean - 0.05, mean + 0.05)))
            for mean in (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
        ),
    ),
    "deadline": (
        "deadline (ms)",
        tuple((ms, Load(deadline_ms=ms)) for ms in (60.0, 100.0, 200.0, 400.0, 800.0, 1600.0)),
    ),
}


def register(commands: Any) -> None:
    parser = commands.add_parser("partial", help="loading policies on simulated arrivals")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2000, help="in each run of the library")
    parser.add_argument("--sweeps", action="store_true", help="also over budget, sharing, deadline")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="figure of the sweeps (SVG, PNG)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    seeds = range(args.seeds)
    library = _mean(of_library(Load(), args.requests, seed) for seed in seeds)
    paper = _mean(of_paper(seed) for seed in seeds)
    cliff = of_cliff()
    sweeps = {}
    if args.sweeps or args.plot is not None:
        sweeps = {
            name: [
                (x, _mean(of_library(load, args.requests, seed) for seed in seeds))
                for x, load in points
            ]
            for name, (_, points) in SWEEPS.items()
        }
    emit(
        "partial",
        "simulated",
        seed=args.seeds,
        library=_rounded(library),
        library_points={
            other: round(100 * (library["partial"] - library[other]), 1)
            for other in ("lru", "independent", "greedy")
        },
        paper=_rounded(paper),
        paper_points_over_independent=round(100 * (paper["partial"] - paper["independent"]), 1),
        cliff_answers_per_s=_rounded(cliff),
        cliff_ratio=round(cliff["partial"] / cliff["lru"], 2),
        **{
            name: [(round(x, 2), _rounded(of)) for x, of in points]
            for name, points in sweeps.items()
        },
    )
    if args.plot is not None:
        _plot(sweeps, args.plot)
    return 0


# --- a library that does not fit ------------------------------------------------------------------


def of_library(load: Load, requests: int, seed: int) -> Served:
    """The result of each policy for the same arrivals."""
    form = with_arrivals(load, requests, seed)
    return {policy: simulate(form.scenario(policy)).served / requests for policy in POLICIES}


def with_arrivals(load: Load, requests: int, seed: int) -> LoadingForm:
    """50 models fine-tuned from three ResNets, requested at random."""
    rng = np.random.default_rng(seed)
    form = library(load, fine_tuned(load, rng))
    times_ms = np.cumsum(rng.exponential(1e3 / load.rate, requests))
    popularity = rng.permutation(np.arange(1.0, len(form.models) + 1) ** -load.zipf)
    asked = rng.choice(len(form.models), requests, p=popularity / popularity.sum())
    return replace(form, arrivals_ms=tuple(map(float, times_ms)), asked=tuple(map(int, asked)))


def fine_tuned(load: Load, rng: np.random.Generator, models: int = 50) -> list[Tuned]:
    """ResNet-18, -34 and -50 in turn, each with its bottom layers from the pre-trained model."""
    tuned = []
    for i in range(models):
        depth = tuple(RUN_MS)[i % len(RUN_MS)]
        layers = len(layer_bytes(depth))
        frozen = min(layers - 1, round(rng.uniform(*load.sharing) * layers))
        tuned.append(Tuned(i, depth, frozen))
    return tuned


def library(load: Load, models: Sequence[Tuned]) -> LoadingForm:
    """The models and their blocks, without requests."""
    sizes, blocks = as_blocks(
        [  # one list a model, with (depth, layer, owner) for each layer
            [
                (model.depth, layer, -1 if layer < model.frozen else model.number)
                for layer in range(len(layer_bytes(model.depth)))
            ]
            for model in models
        ],
        lambda layer: layer_bytes(layer[0])[layer[1]],
    )
    named = tuple(
        SimModel(path, *RUN_MS[model.depth], name=model.name)
        for path, model in zip(blocks, models, strict=True)
    )
    return LoadingForm(sizes, named, round(load.budget * sum(sizes)), (), (), load.deadline_ms)


def as_blocks(
    paths: list[list[Any]], bytes_of: Any
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Cut models where sharing begins or ends, like an export: sizes, and each model's blocks."""
    users: dict[Any, set[int]] = {}
    for i, path in enumerate(paths):
        for layer in path:
            users.setdefault(layer, set()).add(i)
    sizes: list[int] = []
    numbers: dict[Any, int] = {}
    blocks = []
    for path in paths:
        mine: list[int] = []
        first = None
        for layer in path:
            if first is None or users[layer] != users[first]:
                first = layer
                if first not in numbers:
                    numbers[first] = len(sizes)
                    sizes.append(sum(bytes_of(x) for x in path if users[x] == users[first]))
                mine.append(numbers[first])
        blocks.append(tuple(mine))
    return tuple(sizes), blocks


# --- the paper's setting --------------------------------------------------------------------------


def of_paper(seed: int) -> Served:
    """PartialLoading's default point: all requests at time 0, one deadline, memory for one model.

    The uplink, which its plans count and the daemon does not see, has no part in it. `planned` is
    the best plan under the paper's rule that only the previous model's blocks stay.
    """
    setting = Setting()
    problem = generate("bls", setting, np.random.default_rng(seed))
    sizes, blocks = as_blocks(
        [list(m.blocks) for m in problem.models], problem.block_bytes.__getitem__
    )
    models = tuple(
        SimModel(path, m.mu_ms, m.beta_ms, m.name)
        for path, m in zip(blocks, problem.models, strict=True)
    )
    form = LoadingForm(
        sizes,
        models,
        budget_bytes=max(sum(sizes[block] for block in path) for path in blocks),
        arrivals_ms=(0.0,) * setting.users,
        asked=tuple(user.model for user in problem.users),
        deadline_ms=setting.deadline_ms,
        load=Speed(setting.bytes_per_ms),
        warm=False,
    )
    served = {policy: simulate(form.scenario(policy)).served / setting.users for policy in POLICIES}
    without_uplink = replace(problem, bandwidth_hz=1e15)
    for name, method in (("planned", "dp"), ("planned-independent", "independent")):
        plan = solve(without_uplink, method, certify=False)  # type: ignore[arg-type]
        served[name] = plan.served / setting.users
    return served


# --- LRU's cliff ----------------------------------------------------------------------------------


def of_cliff(fitting: int = 9, rounds: int = 200) -> Served:
    """One client that asks in turn for one model more than fit, each as soon as it is answered.

    The result is answers a second by policy: fewer loads give more.
    """
    models = fitting + 1
    form = LoadingForm(
        block_bytes=(100_000_000,) * models,
        models=tuple(SimModel((i,), 0.2, 1.0, f"model-{i}") for i in range(models)),
        budget_bytes=fitting * 100_000_000,
        arrivals_ms=(0.0,) * (models * rounds),
        asked=tuple(i % models for i in range(models * rounds)),
        deadline_ms=1e4,
        closed=True,
    )
    outcomes = {policy: simulate(form.scenario(policy)) for policy in POLICIES}
    return {policy: outcome.served / outcome.end_s for policy, outcome in outcomes.items()}


# --- telling it -----------------------------------------------------------------------------------


def _mean(runs: Iterable[Served]) -> Served:
    every = list(runs)
    return {name: float(np.mean([one[name] for one in every])) for name in every[0]}


def _rounded(served: Served) -> Served:
    return {name: round(value, 3) for name, value in served.items()}


def _plot(sweeps: dict[str, list[tuple[float, Served]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for axes, (name, points) in zip(
        figure.subplots(1, 3, sharey=True), sweeps.items(), strict=True
    ):
        for policy in POLICIES:
            axes.plot([x for x, _ in points], [of[policy] for _, of in points], ".-", label=policy)
        axes.set(xlabel=SWEEPS[name][0], ylim=(0, 1.02))
        if name == "deadline":
            axes.set_xscale("log")
    figure.axes[0].set_ylabel("answered within the deadline, simulated")
    figure.axes[-1].legend()
    save_figure(figure, path)
