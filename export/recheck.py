"""Today's checks on models that an older version put into a store.

Only the blocks are in the store, not the files that they were made from. Coupled rows show in
blocks as well. That a length that depends on the data became a constant can be excluded but not
proven (edged/older.py); if it cannot be excluded, the model must be exported again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import onnx

from edged import manifest as manifests
from edged.errors import InvalidArgument, StoreError, Unsupported
from edged.manifest import CHECKS, Manifest
from edged.older import doubt
from edged.store import Store
from export.assemble import stored_layers, whole_block
from export.check import FLOOR, TOLERANCE
from export.company import dependence
from export.graph import OnnxGraph, read
from export.layers import Path
from export.probe import Facts, probe
from export.rows import coupling


@dataclass(frozen=True, slots=True)
class Rechecked:
    """The result for one model: how it was served `before` and is served `after`, for people."""

    name: str
    before: str
    after: str
    reason: str = ""


def recheck(store: Store, names: Iterable[str] = ()) -> tuple[Rechecked, ...]:
    """Check these models, by default all, and store the results as one change.

    A model that cannot be checked stays as it is. Raises NotFound or StoreError.
    """
    found = []
    with store.update(wait=True) as change:
        for name in tuple(names) or change.names():
            try:
                model = store.model(name)
                frozen = doubt(model, store.graph_bytes)
                after, reason = _judged(store, model, frozen)
            except StoreError as error:
                found.append(Rechecked(name, "cannot be read", "as before", str(error)))
                continue
            if after != model:
                change.put_model(after)
            before = "not at all" if frozen else _served(model)
            found.append(Rechecked(name, before, _served(after), reason))
    return tuple(found)


def _served(model: Manifest) -> str:
    if model.unfit:
        return "not at all"
    if model.checks < CHECKS:
        return "one row at a time, unchecked"
    return "in batches" if model.max_rows is None else "one row at a time"


def _judged(store: Store, model: Manifest, frozen: str) -> tuple[Manifest, str]:
    """The model with the results of today's checks, and their reason."""
    if model.checks >= CHECKS:
        return model, model.unfit
    if frozen:
        return msgspec.structs.replace(model, checks=CHECKS, unfit=frozen), frozen
    path = Path(
        model.inputs,
        model.outputs,
        manifests.layers(model),
        model.values,
        stored_layers(store, model.steps),
    )
    whole = onnx.ModelProto.FromString(whole_block(path).data)
    crossing = [value.name for value in whole.graph.value_info]
    coupled, unfit = None, ""
    try:
        graph = read(whole)
        facts = probe(graph) if model.max_rows is None else probe(graph, (model.max_rows,))
        if model.max_rows is None:
            watched = list(dict.fromkeys([*graph.outputs, *crossing]))
            coupled = _coupled(graph, facts, watched, model.precision)
    except (InvalidArgument, Unsupported) as error:
        unfit = f"it does not pass today's checks ({error}); export it again from its file"
    max_rows = model.max_rows if coupled is None else 1
    after = msgspec.structs.replace(model, checks=CHECKS, max_rows=max_rows, unfit=unfit)
    return after, unfit or coupled or ""


def _coupled(graph: OnnxGraph, facts: Facts, watched: list[str], precision: str) -> str | None:
    if (mixing := coupling(graph, facts)) is not None:
        return f"{mixing} mixes the rows of a batch"
    return dependence(graph, watched, TOLERANCE[precision], FLOOR[precision])
