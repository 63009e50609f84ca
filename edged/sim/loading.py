"""The JSON form of scenarios of loading: models that share blocks, and a budget that does not hold
them all.

Times are in milliseconds; blocks, models and the law of loading are written as in an instance of
the loading planner. A batch takes `beta + mu * rows` for each model in it, so that sharing saves no
running time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec
from msgspec.structs import replace

from edged.core.events import BlockCost, GroupCost, Library, Model, Part, Run
from edged.core.residency.policies import POLICIES
from edged.core.settings import MemorySettings, SchedulerSettings
from edged.errors import InvalidArgument, PlanError
from edged.planner.instance import Count, Index, NonNegative, Positive, decode
from edged.sim.arrivals import Arrivals
from edged.sim.device import DeviceModel
from edged.sim.scenario import LoadedModels, Scenario, check_lanes
from edged.typeinfo import describe

INDEPENDENT = "independent"  # `partial` where no two models share a block
NAMES = (*POLICIES, INDEPENDENT)


class Speed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Time to load S bytes: `fixed_ms + S / bytes_per_ms`, for each block."""

    bytes_per_ms: Positive = 1.2e6
    fixed_ms: NonNegative = 0.0

    def seconds(self, size_bytes: float) -> float:
        return (self.fixed_ms + size_bytes / self.bytes_per_ms) / 1e3


class SimModel(msgspec.Struct, frozen=True):
    """The blocks of a model, bottom to top, and what a batch of it costs."""

    blocks: tuple[Index, ...]
    mu_ms: NonNegative
    beta_ms: NonNegative
    name: str


@dataclass(frozen=True, slots=True)
class SeparateModels:
    """A batch runs its models one after the other, whatever blocks they share."""

    models: Mapping[str, SimModel]
    rows_max: int

    def batch_s(self, run: Run) -> float:
        names = dict.fromkeys(name for member in run.members for name in member.models)
        return sum(self._run_s(run, name) for name in names)

    def cost(self, group: str) -> GroupCost:
        """The slowest model of a group, as the daemon measures it."""
        rows = tuple(range(1, self.rows_max + 1))
        curves = [
            tuple((model.beta_ms + model.mu_ms * n) / 1e3 for n in rows)
            for model in self.models.values()
            if _block(model.blocks[0]) == group
        ]
        return GroupCost(group, rows, max(curves))

    def _run_s(self, run: Run, name: str) -> float:
        model = self.models[name]
        rows = sum(name in member.models for member in run.members)
        return (model.beta_ms + model.mu_ms * rows) / 1e3


class LoadingForm(msgspec.Struct, frozen=True):
    """Requests for models that share blocks, as JSON."""

    block_bytes: tuple[Index, ...]
    models: tuple[SimModel, ...]
    budget_bytes: Count  # for blocks
    arrivals_ms: tuple[NonNegative, ...]
    asked: tuple[Index, ...]  # the model of each arrival
    deadline_ms: Positive  # after the arrival
    load: Speed = Speed()
    b_max: Count = 32
    closed: bool = False  # each arrives when the one before has its answer; its time is ignored
    # Begin with as many models as fit. False: begin with none, and with the requests of time 0.
    warm: bool = True
    policy: str = "partial"
    max_wait_ms: Positive = 10e3
    type: Literal["loading"] = "loading"
    lanes: Count = 1  # batches that the device runs side by side
    speed_up: Positive = 1.0  # a batch that has all lanes is faster by this factor
    measured: bool = True  # False: the first start ever; batches are measured in idle moments

    def scenario(self, policy: str | None = None) -> Scenario:
        """The scenario, by default with the loading policy that it names.

        Raises InvalidArgument for a policy that does not exist, PlanError for too large a speed-up.
        """
        check_lanes(self.lanes, self.speed_up)
        policy = policy or self.policy
        memory_settings = self._memory_settings(policy)
        library = unshared(self.library()) if policy == INDEPENDENT else self.library()
        arrivals = Arrivals(tuple(at / 1e3 for at in self.arrivals_ms), self.asked, self.asked)
        parts = {i: Part(_block(m.blocks[0]), (m.name,)) for i, m in enumerate(self.models)}
        times = SeparateModels({model.name: model for model in self.models}, self.b_max)
        device = DeviceModel(
            times, prepare_workers=0, network_s=0.0, lanes=self.lanes, speed_up=self.speed_up
        )
        settings = SchedulerSettings(
            queue_rows=len(self.asked) + self.b_max,
            staging_rows=2 * self.b_max,
            max_batch_rows=self.b_max,
            # What is not measured is learnt from small batches, as the daemon does.
            useful_batches=not self.measured,
        )
        loaded = LoadedModels(library, self.budget_bytes, self.warm)
        deadline_s = self.deadline_ms / 1e3
        return Scenario(
            arrivals, parts, device, settings, deadline_s, loaded, memory_settings, self.closed
        )

    def _memory_settings(self, policy: str) -> MemorySettings:
        if policy not in NAMES:
            raise InvalidArgument(
                f"no loading policy is called {policy!r}: there are {', '.join(NAMES)}"
            )
        name = "partial" if policy == INDEPENDENT else policy
        raw = {"policy": name, "max_wait_s": self.max_wait_ms / 1e3}
        return msgspec.convert(raw, MemorySettings)

    def library(self) -> Library:
        """The models and their blocks."""
        used = sorted({block for model in self.models for block in model.blocks})
        sizes = self.block_bytes
        return Library(
            tuple(Model(m.name, tuple(map(_block, m.blocks)), self.measured) for m in self.models),
            tuple(BlockCost(_block(i), sizes[i], self.load.seconds(sizes[i])) for i in used),
        )


def _block(number: int) -> str:
    """The id of a block."""
    return f"b{number}"


def unshared(library: Library) -> Library:
    """The same models with every block their own, called `block@model`: without any sharing."""
    costs = {cost.block: cost for cost in library.blocks}
    own = {m.name: tuple(f"{block}@{m.name}" for block in m.blocks) for m in library.models}
    return Library(
        tuple(replace(m, blocks=own[m.name]) for m in library.models),
        tuple(
            replace(costs[block], block=alias)
            for m in library.models
            for block, alias in zip(m.blocks, own[m.name], strict=True)
        ),
    )


def read(data: bytes) -> LoadingForm:
    """A scenario from JSON. Raises PlanError naming the field."""
    scenario = decode(data, "loading", LoadingForm)
    if len(scenario.asked) != len(scenario.arrivals_ms):
        raise PlanError(
            f"asked: {len(scenario.asked)} entries for {len(scenario.arrivals_ms)} arrivals_ms"
        )
    if any(a > b for a, b in zip(scenario.arrivals_ms, scenario.arrivals_ms[1:], strict=False)):
        raise PlanError("arrivals_ms: must be ascending")
    for name, values, limit in (
        ("asked", scenario.asked, len(scenario.models)),
        ("blocks", (b for m in scenario.models for b in m.blocks), len(scenario.block_bytes)),
    ):
        if (largest := max(values, default=0)) >= limit:
            raise PlanError(f"{name}: {largest} is not below {limit}")
    return scenario


describe(LoadingForm)
