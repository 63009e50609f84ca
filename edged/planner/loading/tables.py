"""What the solvers look up: users in order, times to serve them, times to load each model.

A model serves its users in ascending upload time, in full batches but for the last one (Theorem 2),
so the time of a visit to model i is `load_ms[previous, i] + serve_ms[i, users served]`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edged.planner.loading.problem import LoadingProblem

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Relative. The sums below are rounded; a plan that ends exactly on the deadline must still meet it.
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class LoadingTables:
    """Tables for I models and K users. Row I of `load_ms` is the cold device (model 0 there)."""

    limit_ms: float  # the deadline, with room for rounding
    slot_ms: float
    users: int  # K
    queue: tuple[Ints, ...]  # users of each model by ascending upload time, then index
    upload_ms: tuple[Floats, ...]  # upload time of the first k users of each model, (11)
    serve_ms: Floats  # (I, largest queue + 1) upload and compute k users, (9); inf past the queue
    load_ms: Floats  # (I + 1, I) load model i after model j, (8)
    rows_max: Ints  # (I,) most users per batch
    holds: npt.NDArray[np.bool_]  # (I, blocks) whether the model has the block; none of 0 bytes

    @property
    def cold(self) -> int:
        """The row of `load_ms` that stands for an empty device."""
        return len(self.load_ms) - 1

    @property
    def asked(self) -> list[int]:
        """The models that users request: the others are never worth loading."""
        return [i for i, queue in enumerate(self.queue) if len(queue)]


def tables(problem: LoadingProblem) -> LoadingTables:
    """The tables of a problem: all that does not depend on a plan."""
    queue, upload_ms = _queues(problem)
    holds = _holds(problem)
    return LoadingTables(
        limit_ms=problem.deadline_ms * (1.0 + _ROUNDING),
        slot_ms=problem.slot_ms,
        users=len(problem.users),
        queue=queue,
        upload_ms=upload_ms,
        serve_ms=_serve_ms(problem, upload_ms),
        load_ms=_load_ms(problem, holds),
        rows_max=np.array([model.b_max for model in problem.models], dtype=np.int64),
        holds=holds,
    )


def without_sharing(tables: LoadingTables) -> LoadingTables:
    """The same users when every model is loaded whole: no two models have a block in common."""
    load_ms = np.tile(tables.load_ms[tables.cold], (len(tables.load_ms), 1))
    return replace(tables, load_ms=load_ms, holds=tables.holds[:, :0])


def batch_sizes(count: int, rows_max: int) -> list[int]:
    """Sizes of the batches of one visit: full ones, then the remainder (Theorem 2.2)."""
    full, rest = divmod(count, rows_max)
    return [rows_max] * full + [rest] * (rest > 0)


def _queues(problem: LoadingProblem) -> tuple[tuple[Ints, ...], tuple[Floats, ...]]:
    """The users of each model by ascending p_k = D_k / (B R_k), and the running sum of p_k (ms)."""
    model = np.array([user.model for user in problem.users], dtype=np.int64)
    bits = np.array([user.upload_bits for user in problem.users], dtype=np.float64)
    efficiency = np.array([user.efficiency for user in problem.users], dtype=np.float64)
    with np.errstate(over="ignore", divide="ignore"):
        p_ms = np.where(bits > 0, 1000.0 * bits / problem.bandwidth_hz / efficiency, 0.0)
    order = np.lexsort((np.arange(len(model)), p_ms))
    queue = tuple(order[model[order] == i] for i in range(len(problem.models)))
    return queue, tuple(np.concatenate(([0.0], np.cumsum(p_ms[users]))) for users in queue)


def _serve_ms(problem: LoadingProblem, upload_ms: tuple[Floats, ...]) -> Floats:
    widest = max((len(upload) for upload in upload_ms), default=1)
    serve = np.full((len(upload_ms), widest), np.inf)
    for row, upload, model in zip(serve, upload_ms, problem.models, strict=True):
        count = np.arange(len(upload))
        batches = -(-count // model.b_max)
        row[: len(upload)] = upload + model.mu_ms * count + model.beta_ms * batches
    return serve


def _holds(problem: LoadingProblem) -> npt.NDArray[np.bool_]:
    holds = np.zeros((len(problem.models), len(problem.block_bytes)), dtype=np.bool_)
    for row, model in zip(holds, problem.models, strict=True):
        row[list(model.blocks)] = True
    return holds & (np.array(problem.block_bytes) > 0)


def _load_ms(problem: LoadingProblem, holds: npt.NDArray[np.bool_]) -> Floats:
    """The load times V of the bytes of J_i \\ J_j. A sum of no bytes is exactly 0, and so is V(0).

    The sums use einsum, which starts no threads: the threads of BLAS wait for each other when the
    cores are busy, and then take ten times as long as all the rest of a plan.
    """
    sizes = holds * np.array(problem.block_bytes, dtype=np.float64)
    common = holds.sum(axis=0) > 1
    own_bytes = sizes[:, ~common].sum(axis=1)
    lacks = np.vstack([~holds[:, common], np.ones((1, common.sum()), dtype=np.bool_)])
    missing_bytes = own_bytes + np.einsum("jb,ib->ji", lacks.astype(np.float64), sizes[:, common])
    np.fill_diagonal(missing_bytes[:-1], 0.0)
    load = problem.load
    return np.where(missing_bytes > 0, load.fixed_ms + missing_bytes / load.bytes_per_ms, 0.0)
