"""The instance of a loading plan: frozen values, their JSON form, and the checks on them.

The JSON keeps the paper's letters (`T_ms`, `B_hz`, `D_bits`, `R`, `l`); the names here say what
they mean. Times are in ms, sizes in bytes, uploads in bits.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edged.errors import PlanError
from edged.planner.instance import Count, Index, NonNegative, Positive, decode
from edged.typeinfo import describe

KIND = "partial_loading"

FamilyName = Literal["bls", "general", "small-bls", "small-general"]  # what generate.py can make


class LoadTime(msgspec.Struct, frozen=True):
    """Time to load S bytes: V(S) = fixed_ms + S / bytes_per_ms if S > 0, else 0."""

    bytes_per_ms: Positive
    fixed_ms: NonNegative


class LoadingModel(msgspec.Struct, frozen=True):
    """The blocks of a model, bottom to top, and what it costs to run.

    A batch of n rows takes `mu_ms * n + beta_ms` (9) and has at most `b_max` rows (10c). In a
    bottom-layer-sharing instance the first `shared` blocks are the prefix common to `cluster`.
    """

    blocks: tuple[Index, ...]
    mu_ms: NonNegative
    beta_ms: NonNegative
    b_max: Count
    cluster: int | None
    shared: Index | None = msgspec.field(name="l")
    name: str = ""


class User(msgspec.Struct, frozen=True):
    """One request: its model, the bits to upload and the spectral efficiency in bit/s/Hz."""

    model: Index
    upload_bits: NonNegative = msgspec.field(name="D_bits")
    efficiency: Positive = msgspec.field(name="R")


class LoadingProblem(msgspec.Struct, frozen=True):
    """Which users to serve by one deadline, on a device that holds one model at a time (P1)."""

    deadline_ms: NonNegative = msgspec.field(name="T_ms")
    slot_ms: Positive  # only the slotted methods look at it
    bandwidth_hz: Positive = msgspec.field(name="B_hz")
    load: LoadTime
    block_bytes: tuple[Index | NonNegative, ...]
    models: tuple[LoadingModel, ...]
    users: tuple[User, ...]
    type: Literal["partial_loading"] = "partial_loading"


def read(data: bytes | str) -> LoadingProblem:
    """The checked instance. Raises PlanError naming the field that is wrong."""
    problem = decode(data, KIND, LoadingProblem)
    check(problem)
    return problem


def check(problem: LoadingProblem) -> None:
    """Raise PlanError unless blocks, users and clusters fit together."""
    _check_blocks(problem)
    _check_clusters(problem)
    if problem.users and not problem.models:
        raise PlanError(f"models: empty, but users[0] asks for model {problem.users[0].model}")
    for k, user in enumerate(problem.users):
        if user.model >= len(problem.models):
            raise PlanError(
                f"users[{k}].model: must be < {len(problem.models)}, the number of models, "
                f"got {user.model}"
            )


def _check_blocks(problem: LoadingProblem) -> None:
    for i, model in enumerate(problem.models):
        if model.shared is not None and model.shared > len(model.blocks):
            raise PlanError(
                f"models[{i}].l: must be <= {len(model.blocks)}, the number of its blocks, "
                f"got {model.shared}"
            )
        seen: set[int] = set()
        for position, block in enumerate(model.blocks):
            where = f"models[{i}].blocks[{position}]"
            if block >= len(problem.block_bytes):
                raise PlanError(
                    f"{where}: must be < {len(problem.block_bytes)}, the number of block_bytes, "
                    f"got {block}"
                )
            if block in seen:
                raise PlanError(f"{where}: block {block} is listed twice in this model")
            seen.add(block)


def _check_clusters(problem: LoadingProblem) -> None:
    """Every `l` of a cluster must be a prefix of the longest one (Definition 2)."""
    longest: dict[int, tuple[int, tuple[int, ...]]] = {}
    for i, model in enumerate(problem.models):
        if model.cluster is None or model.shared is None:
            continue
        prefix = model.blocks[: model.shared]
        known, best = longest.setdefault(model.cluster, (i, prefix))
        common = min(len(prefix), len(best))
        if prefix[:common] != best[:common]:
            raise PlanError(
                f"models[{i}].l: its first {common} blocks are not those of models[{known}], "
                f"which is in the same cluster {model.cluster}"
            )
        if len(prefix) > len(best):
            longest[model.cluster] = (i, prefix)


describe(LoadingProblem)
