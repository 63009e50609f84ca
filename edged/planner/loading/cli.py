"""`edged plan loading` and `edged plan generate loading`: files in, tables or JSON out."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any, get_args

import msgspec

from edged.cli.console import print_json, say, table
from edged.planner.cli_files import read_instance, write_output
from edged.planner.instance import convert
from edged.planner.loading.plan import LoadingPlan, Method
from edged.planner.loading.problem import FamilyName, LoadingProblem, read

# Option of `generate` -> the field of Setting, the unit that multiplies it, its help text.
_SETTING = {
    "--users": ("users", int, 1, "users that send one request each"),
    "--models": ("models", int, 1, "models on the server"),
    "--deadline-ms": ("deadline_ms", float, 1.0, "common deadline"),
    "--slot-ms": ("slot_ms", float, 1.0, "length of a time slot, for the slotted methods"),
    "--bandwidth-mhz": ("bandwidth_hz", float, 1e6, "band that the users of a batch share"),
    "--sharing": ("sharing", float, 1.0, "mean part of the layers that is shared, 0 to 1"),
    "--upload-kbit": ("upload_bits", float, 1e3, "bits that each user uploads"),
    "--load-mb-per-s": ("bytes_per_ms", float, 1e3, "rate at which blocks are loaded"),
}


def register_solve(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `edged plan loading`."""
    parser = commands.add_parser(
        "loading",
        help="whom to serve by a deadline, in which order, with what bandwidth (PartialLoading)",
    )
    parser.add_argument("instance", metavar="INSTANCE", help="JSON file, or - for standard input")
    parser.add_argument(
        "--method",
        choices=get_args(Method),
        help="default: dp when the clusters are nested, else greedy-plus (docs/planners.md)",
    )
    parser.add_argument("--out", metavar="FILE", help="write the plan as JSON to this file")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.set_defaults(run=_solve)


def register_generate(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `edged plan generate loading`."""
    parser = commands.add_parser(
        "loading",
        help="an instance of PartialLoading's figures, or a small one",
        description="Each family has its own defaults. The same seed gives the same instance.",
    )
    parser.add_argument("--family", choices=get_args(FamilyName), default="bls")
    parser.add_argument("--seed", type=_seed, default=0, help="default: 0")
    parser.add_argument("--out", metavar="FILE", default="-", help="default: standard output")
    for option, (field, kind, _, about) in _SETTING.items():
        parser.add_argument(option, dest=field, type=kind, metavar="N", help=about)
    parser.set_defaults(run=_generate)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be an integer >= 0, got {text!r}")
    return int(text)


def _solve(args: argparse.Namespace) -> int:
    from edged.planner.loading.methods import solve  # imports numpy, which others do not need

    problem = read(read_instance(args.instance))
    started = time.perf_counter()
    plan = solve(problem, args.method)
    solve_ms = 1000.0 * (time.perf_counter() - started)
    plan.verify(problem)
    result = {**msgspec.to_builtins(plan), "solve_ms": solve_ms}
    if args.out:
        write_output(args.out, json.dumps(result))
    if args.json:
        print_json(result)
    else:
        say(_show(problem, plan, solve_ms))
    return 0


def _generate(args: argparse.Namespace) -> int:
    import numpy as np

    from edged.planner.loading.generate import FAMILIES, Setting, generate

    setting = msgspec.to_builtins(FAMILIES[args.family].setting)
    for field, _, unit, _ in _SETTING.values():
        value = getattr(args, field)
        if value is not None:
            setting[field] = value * unit
    problem = generate(args.family, convert(setting, Setting), np.random.default_rng(args.seed))
    write_output(args.out, json.dumps(msgspec.to_builtins(problem)))
    return 0


def _show(problem: LoadingProblem, plan: LoadingPlan, solve_ms: float) -> str:
    """The batches as a table, then the figures of the plan."""
    rows = [
        [
            str(n),
            problem.models[batch.model].name or str(batch.model),
            str(len(batch.users)),
            f"{step.upload_ms:.2f}",
            f"{step.load_ms:.2f}",
            f"{step.run_ms:.2f}",
            f"{step.end_ms:.2f}",
            " ".join(map(str, batch.users)),
        ]
        for n, (batch, step) in enumerate(zip(plan.batches, plan.times(problem), strict=True))
    ]
    headers = ["batch", "model", "served", "upload ms", "load ms", "run ms", "end ms", "users"]
    lines = [table(headers, rows), ""] if rows else []
    if not problem.users:
        lines.append("users: there are none, so the plan is empty")
    lines.append(f"served    {plan.served} of {len(problem.users)} users")
    lines.append(f"makespan  {plan.makespan_ms:.2f} ms of {problem.deadline_ms:g} ms")
    if plan.bound is not None and plan.gap is not None:
        optimal = "optimal" if plan.bound == plan.served else f"gap {100 * plan.gap:.1f} %"
        lines.append(f"bound     {plan.bound} users ({optimal})")
    lines.append(f"method    {plan.method}, {solve_ms:.1f} ms")
    return "\n".join(lines)
