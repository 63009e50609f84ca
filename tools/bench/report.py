"""The one line that a benchmark prints: command, machine, seed and figures."""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def machine() -> str:
    """The processor and its cores: `AMD EPYC 9B14, 2 cores, x86_64`."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith(("model name", "Model"))
    ]
    cores = len(os.sched_getaffinity(0))
    return f"{names[0] if names else 'processor unknown'}, {cores} cores, {platform.machine()}"


def emit(bench: str, label: str, *, seed: int, **figures: Any) -> dict[str, Any]:
    """Print and return the line. `label` is measured, simulated or emulated."""
    line = {
        "bench": bench,
        "label": label,
        **figures,
        "seed": seed,
        "command": "python -m tools.bench " + " ".join(sys.argv[1:]),
        "machine": machine(),
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }
    print(json.dumps(line), flush=True)
    return line


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as SVG or PNG; equal figures make equal bytes."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": path.name, "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
