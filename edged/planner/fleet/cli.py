"""`edged plan fleet` and `edged plan generate fleet`: files in, tables or JSON out."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from edged.cli.console import print_json, say, table
from edged.errors import PlanError
from edged.planner.cli_files import read_instance, write_output
from edged.planner.fleet.names import EFFORTS, FAMILIES, METHODS, MODES, PLACES
from edged.planner.instance import convert

if TYPE_CHECKING:  # arrays and planners are imported when a command runs
    import numpy as np

    from edged.planner.fleet.plan import FleetPlan
    from edged.planner.fleet.problem import FleetProblem

SAMPLES = 16  # loads that --spread plans for

# Option of `generate` -> the field of FleetScenario, its type, its help text.
_SCENARIO: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "--clients": ("clients", int, "clients of the fleet"),
    "--edges": ("edges", int, "edges that they are spread over"),
    "--tasks": ("tasks", int, "tasks, where the family leaves the choice"),
    "--load": ("load", float, "queries/s of all clients together"),
    "--chi-edge": ("chi_edge", float, "uplinks as a share of the traffic"),
    "--chi-cloud": ("chi_cloud", float, "cloud link as a share of the traffic"),
    "--client-compute": ("client_compute", float, "factor on the clients' GFLOP/s"),
    "--client-alpha": ("client_alpha", float, "Dirichlet parameter over clients"),
    "--task-alpha": ("task_alpha", float, "Dirichlet parameter over tasks"),
    "--window-s": ("window_s", float, "batching window, with --batching"),
}


def register_solve(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `edged plan fleet`."""
    parser = commands.add_parser(
        "fleet",
        help="which models live on which node, and where queries go (J3O, BAJ3O)",
        epilog="methods: " + "; ".join(f"{name}: {about}" for name, about in METHODS.items()),
    )
    parser.add_argument("instance", metavar="INSTANCE", help="JSON file, or - for standard input")
    parser.add_argument("--method", choices=METHODS, default="price", metavar="METHOD")
    parser.add_argument("--effort", choices=EFFORTS, default="full", help="of method price")
    parser.add_argument("--seed", type=int, default=0, help="of rand-ao and of --spread")
    parser.add_argument("--time-limit-s", type=float, metavar="S", help="of method milp")
    parser.add_argument(
        "--workers", choices=PLACES, default="auto", help="for many edges, method price"
    )
    parser.add_argument("--out", metavar="FILE", help="write the plan as JSON to this file")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    loads = parser.add_argument_group("loads that are not known, or change (method price)")
    loads.add_argument("--spread", type=float, metavar="S", help="loads lie within (1 ± S)")
    loads.add_argument("--samples", type=int, metavar="N", help=f"loads planned for ({SAMPLES})")
    loads.add_argument("--previous", metavar="FILE", help="the plan that is running now")
    loads.add_argument(
        "--switch-cost", type=float, metavar="A", help="accuracy that a loaded GB must gain (0)"
    )
    parser.set_defaults(run=_solve)


