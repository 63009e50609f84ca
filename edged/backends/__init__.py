"""Backends by name. Only the one that is created is imported; others need not be installed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edged import options as backend_options
from edged.backends.base import Backend
from edged.errors import ConfigError, Unsupported

_BACKENDS = {
    "onnxruntime": "edged.backends.ort",
    "torch": "edged.backends.torch",
    "tensorrt": "edged.backends.tensorrt.backend",
    "emulated": "edged.backends.emulated",
    "emulated-cuda": "edged.backends.emulated_cuda",
    "fake": "edged.backends.fake",
}

NAMES = tuple(_BACKENDS)


def create(name: str, options: Mapping[str, Any], *, threads: int, cache_dir: Path) -> Backend:
    """The backend called `name`; it keeps the blocks that it prepares for this host in `cache_dir`.

    A backend's module has `create(options, threads, cache_dir)`; its options are in edged.options.
    Raises ConfigError for an unknown name or option, and Unsupported if the machine lacks what the
    backend needs.
    """
    if name not in _BACKENDS:
        raise ConfigError(f"there is no backend {name!r}; name one of {', '.join(NAMES)}")
    try:
        module = importlib.import_module(_BACKENDS[name])
    except ImportError as error:
        raise Unsupported(
            f"backend {name} needs {error.name}, which is not installed: install it, or choose "
            "another backend"
        ) from error
    checked = backend_options.parse(name, options)
    backend: Backend = module.create(checked, threads=threads, cache_dir=cache_dir)
    return backend
