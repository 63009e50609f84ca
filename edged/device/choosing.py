"""Which backend `backend = "auto"` takes: the best that comes up on this machine, and why no other.

Each candidate is tried as a worker would open it. A named backend is never replaced by another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from edged.errors import Unavailable

_TEGRA = Path("etc/nv_tegra_release")
_GPUS = (Path("dev/nvidiactl"), Path("dev/nvhost-gpu"), Path("dev/nvgpu"))


class BackendCandidate(NamedTuple):
    """A backend, with the options that make it another one."""

    backend: str
    options: Mapping[str, Any]
    label: str  # its name for people

    def __str__(self) -> str:
        return self.label


TENSORRT = BackendCandidate("tensorrt", {}, "tensorrt")
TORCH = BackendCandidate("torch", {"device": "cuda"}, "torch with CUDA")
ORT_CUDA = BackendCandidate("onnxruntime", {"provider": "cuda"}, "onnxruntime with CUDA")
CPU = BackendCandidate("onnxruntime", {}, "onnxruntime on the CPU")


class BackendChoice(NamedTuple):
    """What is taken, and why each better one is not, by its label."""

    candidate: BackendCandidate
    fallbacks: Mapping[str, str]

    @property
    def line(self) -> str:
        """One line for the log."""
        why = "; ".join(f"{label}: {reason}" for label, reason in self.fallbacks.items())
        return f"backend {self.candidate}" + (f" ({why})" if why else "")


def candidates(root: Path = Path("/")) -> Iterator[BackendCandidate]:
    """The backends to try on this machine, the best one first.

    On a Jetson engines are fastest, and torch's builds for it are often missing. On other GPUs
    torch is the one that was measured.
    """
    if (root / _TEGRA).exists():
        yield from (TENSORRT, TORCH, ORT_CUDA)
    elif any((root / device).exists() for device in _GPUS):
        yield from (TORCH, TENSORRT, ORT_CUDA)
    yield CPU


def choose(
    attempt: Callable[[BackendCandidate], str | None], root: Path = Path("/")
) -> BackendChoice:
    """The first candidate that comes up. `attempt` returns why one does not.

    Raises Unavailable where none does.
    """
    fallbacks: dict[str, str] = {}
    for candidate in candidates(root):
        reason = attempt(candidate)
        if reason is None:
            return BackendChoice(candidate, fallbacks)
        fallbacks[candidate.label] = reason
    raise Unavailable(
        "no backend comes up: " + "; ".join(f"{name}: {why}" for name, why in fallbacks.items())
    )
