"""All that an engine depends on besides its block: entries of other facts are not used."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from edged.backends.tensorrt.orders import CLASSES, Pools
from edged.cuda.api import DeviceFacts
from edged.options import TensorRtOptions

_FORM = 1  # form of entries; raised when an older one would be misread
_RECIPE = 1  # recipe.VERSION, which needs onnx to be read; a test compares them

_RELEASE = Path("/etc/nv_tegra_release")

_SMALL_BYTES = 9 << 30  # devices of at most this much memory, with whoever shares it
_SPARE_BYTES = 512 << 20  # that a build leaves to others
_LEAST_BYTES = 64 << 20  # less is of no use to a build
_WORKSPACE_BYTES = 256 << 20
_ARENA_SHARE = 8  # part of the memory that is free at the start; engines take the rest


def key_facts(
    device: DeviceFacts, tensorrt: str, options: TensorRtOptions, level: int, release: str
) -> dict[str, object]:
    """What makes an engine another one. Clocks and power mode do not: the best kernels may differ,
    the answers do not."""
    return {
        "tensorrt": tensorrt,
        "cuda": device.runtime,
        "driver": device.driver,
        "gpu": device.name,
        "capability": device.compute_capability,
        "processors": device.processors,
        "l4t": release,
        "precision": options.precision,
        "max_rows": options.max_rows,
        "classes": CLASSES,
        "level": level,
        "recipe": _RECIPE,
        "form": _FORM,
    }


def timing_cache_name(device: DeviceFacts, tensorrt: str, release: str) -> str:
    """The file of the kernels' times, which hold for one TensorRT on one GPU."""
    text = f"{tensorrt}\n{device.name}\n{device.compute_capability}\n{release}"
    return f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.timings"


def arena_bytes(options: TensorRtOptions, free_bytes: int) -> int:
    """Device memory for what lies between blocks, weights of heads, and scratch of engines."""
    return options.arena_bytes or max(_LEAST_BYTES, free_bytes // _ARENA_SHARE)


def l4t_release(path: Path = _RELEASE) -> str:
    """Jetson Linux's release, "R36.4.3"; empty on other machines."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return ""
    found = re.search(r"# (R\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else "unknown"


def optimization_level(device: DeviceFacts) -> int:
    """Level 3 is TensorRT's own; a small board takes minutes less, and less memory, with 2."""
    return 2 if device.total_bytes <= _SMALL_BYTES else 3


def pools(free_bytes: int, level: int) -> Pools:
    """What a build may take of the device's memory that is free now."""
    return Pools(
        workspace_bytes=max(_LEAST_BYTES, min(_WORKSPACE_BYTES, free_bytes // 8)),
        tactic_bytes=max(_LEAST_BYTES, free_bytes - _SPARE_BYTES),
        level=level,
    )
