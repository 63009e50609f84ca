"""What is simulated: a device, what is on it, and requests. Both forms of JSON become this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edged.core.events import BlockCost, GroupCost, Library, Part
from edged.core.settings import MemorySettings, SchedulerSettings
from edged.errors import PlanError
from edged.sim.arrivals import Arrivals
from edged.sim.device import DeviceModel


def check_lanes(lanes: int, speed_up: float) -> None:
    """Raises PlanError where a batch cannot be faster by this factor on so many lanes."""
    if not 1.0 <= speed_up <= lanes:
        raise PlanError(f"speed_up: must be 1 to {lanes}, the number of lanes, got {speed_up:g}")


@dataclass(frozen=True, slots=True)
class LoadedModels:
    """Models that share blocks, and a budget that need not hold them all."""

    library: Library
    budget_bytes: int  # for blocks
    # The device comes up before time 0, and has loaded what fits, in the order of the library, when
    # time 0 begins. False: it comes up after the requests of time 0, and loads what they wait for.
    warm: bool = True


@dataclass(frozen=True, slots=True)
class Scenario:
    """One simulation, in seconds. The same scenario gives the same outcome, bit for bit."""

    arrivals: Arrivals
    parts: Mapping[int, Part]  # what a request for each task runs
    device: DeviceModel
    settings: SchedulerSettings
    deadline_s: float | None = None  # after the arrival
    loaded: LoadedModels | None = None  # None: all models are on the device for good
    memory_settings: MemorySettings = field(default_factory=MemorySettings)
    closed: bool = False  # each request comes when the one before has its answer

    def blocks(self) -> dict[str, BlockCost]:
        """The blocks that can be loaded."""
        library = Library((), ()) if self.loaded is None else self.loaded.library
        return {cost.block: cost for cost in library.blocks}

    def groups(self) -> dict[str, str]:
        """The group of each model."""
        return {model: part.group for part in self.parts.values() for model in part.models}

    def known_costs(self) -> tuple[GroupCost, ...]:
        """What the daemon knows of batches when the device comes up."""
        groups = self.groups()
        library = Library((), ()) if self.loaded is None else self.loaded.library
        unknown = {groups[model.name] for model in library.models if not model.measured}
        known = dict.fromkeys(group for group in groups.values() if group not in unknown)
        return tuple(self.device.cost(group) for group in known)
