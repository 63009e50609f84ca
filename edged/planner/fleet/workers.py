"""Where independent jobs run: on Ray if it is installed, else in this process.

The answers have the order of the jobs and are the same either way. This module is not pure: it
starts Ray, and stops it if it started it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edged import malloc as heap
from edged.errors import Unsupported
from edged.planner.fleet.decompose import Run

_SCRATCH_BYTES = 64 << 20  # a search allocates and frees arrays of some MB all the time


def keep_scratch() -> None:
    """Let this process keep freed memory, so that the next search finds it there."""
    heap.keep(_SCRATCH_BYTES, _SCRATCH_BYTES // 2)


@contextmanager
def workers(place: str = "auto") -> Iterator[Run]:
    """A `map` over jobs. `place` is `ray`, `one` (this process) or `auto` (Ray if installed).

    Raises Unsupported if `place` is `ray` and Ray is not installed.
    """
    installed = importlib.util.find_spec("ray") is not None
    if place == "ray" and not installed:
        raise Unsupported("Ray is not installed; pip install ray, or plan in one process")
    if place == "one" or not installed:
        yield map
        return
    ray: Any = importlib.import_module("ray")
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:

        def run(function: Any, jobs: Any) -> Any:
            remote = ray.remote(_in_worker)
            return ray.get([remote.remote(function, job) for job in jobs])

        yield run
    finally:
        if started:
            ray.shutdown()


def _in_worker(function: Any, job: Any) -> Any:
    keep_scratch()
    return function(job)
