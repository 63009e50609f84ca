"""A fleet plan in the fields of the JSON format, and its check against the paper's constraints.

The check reads constraints (1) to (13) and (28) off the plan's own fields, in plain loops. Knows no
method, and shares no code with what makes plans (outcome.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import Enum

import msgspec
import numpy as np

from edged.errors import PlanError
from edged.planner.fleet.assignment import Assignment
from edged.planner.fleet.problem import FleetProblem, Mode
from edged.typeinfo import describe

OPTIMAL_GAP = 1e-6  # relative; the MILP's own tolerance
_TOLERANCE = 1e-6  # relative to a limit, absolute for shares
_SHOWN = 8  # violated constraints that a message names in full


class PlanStatus(str, Enum):
    """OPTIMAL: proven to be within 1e-6 of the bound. INFEASIBLE: proven; `culprits` say why."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"


class FleetPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Which models each node holds, which of them serves each task, and where queries go.

    `z` and `x` index models; -1 in `z`: none. `o` is the share of a client's traffic that leaves
    it, `oce` the share served in the cloud, `r` the share dropped. `obj` is F (2), the mean
    accuracy over all queries; no plan exceeds `bound`. An infeasible plan has no nodes.
    """

    method: str
    status: PlanStatus
    obj: float | None = None
    bound: float | None = None
    gap: float | None = None  # (bound - obj) / bound
    iterations: int = 0
    culprits: tuple[str, ...] = ()
    x_c: tuple[tuple[int, ...], ...] = ()
    x_e: tuple[tuple[int, ...], ...] = ()
    z_c: tuple[tuple[int, ...], ...] = ()
    z_e: tuple[tuple[int, ...], ...] = ()
    o: tuple[tuple[float, ...], ...] = ()
    oce: tuple[tuple[float, ...], ...] = ()
    r: tuple[tuple[float, ...], ...] = ()

    def violations(self, problem: FleetProblem) -> tuple[str, ...]:
        """Each violated constraint, as `(9) client 3: 612 GFLOP/s, limit 500`."""
        if self.status is PlanStatus.INFEASIBLE:
            return () if self.culprits else ("status infeasible without a constraint to blame",)
        wrong_shape = tuple(_shapes(problem, self))
        return wrong_shape or tuple(line for one in _CHECKS for line in one(problem, self))

    def verify(self, problem: FleetProblem) -> None:
        """Raise PlanError, one line, naming every violated constraint (the first 8 in full)."""
        found = self.violations(problem)
        if found:
            more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise PlanError(f"the plan violates {'; '.join(found[:_SHOWN])}{more}")

    def with_bound(self, bound: float) -> FleetPlan:
        """The plan with an upper bound, raised to the plan's value if rounding put it below."""
        assert self.obj is not None, "an infeasible plan has no bound; this is a bug"
        bound = max(bound, self.obj)
        gap = (bound - self.obj) / bound if bound > 0 else 0.0
        status = PlanStatus.OPTIMAL if gap <= OPTIMAL_GAP else PlanStatus.FEASIBLE
        return msgspec.structs.replace(self, bound=bound, gap=gap, status=status)

    def assignment(self) -> Assignment:
        """The plan's z as arrays, which a further search can start from."""
        return Assignment(np.array(self.z_c, dtype=np.int64), np.array(self.z_e, dtype=np.int64))


def _shapes(p: FleetProblem, plan: FleetPlan) -> Iterator[str]:
    for name in ("x_c", "z_c", "o", "oce", "r", "x_e", "z_e"):
        rows = getattr(plan, name)
        nodes = p.n_edges if name.endswith("_e") else p.n_clients
        if len(rows) != nodes:
            yield f"{name}: {len(rows)} rows, the instance has {nodes}"
            continue
        for node, row in enumerate(rows):
            if not name.startswith("x") and len(row) != p.n_tasks:
                yield f"{name}[{node}]: {len(row)} entries, the instance has {p.n_tasks} tasks"
            if name[0] in "xz" and any(not -1 <= m < p.n_models for m in row):
                yield f"{name}[{node}]: an index is out of range"


def _selection(p: FleetProblem, plan: FleetPlan) -> Iterator[str]:
    """(1a), (1b): a task is served by a model that the node holds and that supports it."""
    for equation, tier, held, chosen, accuracy in (
        ("(1a)", "client", plan.x_c, plan.z_c, p.client_accuracy),
        ("(1b)", "edge", plan.x_e, plan.z_e, p.edge_accuracy),
    ):
        for node, (models, row) in enumerate(zip(held, chosen, strict=True)):
            if len(set(models)) != len(models) or any(m < 0 for m in models):
                yield f"{equation} {tier} {node}: {list(models)} is not a set of models"
            where = int(p.edge_of[node]) if tier == "client" else node
            for task, model in enumerate(row):
                if model < 0:
                    continue
                if model not in models:
                    yield f"{equation} {tier} {node}, task {task}: model {model} is not onloaded"
                if not accuracy[where, model, task] > 0:
                    yield f"{equation} {tier} {node}, task {task}: model {model} lacks the task"


def _memory(p: FleetProblem, plan: FleetPlan) -> Iterator[str]:
    """(8a), (8b): the models of a node fit into its memory."""
    for equation, tier, held, size, limit in (
        ("(8a)", "client", plan.x_c, p.client_model_mb, p.client_mb),
        ("(8b)", "edge", plan.x_e, p.edge_model_mb, p.edge_mb),
    ):
        for node, models in enumerate(held):
            used = math.fsum(float(size[m]) for m in models)
            yield from _over(equation, f"{tier} {node}", used, float(limit[node]), "MB")


