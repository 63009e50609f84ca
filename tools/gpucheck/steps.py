"""One step of a check: `python -m tools.gpucheck.steps NAME` reads its setting and prints figures.

The setting is JSON on standard input, the figures are JSON on the last line of standard output; of
a step that fails, which ends with status 1, its error.
"""

from __future__ import annotations

import platform
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil
import torch

from edged.store import Store
from tools.bench.backbones import store_of, whole_models
from tools.bench.report import machine
from tools.gpucheck import blocks, faults, measure
from tools.gpucheck.findings import Facts, Fixed, Model, Serving, Whole
from tools.gpucheck.measure import Setting
from tools.gpucheck.skeleton import fill

SKELETONS = Path(__file__).parent / "skeletons"  # by the model's name


def facts(setting: Setting) -> Facts:
    versions = {"Python": platform.python_version(), "torch": str(torch.__version__)}
    name = "no GPU"
    if setting.device == "cuda":
        name = torch.cuda.get_device_name()
        versions["CUDA"] = str(torch.version.cuda)
    return Facts(name, versions, machine())


def store(setting: Setting) -> Model:
    """Models with one backbone, cut into blocks; those of an earlier check are kept.

    From a skeleton where there is one; else the network is exported and cut, which takes minutes.
    """
    skeleton = SKELETONS / f"{setting.model}.zip"
    if skeleton.exists():
        folder = fill(skeleton, setting.store, setting.seed, tasks=setting.tasks)
    else:
        models = whole_models(setting.model, setting.tasks, setting.folder, setting.seed)
        folder = Store(store_of(models, setting.store))
    manifests = folder.models()
    (value,) = {model.value(model.inputs[0]) for model in manifests.values()}
    used = {step.block for manifest in manifests.values() for step in manifest.steps}
    sizes = [folder.block_size(block) for block in used]
    return Model(setting.model, value.shape[-1], len(sizes), sum(sizes))


def bare(setting: Setting) -> Whole:
    used, before = _used(setting)
    found = measure.whole(setting, used)
    return msgspec.structs.replace(found, used_bytes=found.used_bytes - before)


def daemon(setting: Setting) -> Serving:
    used, before = _used(setting)
    found = measure.served(setting, used)
    return msgspec.structs.replace(found, used_bytes=found.used_bytes - before)


def memory(setting: Setting) -> Fixed:
    used, before = _used(setting)
    return Fixed(measure.nothing(setting, used) - before)


def _used(setting: Setting) -> tuple[measure.UsedBytes, int]:
    """How the memory of processes is measured, and what is in use before there are any."""
    used = _gpu_bytes if setting.device == "cuda" else _pss_bytes
    return used, used([])


def _gpu_bytes(pids: Sequence[int]) -> int:
    """All memory of the GPU in use, by any process: nobody else may use the GPU meanwhile. That of
    this process, which asks, is in what is in use before."""
    free, total = torch.cuda.mem_get_info()
    return total - free


def _pss_bytes(pids: Sequence[int]) -> int:
    return sum(psutil.Process(pid).memory_full_info().pss for pid in pids)


STEPS: dict[str, Callable[[Setting], Any]] = {
    "facts": facts,
    "suite": measure.suite,
    "faults": faults.faults,
    "store": store,
    "bare": bare,
    "daemon": daemon,
    "memory": memory,
    "pipeline": blocks.pipeline,
    "parity": blocks.parity,
    "loads": blocks.loads,
}


def main() -> int:
    setting = msgspec.json.decode(sys.stdin.buffer.read(), type=Setting)
    setting.folder.mkdir(parents=True, exist_ok=True)
    try:
        found, status = STEPS[sys.argv[1]](setting), 0
    except Exception as error:
        traceback.print_exc()
        found, status = f"{type(error).__name__}: {error}", 1
    print(msgspec.json.encode(found).decode(), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
