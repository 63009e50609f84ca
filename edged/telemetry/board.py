"""Which board this is, and which JetPack is on it: device tree, release file, table of releases."""

from __future__ import annotations

import re
from importlib import resources

import msgspec

from edged.telemetry.files import FileTree

_TREES = ("proc/device-tree", "sys/firmware/devicetree/base")
_RELEASE = re.compile(r"# R(\d+) \(release\), REVISION: ([\d.]+),")


class JetPack(msgspec.Struct, frozen=True):
    """One row of jetson/jetpack.tsv: what a release of JetPack brings."""

    l4t: str  # the first release of the row
    name: str  # 6.2
    python: str
    cuda: str
    tensorrt: str
    served: bool  # whether edged supports it


class Board(msgspec.Struct, frozen=True):
    """None: not told. A machine that is no Jetson has neither chip nor release of L4T."""

    model: str | None = None
    chip: str | None = None  # tegra234
    parts: tuple[str, ...] = ()  # modules and carriers by NVIDIA's numbers, as p3767-0005
    l4t: str | None = None  # 36.4.3
    jetpack: JetPack | None = None  # None: not in the table

    @property
    def is_jetson(self) -> bool:
        return self.chip is not None or self.l4t is not None


def read(tree: FileTree) -> Board:
    """The board whose files these are."""
    model = _property(tree, "model")
    compatible = _property(tree, "compatible") or ""
    chip = re.search(r"nvidia,(tegra\d+)", compatible)
    release = _RELEASE.match(tree.text("etc/nv_tegra_release") or "")
    l4t = f"{release[1]}.{release[2]}" if release else None
    return Board(
        model=model,
        chip=chip[1] if chip else None,
        parts=tuple(dict.fromkeys(re.findall(r"p\d{4}-\d{4}", compatible))),
        l4t=l4t,
        jetpack=None if l4t is None else jetpack(l4t),
    )


def jetpack(l4t: str) -> JetPack | None:
    """The JetPack of a release of L4T, as 36.4.3; None if the table does not have it."""
    release = _numbers(l4t)
    fitting = [row for row in table() if _numbers(row.l4t)[0] == release[0]]
    older = [row for row in fitting if _numbers(row.l4t) <= release]
    return older[-1] if older else None


def table() -> list[JetPack]:
    """All rows, oldest first."""
    text = (resources.files("edged.telemetry") / "jetpack.tsv").read_text(encoding="utf-8")
    lines = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return [
        JetPack(l4t, name, python, cuda, tensorrt, served == "served")
        for l4t, name, python, cuda, tensorrt, served in lines
    ]


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split(".") if part)


def _property(tree: FileTree, name: str) -> str | None:
    """A property of the device tree, its parts divided by spaces; None if there is none."""
    for base in _TREES:
        if text := tree.text(f"{base}/{name}"):
            return " ".join(text.split("\0"))
    return None
