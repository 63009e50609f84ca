"""Loading in virtual time: models that share blocks, a budget that does not hold them all.

A scenario is JSON, in milliseconds and bytes; blocks, models and the law of loading are written as
in an instance of the loading planner. The device has one loader and one lane, which work side by
side; a batch takes `beta + mu * rows` for each model in it, so that sharing saves no running time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from edged.core.events import (
    Answer,
    Arrived,
    BatchDone,
    BlockCost,
    BlockLoaded,
    BlockUnloaded,
    Command,
    DeviceUp,
    Event,
    GroupCost,
    HeldBlock,
    Library,
    Load,
    MemoryMeasured,
    Model,
    Overhead,
    Part,
    Refuse,
    Request,
    Run,
    Unload,
)
from edged.core.residency.policies import POLICIES, first_models, unshared
from edged.core.scheduler import Scheduler
from edged.core.settings import MemorySettings, SchedulerSettings
from edged.errors import InvalidArgument, PlanError
from edged.planner.instance import Count, Index, NonNegative, Positive, decode
from edged.sim.engine import Engine, Trace
from edged.typeinfo import describe


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


class Scenario(msgspec.Struct, frozen=True):
    """Requests for models that share blocks. The same scenario gives the same outcome."""

    block_bytes: tuple[Index, ...]
    models: tuple[SimModel, ...]
    budget_bytes: Count  # for blocks
    arrivals_ms: tuple[NonNegative, ...]
    asked: tuple[Index, ...]  # the model of each arrival
    deadline_ms: Positive  # after the arrival
    load: Speed = Speed()
    b_max: Count = 32
    closed: bool = False  # each arrives when the one before has its answer, whatever its time
    warm: bool = True  # begins with as many models as fit; else with none, and after time 0's
    policy: str = "partial"
    max_wait_ms: Positive = 10e3
    type: Literal["loading"] = "loading"

    def decided_by(self, policy: str) -> tuple[SchedulerSettings, MemorySettings]:
        """All that the scheduler's decisions depend on. Raises InvalidArgument."""
        settings = SchedulerSettings(
            queue_rows=len(self.asked) + self.b_max,
            staging_rows=2 * self.b_max,
            max_batch_rows=self.b_max,
            useful_batches=False,
        )
        if policy not in POLICIES:
            raise InvalidArgument(
                f"no loading policy is called {policy!r}: there are {', '.join(POLICIES)}"
            )
        raw = {"policy": policy, "max_wait_s": self.max_wait_ms / 1e3}
        return settings, msgspec.convert(raw, MemorySettings)

    def library(self) -> Library:
        used = sorted({block for model in self.models for block in model.blocks})
        return Library(
            tuple(Model(m.name, tuple(f"b{block}" for block in m.blocks)) for m in self.models),
            tuple(
                BlockCost(f"b{i}", self.block_bytes[i], self.load.seconds(self.block_bytes[i]))
                for i in used
            ),
        )


@dataclass(frozen=True, slots=True)
class LoadingOutcome:
    """What happened to each request, by position; seconds. Simulated."""

    latency_s: tuple[float | None, ...]  # None: refused
    loaded_bytes: int
    loads: int  # of blocks
    loading_s: float  # that the loader was busy
    end_s: float
    events: int

    @property
    def served(self) -> int:
        """Requests answered; an answer after the deadline does not happen."""
        return sum(latency is not None for latency in self.latency_s)

    def summary(self) -> dict[str, float]:
        """Share served, latencies in ms, bytes loaded, and the loader's share of the time.

        NaN where nothing was served.
        """
        served_ms = [s * 1e3 for s in self.latency_s if s is not None]
        median, p99 = np.percentile(served_ms, (50, 99)) if served_ms else (np.nan, np.nan)
        return {
            "served": self.served / max(1, len(self.latency_s)),
            "p50": float(median),
            "p99": float(p99),
            "loads": self.loads,
            "loaded_gb": self.loaded_bytes / 1e9,
            "loader_busy": self.loading_s / self.end_s if self.end_s else 0.0,
        }


def read(data: bytes) -> Scenario:
    """A scenario from JSON. Raises PlanError naming the field."""
    scenario = decode(data, "loading", Scenario)
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


def run(
    scenario: Scenario, policy: str | None = None, *, trace: Trace | None = None
) -> LoadingOutcome:
    """Simulate it, by default with the loading policy that it names."""
    return _Simulation(scenario, policy or scenario.policy, trace).run()


