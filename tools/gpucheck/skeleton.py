"""A store without its weights, small enough for a checkout: to export a network takes minutes.

    python -m tools.gpucheck.skeleton STORE FILE.zip

`fill` puts random weights in the place of those that were left out. Times and memory do not depend
on their values. What is left out is float32 and looks random; masks and indices stay.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import onnx
from msgspec.structs import replace
from onnx import numpy_helper

from edged.manifest import Manifest
from edged.store import Store

_LEAST_BYTES = 1024  # smaller weights stay
_FEW_VALUES = 256  # what has fewer is a mask
_SCALE = 0.02  # standard deviation of random weights, as of a network before its training
_MODEL = "model.json"


def strip(store: Store, path: Path) -> None:
    """Write the skeleton of one model of a store with several, which has a head of its own."""
    model = min(store.models().values(), key=lambda one: one.name)
    blocks = {step.block for step in model.steps}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        file.writestr(_MODEL, msgspec.json.encode(model))
        for block in sorted(blocks):
            graph = onnx.load(str(store.block_path(block)))
            for tensor in graph.graph.initializer:
                if _looks_random(tensor):
                    tensor.ClearField("raw_data")
            file.writestr(block, graph.SerializeToString(deterministic=True))


def fill(path: Path, folder: Path, seed: int, *, tasks: int) -> Store:
    """A store with the one model of a skeleton for each task, and a head of its own for each.

    A store that is there already is kept.
    """
    store = Store(folder).create()
    if store.models():
        return store
    random = np.random.default_rng(seed)
    with zipfile.ZipFile(path) as file, store.update() as change:
        model = msgspec.json.decode(file.read(_MODEL), type=Manifest)
        *shared, head = (replace(step, layers=()) for step in model.steps)
        path_of_all = [
            replace(step, block=change.add_block(_filled(file.read(step.block), random)))
            for step in shared
        ]
        for number in range(tasks):
            own = change.add_block(_filled(file.read(head.block), random))
            steps = (*path_of_all, replace(head, block=own))
            name = f"task{number}"
            change.put_model(replace(model, name=name, task=name, steps=steps))
    return store


def _filled(data: bytes, random: np.random.Generator) -> bytes:
    model = onnx.load_from_string(data)
    for tensor in left_out(model):
        values = random.standard_normal(tuple(tensor.dims), np.float32) * np.float32(_SCALE)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    filled: bytes = model.SerializeToString(deterministic=True)
    return filled


def left_out(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """The weights of a block that are to be filled."""
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and not (
            tensor.HasField("raw_data") or tensor.float_data or 0 in tensor.dims
        ):
            yield tensor


def _looks_random(tensor: onnx.TensorProto) -> bool:
    if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.raw_data) < _LEAST_BYTES:
        return False
    sample = numpy_helper.to_array(tensor).reshape(-1)[: 64 * _FEW_VALUES]
    return len(np.unique(sample)) >= min(_FEW_VALUES, len(sample) // 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("file", type=Path)
    args = parser.parse_args()
    strip(Store(args.store), args.file)


if __name__ == "__main__":
    main()
