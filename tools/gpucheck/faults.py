"""A request that ends the device for its process, in the live daemon, beside others."""

from __future__ import annotations

import numpy as np
import psutil

from edged.client import Client
from edged.errors import EdgedError
from edged.manifest import SCHEMA, Manifest, PathStep, Value
from edged.store import Store
from tests.backends.blocks import fails_on_large_values
from tools.bench.serving import serving
from tools.demo.daemon import Daemon
from tools.gpucheck.findings import Faults
from tools.gpucheck.measure import PATIENCE_S, TIMEOUT_S, Setting

_BESIDE = 20  # requests before and after it


def faults(setting: Setting) -> Faults:
    """A lookup out of range: on a GPU an assertion of a kernel, on a CPU an error."""
    block = fails_on_large_values()
    store = Store(setting.folder / "faults").create()
    with store.update() as change:
        change.add_block(block.data)
        change.put_model(
            Manifest(
                schema=SCHEMA,
                name="lookup",
                task="lookup",
                precision="fp32",
                inputs=("x",),
                outputs=("y",),
                values=(Value("x", "FP32", (1,)), Value("y", "FP32", (1,))),
                steps=(PathStep(block.id, ("x",), ("y",)),),
                whole_bytes=len(block.data),
            )
        )
    sections = (
        f'[device]\nbackend = "torch"\noptions = {{device = "{setting.device}"}}\n'
        f'cache_dir = "{setting.folder / "cache"}"\n'
    )
    with (
        serving(store.path, sections, start_s=PATIENCE_S) as daemon,
        Client(daemon.endpoint) as client,
    ):
        workers = {_worker(daemon)}
        answered = sum(_is_answered(client, 0.25) for _ in range(_BESIDE))
        refused = not _is_answered(client, 9.0)
        answered += sum(_is_answered(client, 0.5) for _ in range(_BESIDE))
        workers.add(_worker(daemon))
    is_gpu = setting.device == "cuda"
    return Faults(answered, 2 * _BESIDE, refused, len(workers) == (2 if is_gpu else 1))


def _worker(daemon: Daemon) -> int:
    """The worker's process."""
    (child,) = psutil.Process(daemon.pid).children()
    return int(child.pid)


def _is_answered(client: Client, value: float) -> bool:
    """Whether a request gets the answer that is right."""
    given = np.full((1, 1), value, np.float32)
    try:
        result = client.infer({"x": given}, ["lookup"], timeout_s=TIMEOUT_S)
    except EdgedError:
        return False
    return bool(np.array_equal(result["lookup"].tensor, given))
