"""Temperatures, and what the board does against heat and against too much current."""

from __future__ import annotations

from edged.telemetry.files import FileTree

# Sensors that are switched off tell -256 °C; nothing that computes is hotter than the other bound.
_POSSIBLE_C = (-60.0, 150.0)

# Events of a Jetson's supply (NVIDIA's Jetson Linux Developer Guide, "Orin SoC OC throttling").
_EVENTS = {"oc1": "under-voltage", "oc2": "over-current", "oc3": "over-current peak"}


def temperatures_c(tree: FileTree) -> dict[str, float]:
    """Degrees by sensor, as `gpu`; the hottest of those with one name."""
    found: dict[str, float] = {}
    for folder in tree.find("sys/class/thermal/thermal_zone*"):
        name, millidegrees = tree.text(f"{folder}/type"), tree.number(f"{folder}/temp")
        if name and millidegrees is not None:
            degrees = millidegrees / 1000
            if _POSSIBLE_C[0] < degrees < _POSSIBLE_C[1]:
                name = name.lower().removesuffix("-thermal")
                found[name] = max(degrees, found.get(name, degrees))
    return found


def alerts(tree: FileTree) -> tuple[str, ...]:
    """What is throttled because of heat now, as `gpu-throttle-alert`.

    Other cooling devices say less: a fan that turns is no throttling, and a limit of a clock may be
    that of the power mode.
    """
    found = []
    for folder in tree.find("sys/class/thermal/cooling_device*"):
        name = tree.text(f"{folder}/type") or ""
        if name.endswith("-throttle-alert") and (tree.number(f"{folder}/cur_state") or 0) > 0:
            found.append(name)
    return tuple(found)


def supply_events(tree: FileTree) -> dict[str, int]:
    """How often the supply was too weak since the board started, by what was wrong with it."""
    for folder in tree.find("sys/class/hwmon/hwmon*"):
        if tree.text(f"{folder}/name") == "soctherm_oc":
            counts = {
                says: tree.number(f"{folder}/{event}_event_cnt") for event, says in _EVENTS.items()
            }
            return {says: count for says, count in counts.items() if count is not None}
    return {}