def _shares(p: FleetProblem, plan: FleetPlan) -> Iterator[str]:
    """(13c), (13f): each query is served once, or dropped if the mode allows it."""
    for client, task, o, oce, r in _flows(p, plan):
        where = f"client {client}, task {task}"
        if not all(-_TOLERANCE <= share <= 1 + _TOLERANCE for share in (o, oce, r)):
            yield f"(13f) {where}: o, oce, r = {o:g}, {oce:g}, {r:g} are not shares"
            continue
        if oce > o + _TOLERANCE:
            yield f"(13c) {where}: oce {oce:g} is more than o {o:g}"
        local = 1.0 - o - r
        if local < -_TOLERANCE:
            yield f"(13f) {where}: o + r = {o + r:g} is more than 1"
        has_model = plan.z_c[client][task] >= 0
        if local > _TOLERANCE and not has_model:
            yield f"(1a) {where}: {local:g} is served locally without a model"
        if o - oce > _TOLERANCE and plan.z_e[int(p.edge_of[client])][task] < 0:
            yield f"(1b) {where}: {o - oce:g} is served at the edge without a model"
        if r > _TOLERANCE and (p.mode is Mode.STRICT or (p.mode is Mode.NULL and has_model)):
            yield f"(1a) {where}: {r:g} is dropped, mode {p.mode.value} forbids it"


def _client_compute(p: FleetProblem, plan: FleetPlan) -> Iterator[str]:
    """(9): a client has the compute for what it serves."""
    used = [0.0] * p.n_clients
    for client, task, o, _, r in _flows(p, plan):
        model = plan.z_c[client][task]
        if model >= 0:
            used[client] += float(p.load[client, task]) * (1.0 - o - r) * float(p.work[model])
    for client, gflops in enumerate(used):
        yield from _over(
            "(9)", f"client {client}", gflops, float(p.client_gflops[client]), "GFLOP/s"
        )


def _edge_compute(p: FleetProblem, plan: FleetPlan) -> Iterator[str]:
    """(10): an edge has the compute for what it serves; (28) if there are setup times."""
    load = [[0.0] * p.n_tasks for _ in range(p.n_edges)]
    for client, task, o, oce, _ in _flows(p, plan):
        load[int(p.edge_of[client])][task] += float(p.load[client, task]) * (o - oce)
    for edge, row in enumerate(load):
        limit = float(p.edge_gflops[edge])
        served = [(m, rate) for m, rate in zip(plan.z_e[edge], row, strict=True) if m >= 0]
        gflops = math.fsum(float(p.work[m]) * rate for m, rate in served)
        if p.setup_s is None:
            yield from _over("(10)", f"edge {edge}", gflops, limit, "GFLOP/s")
            continue
        # A rate below the tolerance is the LP's zero, not a batch.
        setup = math.fsum(float(p.setup_s[m]) for m, rate in served if rate > _TOLERANCE)
        seconds = setup + gflops / limit * p.window_s
        yield from _over("(28)", f"edge {edge}", seconds, p.window_s, "s of each window")


def _links(p: FleetProblem, plan: FleetPlan) -> Iterator[str]:
    """(11), (12): the uplinks and the cloud link carry what is sent over them."""
    uplink = [0.0] * p.n_edges
    cloud = 0.0
    for client, task, o, oce, _ in _flows(p, plan):
        traffic = float(p.load[client, task]) * float(p.input_mb[task])
        uplink[int(p.edge_of[client])] += traffic * o
        cloud += traffic * oce
    for edge, used in enumerate(uplink):
        yield from _over("(11)", f"edge {edge}", used, float(p.uplink_mb_s[edge]), "MB/s")
    yield from _over("(12)", "cloud link", cloud, p.cloud_mb_s, "MB/s")


def _objective(p: FleetProblem, plan: FleetPlan) -> Iterator[str]:
    """(2): the value that the plan claims, and its bound."""
    total = float(p.load.sum())
    value = 0.0
    for client, task, o, oce, r in _flows(p, plan):
        edge = int(p.edge_of[client])
        local_model, edge_model = plan.z_c[client][task], plan.z_e[edge][task]
        at_client = float(p.client_accuracy[edge, local_model, task]) if local_model >= 0 else 0.0
        at_edge = float(p.edge_accuracy[edge, edge_model, task]) if edge_model >= 0 else 0.0
        served = (1 - o - r) * at_client + (o - oce) * at_edge + oce * float(p.cloud_accuracy[task])
        value += float(p.load[client, task]) / total * served
    if plan.obj is None or abs(plan.obj - value) > _TOLERANCE:
        yield f"(2): obj is {plan.obj}, the flows make {value:.9g}"
    if plan.bound is not None and plan.bound < value - _TOLERANCE:
        yield f"bound {plan.bound:.9g} is below the plan's own value {value:.9g}"


def _flows(p: FleetProblem, plan: FleetPlan) -> Iterator[tuple[int, int, float, float, float]]:
    """(client, task, o, oce, r) of every task that has load."""
    for client in range(p.n_clients):
        for task in range(p.n_tasks):
            if p.load[client, task] > 0:
                yield (
                    client,
                    task,
                    plan.o[client][task],
                    plan.oce[client][task],
                    plan.r[client][task],
                )


def _over(equation: str, where: str, used: float, limit: float, unit: str) -> Iterator[str]:
    if used > limit + _TOLERANCE * max(1.0, limit):
        yield f"{equation} {where}: {used:g} {unit}, limit {limit:g}"


_CHECKS = (_selection, _memory, _shares, _client_compute, _edge_compute, _links, _objective)

describe(FleetPlan)
