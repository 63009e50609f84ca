"""Runs a new engine once on the device, apart from all that serves, and judges what it gives.

The gate of the process that builds rounds as a device does, but adds up in FP32. Whether the
kernels that TensorRT has chosen are good enough, only the device can say.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

from edged.backends.memory import Array
from edged.backends.tensorrt.closeness import compare, verdict
from edged.backends.tensorrt.engine import Binding, LoadedEngine, Runtime
from edged.backends.tensorrt.orders import PLAN, ROWS, About
from edged.cuda.api import Address
from edged.cuda.memory import CudaMemory
from edged.errors import EdgedError


def attempt(runtime: Runtime, memory: CudaMemory, folder: Path, about: About) -> str:
    """What is wrong with the engine in `folder`; empty if it is good enough, or without rows.

    `runtime` is nobody else's. Raises PlanRefused, ResourceExhausted, EdgedError and DeviceLost.
    """
    if not (folder / ROWS).exists():
        return ""
    with np.load(folder / ROWS) as file:
        rows = {name: np.ascontiguousarray(file[name]) for name in file.files}
    engine = runtime.read(folder / PLAN)
    try:
        found = _run(engine, memory, rows, [port.name for port in about.outputs])
    finally:
        engine.close()
    return verdict(compare([rows[port.name] for port in about.outputs], found))


def _run(
    engine: LoadedEngine, memory: CudaMemory, rows: dict[str, Array], outputs: list[str]
) -> list[Array]:
    """The outputs, computed in a stream and in memory of their own."""
    cuda, stream = memory.cuda, memory.cuda.make_stream()
    taken: list[Address] = []

    def take(size: int) -> Address:
        taken.append(memory.allocate(size))
        return taken[-1]

    try:
        places = {name: Binding(take(array.nbytes), array.shape) for name, array in rows.items()}
        for name, array in rows.items():
            if name not in outputs:
                memory.upload(places[name].address, array)
        scratch_bytes = max(1, engine.scratch_bytes)
        engine.enqueue(places, take(scratch_bytes), scratch_bytes, stream)
        found = []
        for name in outputs:
            staged = memory.staging(rows[name].nbytes)
            address = staged.__array_interface__["data"][0]
            cuda.copy(address, places[name].address, staged.nbytes, stream)
            found.append(staged.view(rows[name].dtype).reshape(rows[name].shape))
        cuda.synchronize(stream)
        return found
    finally:
        with contextlib.suppress(EdgedError):  # what was raised before says more
            cuda.synchronize(stream)
        cuda.destroy_stream(stream)
        for address in taken:
            memory.free(address)
