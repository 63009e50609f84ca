"""The GPU's load and clocks, as the kernel's devfreq and the driver of the Tegra tell them."""

from __future__ import annotations

import msgspec

from edged.telemetry.files import FileTree

# The GPU among the devices of devfreq: 17000000.gpu or 17000000.ga10b (Orin), gpu-gpc-0 (Thor).
_NAMES = (".gpu", ".ga10b", ".gv11b", "gpu-gpc-0")
_FULL = 1000  # the driver tells the load in thousandths


class GpuReading(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was told; a Thor tells no load."""

    load: float | None = None  # 0 to 1
    hz: int | None = None
    least_hz: int | None = None
    limit_hz: int | None = None  # what the power mode, and cooling, allow now
    governor: str | None = None


def read(tree: FileTree) -> GpuReading:
    """One look at the GPU; nothing on a machine that has none of these."""
    for folder in tree.find("sys/class/devfreq/*"):
        if folder.endswith(_NAMES):
            return GpuReading(
                _load(tree, folder),
                tree.number(f"{folder}/cur_freq"),
                tree.number(f"{folder}/min_freq"),
                tree.number(f"{folder}/max_freq"),
                tree.text(f"{folder}/governor"),
            )
    return GpuReading()


def _load(tree: FileTree, folder: str) -> float | None:
    for path in ("sys/devices/platform/gpu.0/load", f"{folder}/device/load"):
        load = tree.number(path)
        if load is not None and 0 <= load <= _FULL:
            return load / _FULL
    return None
