"""One look at all that a board tells of itself while it runs."""

from __future__ import annotations

import msgspec

from edged.telemetry import cpu, gpu, power, thermal
from edged.telemetry.files import FileTree
from edged.telemetry.gpu import GpuReading


class BoardReading(msgspec.Struct, frozen=True):
    """What could be read; the rest is None or missing."""

    gpu: GpuReading = GpuReading()
    # The limits of the clocks of all processors that are on, added up.
    cpu_limit_hz: int | None = None
    temperatures_c: dict[str, float] = {}  # one for each sensor
    rails_w: dict[str, float] = {}  # one for each rail
    total_w: float | None = None  # the whole board's
    power_mode: str | None = None
    alerts: tuple[str, ...] = ()  # what is throttled because of heat
    supply_events: dict[str, int] = {}  # counts since the board started, by what was wrong

    @property
    def tells_nothing(self) -> bool:
        return self == BoardReading()


def look(tree: FileTree) -> BoardReading:
    """Read everything once; some milliseconds, since the monitors of rails hang on a slow bus."""
    rails = power.rails_w(tree)
    return BoardReading(
        gpu=gpu.read(tree),
        cpu_limit_hz=cpu.total_limit_hz(cpu.read(tree)),
        temperatures_c=thermal.temperatures_c(tree),
        rails_w=rails,
        total_w=power.total_w(rails),
        power_mode=power.mode(tree),
        alerts=thermal.alerts(tree),
        supply_events=thermal.supply_events(tree),
    )
