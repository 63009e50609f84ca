"""The name of this machine in profiles: the figures of one machine do not hold for another.

A PC is named by its processor. A board is named by the model in its device tree, with the module
of a Jetson, since boards of one model come with several; or, if there is no model, by what
distinguishes boards: the kinds of their chips and cores, the number and speed of the cores, and the
memory.
"""

from __future__ import annotations

import platform
import re
from collections import Counter
from pathlib import Path

from edged.profiles import modules

_TREES = ("proc/device-tree", "sys/firmware/devicetree/base")
_PCS = ("x86_64", "i686")
_GIB = 1 << 30


def name(root: Path = Path("/"), architecture: str | None = None) -> str:
    """The machine's name: `AMD EPYC 9B14, x86_64`. `root` is the folder of /proc, /sys and /etc."""
    architecture = architecture or platform.machine()
    return f"{_model(root, is_pc=architecture in _PCS)}, {architecture}"


def _model(root: Path, *, is_pc: bool) -> str:
    for tree in _TREES:
        if board := _text(root / tree / "model").rstrip("\0\n"):
            module = modules.find(re.findall(r"p\d{4}-\d{4}", _chips(root)))
            return board if module is None else f"{board} ({module[0]})"
    cpuinfo = _text(root / "proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(\S.*?)\s*$", cpuinfo, re.MULTILINE)
    processor = found[1] if found else ""
    if is_pc and processor:
        return processor
    # The processor's name is hardly more than the architecture here: `ARMv8 Processor rev 1 (v8l)`.
    facts = (processor, _chips(root), _release(root), _cores(root, cpuinfo), _memory(root))
    return "; ".join(fact for fact in facts if fact) or "unknown processor"


def _chips(root: Path) -> str:
    """The chips that drivers look for: `nvidia,p3768-0000+p3767-0005 nvidia,tegra234`."""
    found = (_text(root / tree / "compatible") for tree in _TREES)
    return next((" ".join(text.split("\0")).strip() for text in found if text), "")


def _release(root: Path) -> str:
    """The kind of board: the first line of NVIDIA's release file, without its date."""
    board = re.search(r"BOARD: *([^,\s]+)", _text(root / "etc/nv_tegra_release"))
    return board[1] if board else ""


def _cores(root: Path, cpuinfo: str) -> str:
    """The cores, grouped by kind and speed: `4 cores 0x41:0xd42 at most 2.2 GHz`."""
    kinds = []
    for paragraph in re.split(r"\n\s*\n", cpuinfo):
        facts = dict(_fact(line) for line in paragraph.splitlines() if ":" in line)
        if "processor" in facts:
            ids = [facts[key] for key in ("CPU implementer", "CPU part") if key in facts]
            kind = ":".join(ids) or facts.get("uarch", "")
            kinds.append((kind, _fastest(root, facts["processor"])))
    groups = sorted(Counter(kinds).items())
    return " + ".join(f"{count} cores {kind}{speed}".strip() for (kind, speed), count in groups)


def _fact(line: str) -> tuple[str, str]:
    key, _, value = line.partition(":")
    return key.strip(), value.strip()


def _fastest(root: Path, processor: str) -> str:
    frequency = root / f"sys/devices/system/cpu/cpu{processor}/cpufreq/cpuinfo_max_freq"
    khz = _text(frequency).strip()
    return f" at most {int(khz) / 1e6:.2f} GHz" if khz.isdigit() else ""


def _memory(root: Path) -> str:
    """The memory in whole GiB, rounded up: kernels keep different amounts for themselves."""
    total = re.search(r"^MemTotal:\s*(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    return f"{-(-int(total[1]) * 1024 // _GIB)} GiB" if total else ""


def _text(path: Path) -> str:
    """The content of a file; empty if there is none."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