def register_generate(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `edged plan generate fleet`."""
    parser = commands.add_parser(
        "fleet",
        help="an instance of one of J3O's benchmarks, or a harder one",
        description="Each family has its own defaults. The same seed gives the same instance.",
    )
    parser.add_argument("--family", choices=FAMILIES, default="taskonomy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mode", choices=MODES, default="drop")
    parser.add_argument("--batching", action="store_true", help="with setup times: row (28)")
    parser.add_argument("--out", metavar="FILE", default="-", help="default: standard output")
    for option, (field, kind, about) in _SCENARIO.items():
        parser.add_argument(option, dest=field, type=kind, metavar="N", help=about)
    parser.set_defaults(run=_generate)


def _solve(args: argparse.Namespace) -> int:
    from edged.planner.fleet.methods import certified
    from edged.planner.fleet.problem import read
    from edged.planner.fleet.workers import keep_scratch

    keep_scratch()
    problem = read(read_instance(args.instance))
    rng = _rng(args.seed)
    started = time.perf_counter()
    plan, extra = _plan(problem, args, rng)
    time_s = time.perf_counter() - started
    plan = certified(problem, plan)
    plan.verify(problem)
    result = {**msgspec.to_builtins(plan), **extra, "time_s": time_s}
    text = msgspec.json.encode(result).decode()
    if args.out:
        write_output(args.out, text)
    if args.json:
        print_json(msgspec.to_builtins(result))
    else:
        say(_show(problem, plan, extra, time_s))
    return 0


def _plan(
    problem: FleetProblem, args: argparse.Namespace, rng: np.random.Generator
) -> tuple[FleetPlan, dict[str, float]]:
    """The plan, and the further figures of the robust variants."""
    if args.spread is not None and args.previous is not None:
        raise PlanError("--spread and --previous: take one of the two")
    if args.samples is not None and args.spread is None:
        raise PlanError("--samples: needs --spread")
    if args.switch_cost is not None and args.previous is None:
        raise PlanError("--switch-cost: needs --previous")
    if args.spread is None and args.previous is None:
        return _plan_once(problem, args, rng), {}
    if args.method != "price":
        raise PlanError(f"--method: {args.method} plans neither with --spread nor with --previous")
    from edged.planner.fleet import robust
    from edged.planner.fleet.price import EFFORTS

    effort = EFFORTS[args.effort]
    if args.spread is not None:
        samples = SAMPLES if args.samples is None else args.samples
        hedged = robust.hedge(problem, args.spread, samples, rng, effort)
        return hedged.plan, {"expected": hedged.expected, "expected_bound": hedged.expected_bound}
    again = robust.replan(problem, _read_plan(args.previous), args.switch_cost or 0.0, effort)
    return again.plan, {
        "loaded_mb": again.loaded_mb, "net": again.net, "net_bound": again.net_bound
    }  # fmt: skip


def _plan_once(
    problem: FleetProblem, args: argparse.Namespace, rng: np.random.Generator
) -> FleetPlan:
    from edged.planner.fleet.decompose import MANY_EDGES
    from edged.planner.fleet.methods import MethodOptions, solve
    from edged.planner.fleet.workers import workers

    # Ray takes seconds to start, so it is started only for a fleet that is planned in parts.
    parts = args.method == "price" and problem.n_edges > MANY_EDGES
    with workers(args.workers if parts else "one") as run:
        options = MethodOptions(args.effort, rng, args.time_limit_s, run)
        return solve(problem, args.method, options)


def _read_plan(path: str) -> FleetPlan:
    from edged.planner.fleet.plan import FleetPlan

    try:
        return msgspec.json.decode(read_instance(path), type=FleetPlan)
    except msgspec.DecodeError as error:
        raise PlanError(f"{path}: not a fleet plan: {error}") from None


def _rng(seed: int) -> np.random.Generator:
    import numpy as np

    if seed < 0:
        raise PlanError(f"--seed: must be >= 0, got {seed}")
    return np.random.default_rng(seed)


def _show(problem: FleetProblem, plan: FleetPlan, extra: dict[str, float], time_s: float) -> str:
    """A table of where the queries of each edge's clients go, then the figures of the plan."""
    lines = [] if problem.n_clients else ["clients: there are none, so the plan is empty"]
    if plan.obj is None:
        lines.append(
            f"infeasible: no plan serves every query because of {', '.join(plan.culprits)}"
        )
    else:
        lines += [
            _edges(problem, plan),
            "",
            f"accuracy  {plan.obj:.6f} of 1 (mode {problem.mode.value})",
        ]
    if plan.bound is not None and plan.gap is not None:
        proof = "optimal" if plan.status.value == "optimal" else f"gap {100 * plan.gap:.3f} %"
        lines.append(f"bound     {plan.bound:.6f} ({proof})")
    lines += [f"{name:9} {value:.6g}" for name, value in extra.items()]
    lines.append(f"method    {plan.method}, {plan.iterations} iterations, {1000 * time_s:.1f} ms")
    return "\n".join(lines)


def _edges(problem: FleetProblem, plan: FleetPlan) -> str:
    import numpy as np

    o, oce, r = (
        np.array(shares).reshape(problem.load.shape) for shares in (plan.o, plan.oce, plan.r)
    )
    rows = []
    for edge in range(problem.n_edges):
        of = problem.clients_of(edge)
        load = problem.load[of]
        total = max(float(load.sum()), 1e-300)
        shares = (1 - o[of] - r[of], o[of] - oce[of], oce[of], r[of])
        percents = [f"{100 * float((load * share).sum()) / total:.1f}" for share in shares]
        models = " ".join(problem.models[m] for m in plan.x_e[edge])
        held = sum(len(plan.x_c[client]) for client in of)
        rows.append(
            [str(edge), str(len(of)), f"{float(load.sum()):.1f}", *percents, str(held), models]
        )
    headers = ["edge", "clients", "queries/s", "local %", "edge %", "cloud %", "dropped %"]
    return table([*headers, "client models", "edge models"], rows)


def _generate(args: argparse.Namespace) -> int:
    from edged.planner.fleet.generate import FleetScenario, generate
    from edged.planner.fleet.problem import to_instance
    from edged.planner.fleet.standley import losses

    fields = {field: getattr(args, field) for field, _, _ in _SCENARIO.values()}
    given = {field: value for field, value in fields.items() if value is not None}
    scenario = convert({"batching": args.batching, "mode": args.mode, **given}, FleetScenario)
    problem = generate(args.family, _rng(args.seed), losses(), scenario)
    write_output(args.out, msgspec.json.encode(to_instance(problem)).decode())
    return 0
