"""Answers in place of a machine's, for doctor: those of a board that is set up well."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edged.doctor.probe import Probe
from edged.doctor.surroundings import (
    CallingAccount,
    DeviceNode,
    Installed,
    KeptFiles,
    Surroundings,
    ThisPython,
)
from edged.telemetry.files import FileTree
from tests.jetson import trees

VENV = "/opt/edged/lib/python3/site-packages"
RUNTIME = Installed("onnxruntime", "1.23.2", VENV)

# What the probe says on each JetPack: CUDA and TensorRT.
_VERSIONS = {
    "5.1": ("11.4", "8.5.2.2"), "6.0": ("12.2", "8.6.2"), "6.1": ("12.6", "10.3.0"),
    "6.2": ("12.6", "10.3.0"), "7.0": ("13.0", "10.13.3.9"), "7.1": ("13.0", "10.13.3.9"),
    "7.2": ("13.2", "10.16.2.10"),
}  # fmt: skip


class Asked(Surroundings):
    """Surroundings whose files are a tree and whose other answers are attributes."""

    def __init__(self, root: Path, python: str, probe: Probe | str) -> None:
        super().__init__(FileTree(root))
        self.has = CallingAccount("edged", False, ("edged", "render", "video"))
        self.interpreter = ThisPython(python, "/opt/edged", True, True, "aarch64")
        self.installed: tuple[Installed, ...] = (RUNTIME,)
        self.tried = probe
        self.kept = KeptFiles(True, 18_700_000, 12)
        self.closed: tuple[str, ...] = ()  # nodes that the account may not open

    def account(self) -> CallingAccount:
        return self.has

    def nodes(self, patterns: Iterable[str]) -> dict[str, DeviceNode]:
        return {
            path: DeviceNode("root", _group(path), "0660", path not in self.closed)
            for path in super().nodes(patterns)
        }

    def python(self) -> ThisPython:
        return self.interpreter

    def packages(self, *names: str) -> tuple[Installed, ...]:
        return tuple(each for each in self.installed if each.name in names)

    def probe(self) -> Probe | str:
        return self.tried

    def directory(self, path: str, purpose: str) -> KeptFiles:
        return self.kept


def board(root: Path, name: str, jetpack: str) -> Asked:
    """A board with everything that its JetPack brings."""
    trees.plant(root, trees.files(name, jetpack))
    cuda, tensorrt = _VERSIONS[jetpack]
    probe = Probe(
        driver=True, cu_init=0, driver_cuda=cuda, gpus=1,
        gpu="Thor" if name == "thor" else "Orin",
        compute_capability="11.0" if name == "thor" else "8.7",
        runtime=f"libcudart.so.{cuda.partition('.')[0]}", runtime_cuda=cuda, runtime_error=0,
        tensorrt=tensorrt,
    )  # fmt: skip
    return Asked(root, trees.RELEASES[jetpack][2], probe)


def pc(root: Path) -> Asked:
    """A machine that is no Jetson and has no GPU."""
    asked = Asked(trees.plant(root, trees.PC), "3.11", Probe())
    asked.interpreter = ThisPython("3.11", "/opt/edged", True, False, "x86_64")
    return asked


def _group(path: str) -> str:
    return "render" if "render" in path else "video"
