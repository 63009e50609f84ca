"""The JSON form of scenarios of batching, in milliseconds and requests a second.

Either the arrivals are listed (`arrivals_ms`, `tasks`) or they are to be generated (`arrivals`).
Times that are left out are those of SMOOTH's Table II and of docs/results/smooth.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from edged import profiles
from edged.core.events import Arrived, Part
from edged.core.settings import SchedulerSettings
from edged.errors import PlanError
from edged.observe.recording import turns
from edged.planner.instance import Count, NonNegative, Positive, decode
from edged.policies import find
from edged.sim.arrivals import Arrivals, generate
from edged.sim.device import DeviceModel, SharedBackbone
from edged.sim.scenario import Scenario, check_lanes
from edged.typeinfo import describe

BACKBONE = "backbone"  # the group of all parts
UNBOUNDED = 10**9  # rows; the paper's queues have no limit

# The names that the interchange format uses besides ours.
ALIASES = {
    "mono": "monolithic",
    "alg1": "smooth-keep",
    "alg1_max": "smooth",
    "alg1_timeout": "smooth-timeout",
    "wc": "work-conserving",
    "wc_set": "work-conserving-profiled",
}


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Batch sizes, ascending, and the milliseconds that each takes."""

    B: tuple[Count, ...]
    t_ms: tuple[Positive, ...]


def table_ii() -> Profile:
    """SMOOTH's Table II, of the file that the emulated backend reads too."""
    backbone = profiles.read(profiles.SMOOTH_TABLE_2).blocks["backbone"]
    return Profile(backbone.rows, tuple(round(time_s * 1e3, 6) for time_s in backbone.time_s))


class Generated(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of edged.sim.arrivals.generate."""

    kind: str
    users: Count
    rate_per_user: Positive = 10.0
    requests: Count = 3000
    tasks: Count = 3
    seed: int = 0


class BatchingForm(msgspec.Struct, frozen=True):
    """Requests for tasks on one backbone, as JSON."""

    type: Literal["smooth"]
    policy: str = "work-conserving"
    arrivals_ms: tuple[NonNegative, ...] | None = None
    tasks: tuple[int, ...] | None = None
    arrivals: Generated | None = None
    profile: Profile = msgspec.field(default_factory=table_ii)
    t_pre_ms: Positive = 3.0
    workers: Count = 8
    ipc_ms: NonNegative = 3.0
    t_head_ms: Positive = 0.3
    t_net_ms: NonNegative = 5.0
    window_ms: Positive = 1000.0
    tick_ms: Positive = 100.0
    deadline_ms: Positive | None = None
    lanes: Count = 1  # batches that the device runs side by side
    speed_up: Positive = 1.0  # a batch that has all lanes is faster by this factor

    def scenario(self, policy_name: str | None = None) -> Scenario:
        """The scenario, by default with the policy that it names. Raises PlanError where it does
        not fit together, and InvalidArgument for a policy that does not exist."""
        name = full_name(policy_name or self.policy)
        return on_backbone(
            self.requests(),
            self.settings(name),
            self.device(find(name).exclusive),
            deadline_s=None if self.deadline_ms is None else self.deadline_ms / 1e3,
        )

    def requests(self) -> Arrivals:
        """The arrivals, listed or generated. Raises PlanError when there are none or too many."""
        if (self.arrivals is None) == (self.arrivals_ms is None):
            raise PlanError("give either arrivals_ms with tasks, or arrivals to be generated")
        if self.arrivals is not None:
            return generate(**msgspec.structs.asdict(self.arrivals))
        assert self.arrivals_ms is not None
        tasks = self.tasks if self.tasks is not None else (0,) * len(self.arrivals_ms)
        if len(tasks) != len(self.arrivals_ms):
            raise PlanError(f"tasks: {len(tasks)} entries for {len(self.arrivals_ms)} arrivals_ms")
        if any(a > b for a, b in zip(self.arrivals_ms, self.arrivals_ms[1:], strict=False)):
            raise PlanError("arrivals_ms: must be ascending")
        return Arrivals(tuple(at / 1e3 for at in self.arrivals_ms), tasks)

    def device(self, exclusive: bool) -> DeviceModel:
        """The device. Without a pipeline there is no hand-over, and SMOOTH's baseline, whose
        51.2 requests/s we fit so, spends two head calls on a request."""
        if len(self.profile.B) != len(self.profile.t_ms) or not self.profile.B:
            raise PlanError("profile: B and t_ms must be of one length, at least 1")
        if any(a >= b for a, b in zip(self.profile.B, self.profile.B[1:], strict=False)):
            raise PlanError("profile.B: must be ascending")
        check_lanes(self.lanes, self.speed_up)
        return DeviceModel(
            SharedBackbone(
                self.profile.B,
                tuple(t / 1e3 for t in self.profile.t_ms),
                head_s=self.t_head_ms / 1e3 * (2 if exclusive else 1),
            ),
            prepare_s=self.t_pre_ms / 1e3,
            prepare_workers=self.workers,
            handover_s=0.0 if exclusive else self.ipc_ms / 1e3,
            network_s=self.t_net_ms / 1e3,
            lanes=self.lanes,
            speed_up=self.speed_up,
        )

    def settings(self, policy_name: str) -> SchedulerSettings:
        """The scheduler's settings: the paper's, without any bound on the queue."""
        return SchedulerSettings(
            queue_rows=UNBOUNDED,
            staging_rows=UNBOUNDED,
            max_batch_rows=self.profile.B[-1],
            policy=self._with_load(policy_name),
            useful_batches=False,
        )

    def _with_load(self, policy_name: str) -> str:
        """The policy, told how to measure the load where the scenario says so."""
        is_usual = (self.window_ms, self.tick_ms) == (1000.0, 100.0)
        if is_usual or not policy_name.startswith("smooth") or ":" in policy_name:
            return policy_name
        return f"{policy_name}:window_s={self.window_ms / 1e3},beat_s={self.tick_ms / 1e3}"


def read(data: bytes) -> BatchingForm:
    """A scenario from JSON, bare or wrapped. Raises PlanError naming the field."""
    return decode(data, "smooth", BatchingForm)


def on_backbone(
    arrivals: Arrivals,
    settings: SchedulerSettings,
    device: DeviceModel,
    *,
    deadline_s: float | None = None,
) -> Scenario:
    """Tasks whose heads are on one backbone, which is always on the device."""
    parts = {task: Part(BACKBONE, (f"task-{task}",)) for task in set(arrivals.tasks)}
    return Scenario(arrivals, parts, device, settings, deadline_s)


def full_name(policy_name: str) -> str:
    """Our name of a policy."""
    return ALIASES.get(policy_name, policy_name)


def of_recording(path: Path) -> BatchingForm:
    """The arrivals of a recorded live run, to be decided by other policies."""
    arrived = [
        (turn.at, turn.event.request) for turn in turns(path) if isinstance(turn.event, Arrived)
    ]
    if not arrived:
        raise PlanError(f"{path}: no request arrived in this recording")
    names = [
        ",".join(model for part in request.parts for model in part.models) for _, request in arrived
    ]
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    start = arrived[0][0]
    return BatchingForm(
        type="smooth",
        arrivals_ms=tuple((at - start) * 1e3 for at, _ in arrived),
        tasks=tuple(numbers[name] for name in names),
    )


describe(BatchingForm)
