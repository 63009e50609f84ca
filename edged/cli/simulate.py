"""`edged simulate`: the scheduler with a virtual clock; compares policies."""

from __future__ import annotations

import argparse
import math
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edged.cli.console import print_json, say, table
from edged.errors import InvalidArgument
from edged.typeinfo import describe

if TYPE_CHECKING:
    from edged.sim.batching import BatchingForm
    from edged.sim.loading import LoadingForm


class _Kind(msgspec.Struct):
    type: str = ""


def register(commands: Any) -> None:
    parser = commands.add_parser(
        "simulate", help="run the scheduler on simulated arrivals and a simulated device"
    )
    parser.add_argument(
        "scenario", type=Path, help="a scenario (JSON), or a recording of edged serve --record"
    )
    parser.add_argument(
        "--policy",
        action="append",
        metavar="NAME",
        help="decide by this policy; several are compared on the same arrivals",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a policy")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="latencies as a figure (SVG, PNG)"
    )
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="write every decision to FILE, as a recording"
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from edged.observe.recording import Recorder
    from edged.sim.simulator import simulate

    form = _read(args.scenario)
    policies = args.policy or [form.policy]
    if args.trace is not None and len(policies) > 1:
        raise InvalidArgument("--trace records one policy: name just one")
    scenarios = {name: form.scenario(name) for name in policies}
    with ExitStack() as stack:
        trace = None
        if args.trace is not None:
            file = stack.enter_context(args.trace.open("w", encoding="utf-8"))
            scenario = scenarios[policies[0]]
            trace = Recorder(file, scenario.settings, scenario.memory_settings).turn
        outcomes = {name: simulate(each, trace=trace) for name, each in scenarios.items()}
    summaries = {name: outcome.summary() for name, outcome in outcomes.items()}
    if args.plot is not None:
        _plot(args.plot, {name: outcome.latency_s for name, outcome in outcomes.items()})
    if args.json:
        for name, summary in summaries.items():
            figures = {key: None if math.isnan(f) else f for key, f in summary.items()}
            print_json({"policy": name, "label": "simulated", **figures})
        return 0
    columns = list(next(iter(summaries.values())))
    rows = [
        [name, *(f"{summary[column]:.3g}" for column in columns)]
        for name, summary in summaries.items()
    ]
    requests = len(next(iter(outcomes.values())).latency_s)
    say(f"simulated, {requests} requests; latencies in ms")
    say(table(["policy", *columns], rows))
    return 0


def _read(path: Path) -> BatchingForm | LoadingForm:
    from edged.sim import batching, loading

    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{path}: cannot be read: {error.strerror}") from error
    try:
        kind = msgspec.json.decode(data, type=_Kind).type
    except msgspec.ValidationError:
        kind = ""  # the reader's error names the field
    except msgspec.DecodeError:
        return batching.of_recording(path)  # a recording has one JSON value a line
    return loading.read(data) if kind == "loading" else batching.read(data)


def _plot(path: Path, latencies: dict[str, tuple[float | None, ...]]) -> None:
    """Plot the distribution of latencies, one curve for each policy."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InvalidArgument("--plot needs matplotlib: pip install 'edged[bench]'") from error
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, values in latencies.items():
        served = sorted(s * 1e3 for s in values if s is not None)
        axes.plot(served, [(i + 1) / len(served) for i in range(len(served))], label=name)
    axes.set(xlabel="latency (ms), simulated", ylabel="share of requests", xscale="log")
    axes.legend()
    figure.savefig(path)


describe(_Kind)
