"""The power of a board's rails, and its power mode."""

from __future__ import annotations

import re
from collections.abc import Mapping

from edged.telemetry.files import FileTree

_MONITORS = ("ina3221", "ina238")

# What the whole board takes: one rail that all others hang on, or else those that make it up.
# The rails of the last two add up to less than a meter at the supply shows.
_TOTALS = (
    ("VDD_IN",),  # Orin Nano and NX
    ("VIN",),  # Thor
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),  # Thor without VIN
)


def rails_w(tree: FileTree) -> dict[str, float]:
    """Watts by rail. A rail whose monitor tells a negative power, as idle ones do, is left out."""
    found: dict[str, float] = {}
    for folder in tree.find("sys/class/hwmon/hwmon*"):
        if tree.text(f"{folder}/name") in _MONITORS:
            found |= _channels(tree, folder) or _alone(tree, folder)
    return {rail: watts for rail, watts in found.items() if watts >= 0.0 and rail != "NC"}


def total_w(rails: Mapping[str, float]) -> float | None:
    """The watts of the whole board; None if these rails do not tell."""
    for parts in _TOTALS:
        if all(rail in rails for rail in parts):
            return sum(rails[rail] for rail in parts)
    return None


def mode(tree: FileTree) -> str | None:
    """The name of the power mode, as `nvpmodel -q` tells it: `MAXN`, `15W`. The number of a mode
    means another one on another board, so where the name is not known nothing is told.
    """
    number = re.search(r"pmode:(\d+)", tree.text("var/lib/nvpmodel/status") or "")
    return modes(tree).get(int(number[1])) if number else None


def modes(tree: FileTree) -> dict[int, str]:
    """The names of all power modes of this board."""
    text = tree.text("etc/nvpmodel.conf") or ""
    found = re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=([^>\n]*?)\s*>", text)
    return {int(number): name for number, name in found}


def _channels(tree: FileTree, folder: str) -> dict[str, float]:
    """The rails of a monitor of several: volts times amperes of each that has a label."""
    found = {}
    for path in tree.find(f"{folder}/in*_label"):
        channel = path.removesuffix("_label").rpartition("/in")[2]
        millivolts = tree.number(f"{folder}/in{channel}_input")
        milliamperes = tree.number(f"{folder}/curr{channel}_input")
        label = tree.text(path)
        if label and millivolts is not None and milliamperes is not None:
            found[label] = millivolts * milliamperes / 1e6
    return found


def _alone(tree: FileTree, folder: str) -> dict[str, float]:
    """The rail of a monitor of one, which tells its power itself."""
    label, microwatts = tree.text(f"{folder}/label"), tree.number(f"{folder}/power1_input")
    return {} if not label or microwatts is None else {label: microwatts / 1e6}