class LoadingDevice:
    """One lane, and one loader that reads blocks one after another."""

    def __init__(self, scenario: Scenario, library: Library) -> None:
        self._models = {model.name: model for model in scenario.models}
        self._blocks = {cost.block: cost for cost in library.blocks}
        self._loader_free_s = 0.0
        self.loaded_bytes = 0
        self.loads = 0
        self.loading_s = 0.0

    def obey(self, command: Command, now: float) -> tuple[float, Event] | None:
        """When it will report what; None for what needs no report, as do inline requests."""
        if isinstance(command, Run):
            took_s = sum(self._run_s(command, model) for model in _models_in(command))
            return now + took_s, BatchDone(command.batch, took_s, 0.0)
        if isinstance(command, Load):
            return self._load(self._blocks[command.block], now)
        if isinstance(command, Unload):
            return now, BlockUnloaded(command.block)
        return None

    def _load(self, block: BlockCost, now: float) -> tuple[float, Event]:
        self._loader_free_s = max(now, self._loader_free_s) + block.load_s
        self.loads += 1
        self.loaded_bytes += block.bytes
        self.loading_s += block.load_s
        return self._loader_free_s, BlockLoaded(block.block, block.bytes, block.load_s)

    def _run_s(self, command: Run, name: str) -> float:
        model = self._models[name]
        rows = sum(name in member.models for member in command.members)
        return (model.beta_ms + model.mu_ms * rows) / 1e3


def _models_in(command: Run) -> Iterable[str]:
    return dict.fromkeys(name for member in command.members for name in member.models)


class _Simulation:
    def __init__(self, scenario: Scenario, policy: str, trace: Trace | None) -> None:
        self._scenario = scenario
        self._library = scenario.library()
        held = unshared(self._library) if policy == "independent" else self._library
        self._held = held
        self._device = LoadingDevice(scenario, held)
        self._also_trace = trace
        self._latency_s: list[float | None] = [None] * len(scenario.asked)
        self._arrived_s = [0.0] * len(scenario.asked)
        self._end_s = 0.0
        scheduler = Scheduler(*scenario.decided_by(policy))
        self._engine = Engine(scheduler, self._device, self._trace)

    def run(self) -> LoadingOutcome:
        scenario, engine = self._scenario, self._engine
        engine.tell(self._library, 0.0)
        engine.tell(MemoryMeasured(scenario.budget_bytes), 0.0)
        up = DeviceUp(self._costs(), resident=self._resident())
        is_up = scenario.warm
        if is_up:
            engine.tell(up, 0.0)
        for rid, at_ms in enumerate(scenario.arrivals_ms[: 1 if scenario.closed else None]):
            at = at_ms / 1e3
            if at > 0.0 and not is_up:
                engine.tell(up, 0.0)
                is_up = True
            engine.advance(at)
            engine.tell(self._arrival(rid, at), at)
        if not is_up:
            engine.tell(up, 0.0)
        engine.finish()
        device = self._device
        return LoadingOutcome(
            tuple(self._latency_s),
            device.loaded_bytes,
            device.loads,
            device.loading_s,
            self._end_s,
            engine.events,
        )

    def _arrival(self, rid: int, at: float) -> Arrived:
        self._arrived_s[rid] = at
        asked = self._scenario.asked[rid]
        model = self._library.models[asked]
        part = Part(model.blocks[0], (model.name,))
        deadline_s = at + self._scenario.deadline_ms / 1e3
        return Arrived(Request(rid, asked, (part,), deadline_s=deadline_s, inline=True))

    def _costs(self) -> tuple[GroupCost, ...]:
        """The slowest model of each group, as the daemon measures it."""
        rows = tuple(range(1, self._scenario.b_max + 1))
        curves: dict[str, tuple[float, ...]] = {}
        for model, named in zip(self._scenario.models, self._library.models, strict=True):
            times = tuple((model.beta_ms + model.mu_ms * n) / 1e3 for n in rows)
            curves[named.blocks[0]] = max(times, curves.get(named.blocks[0], times))
        return tuple(GroupCost(group, rows, times) for group, times in curves.items())

    def _resident(self) -> tuple[HeldBlock, ...]:
        if not self._scenario.warm:
            return ()
        sizes = {cost.block: cost.bytes for cost in self._held.blocks}
        first = set(first_models(self._held, self._scenario.budget_bytes, Overhead()))
        blocks = dict.fromkeys(b for m in self._held.models if m.name in first for b in m.blocks)
        return tuple(HeldBlock(block, sizes[block]) for block in blocks)

    def _trace(self, now: float, event: Event, commands: list[Command]) -> None:
        self._end_s = now
        if self._also_trace is not None:
            self._also_trace(now, event, commands)
        for command in commands:
            if isinstance(command, Answer):
                self._latency_s[command.rid] = now - self._arrived_s[command.rid]
            if isinstance(command, Answer | Refuse) and self._scenario.closed:
                following = command.rid + 1
                if following < len(self._scenario.asked):
                    self._engine.expect(now, self._arrival(following, now))


describe(Scenario)
