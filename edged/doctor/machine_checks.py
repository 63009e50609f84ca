"""The checks of the machine itself: board, Python, service, memory, swap, power mode, clocks."""

from __future__ import annotations

from typing import Any

import msgspec

from edged.cli.console import show_bytes
from edged.doctor.evidence import Evidence
from edged.doctor.report import Finding
from edged.profiles import boards
from edged.telemetry import cpu, gpu, power, thermal
from edged.telemetry.files import sizes

LEAST_AVAILABLE_BYTES = 1_000_000_000  # with less, the runtimes alone leave no room for models
VISIBLE_SHARE = 0.9  # Linux should have so much of what it has on other boards with this module
_UNIT = "etc/systemd/system/edged.service"
_DROP_IN = f"{_UNIT}.d/jetson.conf"
_GROUPS = ("video", "render")


def board(evidence: Evidence) -> Finding:
    """Which machine this is, and whether its JetPack is supported."""
    found, module = evidence.board, evidence.module
    name = None if module is None else module[0]
    facts = {
        **msgspec.to_builtins(found),
        "module": name,
        "figures": {} if module is None else msgspec.to_builtins(module[1].known()),
    }
    if not found.is_jetson:
        architecture = evidence.surroundings.python().architecture
        text = f"no Jetson: {boards.name(evidence.surroundings.tree.root, architecture)}"
        return Finding("board", "note", text, facts=facts)
    model = f"{found.model or found.chip or 'a Jetson'} ({name or 'module not known'})"
    if found.l4t is None:
        mend = "CUDA and TensorRT come with NVIDIA's Jetson Linux: install that for the GPU"
        return Finding("board", "warning", f"{model} without Jetson Linux", mend, facts)
    jetpack = found.jetpack
    text = f"{model}, L4T R{found.l4t}"
    if jetpack is None:
        mend = "edged knows JetPack 6.1 and later ones that jetson/jetpack.tsv lists"
        return Finding("board", "warning", f"{text}: its JetPack is not known", mend, facts)
    text = f"{text}, JetPack {jetpack.name}"
    if jetpack.served:
        return Finding("board", "good", text, facts=facts)
    text += f": too old, with Python {jetpack.python} and TensorRT {jetpack.tensorrt}"
    return Finding("board", "bad", text, "update to JetPack 6.1 (L4T R36.4) or later", facts)


def python(evidence: Evidence) -> Finding:
    """Whether this Python can import what JetPack brings."""
    found, jetpack = evidence.surroundings.python(), evidence.board.jetpack
    text = f"Python {found.version}, {found.architecture}, in {found.prefix}"
    facts = msgspec.to_builtins(found)
    mend = "/usr/bin/python3 -m venv --system-site-packages /opt/edged, as jetson/install.sh does"
    if jetpack is not None and found.version != jetpack.python:
        text += f": TensorRT's module is built for Python {jetpack.python}"
        return Finding("python", "warning", text, mend, facts)
    if evidence.board.is_jetson and not found.sees_system:
        text += " does not see the system's packages, so not TensorRT"
        return Finding("python", "warning", text, mend, facts)
    return Finding("python", "good", text, facts=facts)


def service(evidence: Evidence) -> Finding:
    """Whether the unit, its account and the rights that it needs on a Jetson are there."""
    tree = evidence.surroundings.tree
    groups = _members(tree.text("etc/group") or "")
    facts: dict[str, Any] = {
        "unit": tree.text(_UNIT) is not None,
        "drop_in": tree.text(_DROP_IN) is not None,
        "account": any(
            line.startswith("edged:") for line in (tree.text("etc/passwd") or "").splitlines()
        ),
        "groups": [name for name, members in groups.items() if "edged" in members],
    }
    if not facts["unit"]:
        text = "edged is not installed as a service"
        return Finding("service", "note", text, facts=facts)
    if not facts["account"]:
        text, mend = "there is no account edged", "systemd-sysusers (docs/operations.md)"
        return Finding("service", "warning", text, mend, facts)
    if evidence.board.is_jetson and not facts["drop_in"]:
        text, mend = "the service may not open the GPU's device nodes", "jetson/install.sh"
        return Finding("service", "warning", text, mend, facts)
    lacking = [name for name in _GROUPS if name in groups and name not in facts["groups"]]
    if evidence.board.is_jetson and lacking:
        text = f"the account edged is not in {' and '.join(lacking)}: only the service sees the GPU"
        return Finding("service", "note", text, facts=facts)
    return Finding("service", "good", "the unit, its account and its rights are there", facts=facts)


