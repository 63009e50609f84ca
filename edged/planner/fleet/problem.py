"""An instance of the fleet problem (J3O, BAJ3O) as frozen arrays, and the checks on its JSON form.

Shapes use C clients, E edges, M models, T tasks. Memory and inputs are in MB, work in GFLOP per
query, speeds in GFLOP/s, loads in queries/s, links in MB/s, as in Tables II and III of the paper
and in docs/planners-fleet.md. Knows no method.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edged.errors import PlanError
from edged.planner.instance import (
    Amount,
    Fraction,
    Index,
    NonNegative,
    PositiveAmount,
    Seconds,
    decode,
)
from edged.typeinfo import describe

KIND = "j3o"
NEGLIGIBLE = 1e-9  # MB, MB/s or GFLOP/s below this count as 0: a thousandth of a byte, one FLOP/s

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Mode(str, enum.Enum):
    """What may happen to a query that no node serves (P1 as printed is often infeasible).

    DROP: a fraction r of each (client, task) scores 0. NULL: a (client, task) without a model
    scores 0 for its local share; one with a model serves its whole local share. STRICT: P1 as
    printed: every query is served.
    """

    DROP = "drop"
    NULL = "null"
    STRICT = "strict"


class ClientData(msgspec.Struct, frozen=True):
    edge: Index
    mem: NonNegative
    flops: NonNegative
    lam: list[Amount]


class EdgeData(msgspec.Struct, frozen=True):
    mem: NonNegative
    flops: NonNegative
    kappa: NonNegative


class Instance(msgspec.Struct, frozen=True, tag_field="type", tag=KIND):
    """The JSON form, field by field; keys that it does not name are ignored."""

    tasks: list[str]
    models: list[str]
    w: list[PositiveAmount]
    mem_c: list[Amount]
    mem_e: list[Amount]
    acc_c: list[list[list[Fraction]]]
    acc_e: list[list[list[Fraction]]]
    acc_s: list[Fraction]
    clients: list[ClientData]
    edges: list[EdgeData]
    kappa_s: NonNegative
    d: list[Amount]
    mode: Mode
    nu: list[Amount] | None
    Tb: Seconds | None


@dataclass(frozen=True, slots=True, eq=False)
class FleetProblem:
    """One instance of P1 (13), or of its batching form with row (28) where `setup_s` is given."""

    tasks: tuple[str, ...]
    models: tuple[str, ...]
    work: Array  # (M,) GFLOP per query
    client_model_mb: Array  # (M,) memory of a model on a client
    edge_model_mb: Array  # (M,) memory of a model on an edge
    client_accuracy: Array  # (E, M, T) in [0, 1]; 0: the model does not support the task
    edge_accuracy: Array  # (E, M, T)
    cloud_accuracy: Array  # (T,)
    edge_of: Ints  # (C,) the edge of each client
    client_mb: Array  # (C,)
    client_gflops: Array  # (C,) GFLOP/s
    load: Array  # (C, T) queries/s
    edge_mb: Array  # (E,)
    edge_gflops: Array  # (E,)
    uplink_mb_s: Array  # (E,) κ_e, all clients of an edge together
    cloud_mb_s: float  # κ_s, all edges together
    input_mb: Array  # (T,) d_t
    mode: Mode = Mode.DROP
    setup_s: Array | None = None  # (M,) ν_m, the fixed time of a batch
    window_s: float = 1.0  # T_b, where setup_s is given

    @property
    def n_clients(self) -> int:
        return len(self.edge_of)

    @property
    def n_edges(self) -> int:
        return len(self.edge_mb)

    @property
    def n_models(self) -> int:
        return len(self.models)

    @property
    def n_tasks(self) -> int:
        return len(self.tasks)

    @property
    def batching(self) -> bool:
        return self.setup_s is not None

    @property
    def total_load(self) -> float:
        return float(self.load.sum())

    @property
    def weight(self) -> Array:
        """Each load's share of the total, (C, T); zeros if there is no load at all."""
        total = self.total_load
        return self.load / total if total > 0 else np.zeros_like(self.load)

    def clients_of(self, edge: int) -> Ints:
        return np.flatnonzero(self.edge_of == edge)

    def with_load(self, load: Array) -> FleetProblem:
        """The same fleet under another load, (C, T) queries/s."""
        return replace(self, load=load)


def read(data: bytes | str) -> FleetProblem:
    """The checked instance. Raises PlanError in one line that names the field that is wrong."""
    return from_instance(decode(data, KIND, Instance))


