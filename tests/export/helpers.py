"""Helpers of several tests of the exporter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from edged.manifest import Manifest
from edged.store import Store
from export.check import compare, feeds, run_chain
from export.graph import load
from export.layers import Path as Layers
from export.layers import cut
from export.normalise import Flow, normalise
from export.probe import Arrays, probe, session


def flow_of(file: Path) -> Flow:
    graph = load(file).graph
    return normalise(graph, probe(graph))


def layers_of(file: Path) -> Layers:
    return cut(flow_of(file))


def digests(file: Path) -> list[str]:
    return [use.digest for use in layers_of(file).uses]


def onnx_run(model: onnx.ModelProto | bytes, feed: Arrays) -> list[np.ndarray]:  # type: ignore[type-arg]
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return list(session(data).run(None, dict(feed)))


def same_as_file(store: Store, name: str, file: Path) -> bool:
    """Whether the stored blocks of a model compute what a file does, on random input."""
    model = store.model(name)
    feed = feeds(model)[-1]
    (found,) = run_chain(model, store.block_bytes, [feed])
    expected = dict(zip(model.outputs, onnx_run(onnx.load(str(file)), feed), strict=True))
    return compare(expected, found).relative < 1e-4


def picture(store: Store, *names: str) -> list[str]:
    """Paths with a letter for each block, the same for the same block: `["AB", "AC"]`."""
    letters: dict[str, str] = {}
    models: list[Manifest] = [store.model(name) for name in names]
    return [
        "".join(letters.setdefault(step.block, chr(ord("A") + len(letters))) for step in m.steps)
        for m in models
    ]
