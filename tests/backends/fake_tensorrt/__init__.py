"""A fake of TensorRT, made from a recorded API: it refuses what the real one would, and computes.

The modules v10_3 to v11_4 are `tensorrt` in one version each, as a process that builds imports it.
"""

from __future__ import annotations

import types
from typing import Any

from tests.backends.fake_tensorrt import building, recorded, running
from tests.backends.fake_tensorrt.recorded import VERSIONS, Misuse

__all__ = ["MODULES", "VERSIONS", "Misuse", "tensorrt"]

MODULES = {
    "10.3.0": "v10_3", "10.13.3.9": "v10_13", "10.16.1.11": "v10_16", "11.4.0.106": "v11_4",
}  # fmt: skip


def tensorrt(version: str, cuda: Any = None) -> types.ModuleType:
    """The module `tensorrt`. Without an emulated device `cuda` it can build, but not run."""
    made = recorded.module(version, {**building.BEHAVIOURS, **running.BEHAVIOURS})
    made.__name__ = f"{__name__}.{MODULES[version]}"
    made._cuda = cuda  # type: ignore[attr-defined]
    return made
