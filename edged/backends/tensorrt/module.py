"""TensorRT's Python module: whether it is there, in a version that the adapter knows."""

from __future__ import annotations

import importlib
import logging
import re
from typing import Any

from edged.errors import Unsupported

log = logging.getLogger("edged.tensorrt")

CHECKED = ((10, 3), (10, 13), (10, 16), (11, 4))  # versions whose API is recorded


def find() -> Any:
    """The module. Raises Unsupported, with what to do."""
    try:
        trt = importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        missing = re.search(r"lib\w+\.so[.\d]*", str(error))
        what = f"its library {missing[0]} is missing" if missing else f"it is not there ({error})"
        raise Unsupported(
            f"backend tensorrt needs TensorRT's Python module, and {what}: on a Jetson apt install "
            "tensorrt python3-libnvinfer, and make edged's environment with "
            "--system-site-packages; or take backend onnxruntime"
        ) from error
    check_version(str(trt.__version__))
    return trt


def check_version(version: str) -> None:
    """Raises Unsupported for a version that is too old; an unknown one is only told of."""
    found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if found < CHECKED[0]:
        raise Unsupported(
            f"TensorRT {version} is too old: update JetPack to 6.1 or newer (TensorRT 10.3), or "
            "take backend onnxruntime"
        )
    if found not in CHECKED:
        known = ", ".join(f"{major}.{minor}" for major, minor in CHECKED)
        log.warning("TensorRT %s: its API was not checked, that of %s was", version, known)
