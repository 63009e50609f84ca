"""Today's checks on models that an older version put into a store.

Only blocks are there to be looked at, not the files that they were made from. Rows that are coupled
show in them as well. A length of the data that was taken for a constant shows if what made the
length is there still, or if the constant is computed with and is no extent of anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from edged import manifest as manifests
from edged.errors import InvalidArgument, StoreError, Unsupported
from edged.manifest import CHECKS, Manifest
from edged.store import Store
from export.assemble import stored_layers, whole_block
from export.check import FLOOR, TOLERANCE
from export.company import dependence
from export.graph import Graph, read
from export.layers import Path
from export.probe import Facts, probe
from export.rows import coupling


@dataclass(frozen=True, slots=True)
class Rechecked:
    """`before` and `after`: how the model is served, for people."""

    name: str
    before: str
    after: str
    reason: str = ""


def recheck(store: Store, names: Iterable[str] = ()) -> tuple[Rechecked, ...]:
    """Look at these models, by default at all, and write down what was found, as one change.

    A model that cannot be looked at stays as it is. Raises NotFound or StoreError.
    """
    found = []
    with store.update(wait=True) as change:
        for name in tuple(names) or change.names():
            try:
                model = store.model(name)
                after, reason = _judged(store, model)
            except StoreError as error:
                found.append(Rechecked(name, "cannot be read", "as before", str(error)))
                continue
            if after != model:
                change.put_model(after)
            found.append(Rechecked(name, _served(model), _served(after), reason))
    return tuple(found)


def _served(model: Manifest) -> str:
    if model.unfit:
        return "not at all"
    if model.checks < CHECKS:
        return "one row at a time, unchecked"
    return "in batches" if model.max_rows is None else "one row at a time"


def _judged(store: Store, model: Manifest) -> tuple[Manifest, str]:
    """The model with what today's checks say of it, and why."""
    if model.checks >= CHECKS:
        return model, model.unfit
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
        unfit = _frozen(graph, facts) or ""
        if model.max_rows is None and not unfit:
            watched = list(dict.fromkeys([*graph.outputs, *crossing]))
            coupled = _coupled(graph, facts, watched, model.precision)
    except (InvalidArgument, Unsupported) as error:
        unfit = f"it does not pass today's checks ({error})"
    max_rows = model.max_rows if coupled is None else 1
    after = msgspec.structs.replace(model, checks=CHECKS, max_rows=max_rows, unfit=unfit)
    return after, unfit or coupled or ""


def _coupled(graph: Graph, facts: Facts, watched: list[str], precision: str) -> str | None:
    if (mixing := coupling(graph, facts)) is not None:
        return f"{mixing} mixes the rows of a batch"
    return dependence(graph, watched, TOLERANCE[precision], FLOOR[precision])


def _frozen(graph: Graph, facts: Facts) -> str | None:
    """What shows that a length of the data was taken for a constant."""
    for node in graph.nodes:
        if any(name in facts.varying for name in node.output):
            return (
                f"{node.op_type} gives as much as the data says, which the edged-export that made "
                "the model did not know"
            )
    extents = set(_extents(facts))
    for node in graph.nodes:
        number = _single(node, graph)
        if number is not None and (node.op_type == "Where" or number not in extents):
            return (
                f"{node.op_type} reads the constant {number}, which is no extent of anything and "
                "may have been a length of the data"
            )
    return None


def _single(node: NodeProto, graph: Graph) -> int | None:
    """The one number that a Cast or Where reads as a constant, if it is whole or a bool."""
    if node.domain or node.op_type not in ("Cast", "Where"):
        return None
    tensor = graph.weights.get(node.input[0])
    if tensor is None:
        return None
    values = numpy_helper.to_array(tensor)
    return int(values.ravel()[0]) if values.size == 1 and values.dtype.kind in "bi" else None


def _extents(facts: Facts) -> Iterator[int]:
    """Extents of all values, and of axes side by side together."""
    for size in facts.sizes.values():
        fixed = [int(n) for n in np.where(size.per_row, size.per_row, size.fixed)]
        for start in range(len(fixed)):
            product = 1
            for extent in fixed[start:]:
                product *= extent
                yield product