def memory(evidence: Evidence) -> Finding:
    """Whether there is room for models."""
    found = sizes(evidence.surroundings.tree.text("proc/meminfo") or "")
    total, available = found.get("MemTotal"), found.get("MemAvailable")
    module = evidence.module
    visible = None if module is None else module[1].figures.visible_bytes
    facts = {
        "total_bytes": total,
        "available_bytes": available,
        "expected_bytes": None if visible is None else round(visible.value),
    }
    if total is None or available is None:
        return Finding("memory", "warning", "/proc/meminfo does not tell the memory", "", facts)
    text = f"{show_bytes(available)} of {show_bytes(total)} available"
    if available < LEAST_AVAILABLE_BYTES:
        mend = "end what else runs, as a desktop: systemctl set-default multi-user.target"
        return Finding("memory", "warning", text, mend, facts)
    if visible is not None and total < VISIBLE_SHARE * visible.value:
        text += f"; {show_bytes(round(visible.value))} are usual on this module ({visible.source})"
        mend = "a part may be set aside, for cameras or by the boot loader"
        return Finding("memory", "warning", text, mend, facts)
    return Finding("memory", "good", text, facts=facts)


def swap(evidence: Evidence) -> Finding:
    """Whether memory of the daemon may be compressed away: zram is the default on a Jetson."""
    lines = (evidence.surroundings.tree.text("proc/swaps") or "").splitlines()[1:]
    areas = [line.split() for line in lines]
    zram = sum(int(area[2]) * 1024 for area in areas if area[0].startswith("/dev/zram"))
    other = sum(int(area[2]) * 1024 for area in areas if not area[0].startswith("/dev/zram"))
    facts = {"zram_bytes": zram, "other_bytes": other}
    if zram:
        text = f"{show_bytes(zram)} of zram: what is swapped there costs time, and memory"
        mend = "systemctl disable nvzramconfig, and restart" if evidence.board.is_jetson else ""
        return Finding("swap", "note", text, mend, facts)
    text = f"no zram, {show_bytes(other)} of other swap" if other else "no swap"
    return Finding("swap", "good", text, facts=facts)


def power_mode(evidence: Evidence) -> Finding:
    """Which power mode the board is in; edged never sets one."""
    tree = evidence.surroundings.tree
    mode, every = power.mode(tree), power.modes(tree)
    rails = power.rails_w(tree)
    facts = {
        "mode": mode, "modes": list(every.values()), "rails_w": rails,
        "total_w": power.total_w(rails),
    }  # fmt: skip
    if not evidence.board.is_jetson:
        return Finding("power", "note", "this machine has no power modes", facts=facts)
    if mode is None:
        text = "the power mode is not told by /var/lib/nvpmodel/status and /etc/nvpmodel.conf"
        return Finding("power", "note", text, "nvpmodel -q", facts)
    text = f"power mode {mode}, of {', '.join(every.values())}"
    return Finding("power", "good", text, facts=facts)


def clocks(evidence: Evidence) -> Finding:
    """Clocks and their limits, and whether the board is throttled now."""
    tree = evidence.surroundings.tree
    graphics, processors = gpu.read(tree), cpu.read(tree)
    alerts, events = thermal.alerts(tree), thermal.supply_events(tree)
    facts = {
        "gpu": msgspec.to_builtins(graphics),
        "processors": msgspec.to_builtins(processors),
        "temperatures_c": thermal.temperatures_c(tree),
        "alerts": list(alerts),
        "supply_events": events,
    }
    parts = []
    if graphics.hz is not None and graphics.limit_hz is not None:
        parts.append(f"GPU {graphics.hz / 1e6:.0f} of {graphics.limit_hz / 1e6:.0f} MHz")
    limits = {clock.limit_hz for clock in processors if clock.limit_hz}
    if limits:
        parts.append(f"processors up to {max(limits) / 1e6:.0f} MHz")
    text = ", ".join(parts) or "this machine tells no clocks"
    if alerts:
        mend = "cool the board, or take a smaller power mode: batches take longer meanwhile"
        says = f"{text}; throttled because of heat: {', '.join(alerts)}"
        return Finding("clocks", "warning", says, mend, facts)
    happened = [f"{count} x {why}" for why, count in events.items() if count]
    if happened:
        says = f"{text}; since the board started: {', '.join(happened)}"
        mend = "a stronger supply, or a smaller power mode"
        return Finding("clocks", "note", says, mend, facts)
    return Finding("clocks", "good" if parts else "note", text, facts=facts)


def _members(text: str) -> dict[str, list[str]]:
    """The members of each group of /etc/group."""
    fields = (line.split(":") for line in text.splitlines())
    return {field[0]: field[3].split(",") for field in fields if len(field) == 4}