def from_instance(raw: Instance) -> FleetProblem:
    """The problem as arrays. Raises PlanError naming the field that is wrong.

    A fleet without clients may also lack tasks, models and edges: its plan is empty.
    """
    _check(raw)
    tasks, models, edges = len(raw.tasks), len(raw.models), len(raw.edges)
    return FleetProblem(
        tasks=tuple(raw.tasks),
        models=tuple(raw.models),
        work=_floats(raw.w),
        client_model_mb=_floats(raw.mem_c),
        edge_model_mb=_floats(raw.mem_e),
        client_accuracy=_floats(raw.acc_c).reshape(edges, models, tasks),
        edge_accuracy=_floats(raw.acc_e).reshape(edges, models, tasks),
        cloud_accuracy=_floats(raw.acc_s),
        edge_of=np.array([c.edge for c in raw.clients], dtype=np.int64),
        client_mb=_floats([c.mem for c in raw.clients]),
        client_gflops=_limits([c.flops for c in raw.clients]),
        load=_floats([c.lam for c in raw.clients]).reshape(len(raw.clients), tasks),
        edge_mb=_floats([e.mem for e in raw.edges]),
        edge_gflops=_limits([e.flops for e in raw.edges]),
        uplink_mb_s=_limits([e.kappa for e in raw.edges]),
        cloud_mb_s=float(_limits(raw.kappa_s)),
        input_mb=_floats(raw.d),
        mode=raw.mode,
        setup_s=None if raw.nu is None else _floats(raw.nu),
        window_s=raw.Tb if raw.Tb is not None else 1.0,
    )


def _check(raw: Instance) -> None:
    """Check what types cannot say: lengths, indices, and pairs of fields."""
    tasks, models, edges = len(raw.tasks), len(raw.models), len(raw.edges)
    for name in ("tasks", "models", "edges"):
        if raw.clients and not getattr(raw, name):
            raise PlanError(f"{name}: empty, but there are clients; there must be at least one")
    for name in ("w", "mem_c", "mem_e"):
        _shaped(name, getattr(raw, name), (models,))
    for name in ("acc_c", "acc_e"):
        _shaped(name, getattr(raw, name), (edges, models, tasks))
    for name in ("acc_s", "d"):
        _shaped(name, getattr(raw, name), (tasks,))
    for number, client in enumerate(raw.clients):
        _shaped(f"clients[{number}].lam", client.lam, (tasks,))
        if client.edge >= edges:
            raise PlanError(
                f"clients[{number}].edge: must be < {edges}, the number of edges, got {client.edge}"
            )
    _check_batching(raw)


def to_instance(problem: FleetProblem) -> Instance:
    """The JSON form of a problem: `read(msgspec.json.encode(to_instance(p)))` gives `p` back."""
    return Instance(
        tasks=list(problem.tasks),
        models=list(problem.models),
        w=problem.work.tolist(),
        mem_c=problem.client_model_mb.tolist(),
        mem_e=problem.edge_model_mb.tolist(),
        acc_c=problem.client_accuracy.tolist(),
        acc_e=problem.edge_accuracy.tolist(),
        acc_s=problem.cloud_accuracy.tolist(),
        clients=[
            ClientData(int(edge), float(mb), float(gflops), load.tolist())
            for edge, mb, gflops, load in zip(
                problem.edge_of, problem.client_mb, problem.client_gflops, problem.load, strict=True
            )
        ],
        edges=[
            EdgeData(float(mb), float(gflops), float(kappa))
            for mb, gflops, kappa in zip(
                problem.edge_mb, problem.edge_gflops, problem.uplink_mb_s, strict=True
            )
        ],
        kappa_s=problem.cloud_mb_s,
        d=problem.input_mb.tolist(),
        mode=problem.mode,
        nu=None if problem.setup_s is None else problem.setup_s.tolist(),
        Tb=None if problem.setup_s is None else problem.window_s,
    )


def _check_batching(raw: Instance) -> None:
    if (raw.nu is None) != (raw.Tb is None):
        missing = "nu" if raw.nu is None else "Tb"
        raise PlanError(f"{missing}: null; the batching row (28) needs both nu and Tb")
    if raw.nu is None:
        return
    _shaped("nu", raw.nu, (len(raw.models),))
    for number, edge in enumerate(raw.edges):
        if edge.flops < NEGLIGIBLE:
            raise PlanError(f"edges[{number}].flops: must be > 0 with batching, (28) divides by it")


def _shaped(name: str, value: Any, shape: tuple[int, ...]) -> None:
    """Raise PlanError unless the nested lists have this shape."""
    if len(value) != shape[0]:
        raise PlanError(f"{name}: must have {shape[0]} entries, got {len(value)}")
    for number, item in enumerate(value if len(shape) > 1 else ()):
        _shaped(f"{name}[{number}]", item, shape[1:])


def _limits(value: Any) -> Array:
    return _floats(np.where(np.array(value) < NEGLIGIBLE, 0.0, value))


def _floats(value: Any) -> Array:
    array = np.array(value, dtype=np.float64)
    array.flags.writeable = False
    return array


describe(Instance)
