"""Which runs of layers become blocks, given all models of a store. Pure; knows no ONNX.

Each model is a sequence of layers. Overlaid, the sequences form a graph: equal layers are one
node, and each pair of neighbours an edge. A block is a longest run of nodes through which all
models that enter it pass in the same way (genome assemblers call it a compacted unitig). So
every block has one set of sharers, and two blocks that always follow each other are one block.

A run that weighs less than a minimum is not worth a step of its own: it is copied into the runs
beside it, if that costs less than the minimum and leaves their sharing as it is.

A run that begins with large activations and ends with large weights, as convolutional networks
do, is cut where that changes: rows are faster through the first part one by one, and through the
second part together.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TypeAlias

from edged.manifest import Layer, Value
from edged.paths.layout import Tensor

MIN_BYTES = 16_000
TURN_BYTES = 2 * 2**20  # more than the caches of one processor
_CONTEXT_BYTES = 1024  # layers with fewer bytes of weights are equal only after the same layer

Reads: TypeAlias = tuple[tuple[int, int], ...]
Writes: TypeAlias = tuple[tuple[int, ...], ...]
Signature: TypeAlias = tuple[tuple[str, Reads, Writes], ...]
Cut: TypeAlias = tuple[str, int]  # a model, and the layer before which it is cut


@dataclass(frozen=True, slots=True)
class Wired:
    """A layer of a model, in terms that do not depend on names.

    An entry of `reads` says how many layers back an input was made, and as which output; inputs of
    the model count as made before the first layer. An entry of `writes` says how many layers ahead
    an output is read, 0 standing for an output of the model.
    """

    key: str
    reads: Reads
    writes: Writes
    weight_bytes: int
    write_bytes: int  # bytes that it writes for one row


@dataclass(frozen=True, slots=True)
class Span:
    """Layers `start` to `end` (exclusive) of a model."""

    start: int
    end: int


def wire(
    inputs: Sequence[str],
    outputs: Iterable[str],
    layers: Sequence[Layer],
    values: Iterable[Value],
) -> list[Wired]:
    """The layers of a model in the form of `plan`. `values` has every value that a layer names."""
    row_bytes = {value.name: Tensor(value.datatype, value.shape).row_bytes for value in values}
    made = {name: (-1, i) for i, name in enumerate(inputs)}
    made |= {name: (i, j) for i, use in enumerate(layers) for j, name in enumerate(use.writes)}
    ahead: dict[str, list[int]] = defaultdict(list)
    for name in outputs:
        ahead[name].append(0)
    for i, use in enumerate(layers):
        for name in use.reads:
            ahead[name].append(i - made[name][0])
    wired: list[Wired] = []
    for i, use in enumerate(layers):
        key = use.digest
        if use.weight_bytes < _CONTEXT_BYTES:
            before = wired[-1].key if wired else ""
            key = hashlib.sha256(f"{before} {key}".encode()).hexdigest()
        reads = tuple((i - made[name][0], made[name][1]) for name in use.reads)
        writes = tuple(tuple(sorted(ahead[name])) for name in use.writes)
        write_bytes = sum(row_bytes[name] for name in use.writes)
        wired.append(Wired(key, reads, writes, use.weight_bytes, write_bytes))
    return wired


def plan(
    models: Mapping[str, Sequence[Wired]], min_bytes: int = MIN_BYTES
) -> dict[str, list[Span]]:
    """The blocks of each model, in order."""
    cuts = _branches(models)
    while merged := _cheap_merge(models, _runs(models, cuts), min_bytes):
        cuts -= merged
    for name, layers in models.items():
        turns = [_turn(layers, span, min_bytes) for span in _spans(name, layers, cuts)]
        cuts |= {(name, turn) for turn in turns if turn is not None}
    return {name: _spans(name, layers, cuts) for name, layers in models.items()}


def signature(layers: Sequence[Wired], span: Span) -> Signature:
    """The identity of a block: its layers, and how they are wired inside."""
    return tuple(
        (
            layer.key,
            () if i == span.start else layer.reads,
            () if i == span.end - 1 else layer.writes,
        )
        for i, layer in enumerate(layers[span.start : span.end], span.start)
    )


def _branches(models: Mapping[str, Sequence[Wired]]) -> set[Cut]:
    """The cuts between layers that not all models run one after the other, wired the same way."""
    after: dict[str, set[object]] = defaultdict(set)
    before: dict[str, set[object]] = defaultdict(set)
    for layers in models.values():
        for first, second in pairwise([None, *layers, None]):
            if first is not None:
                after[first.key].add((second and second.key, first.writes))
            if second is not None:
                before[second.key].add((first and first.key, second.reads))
    return {
        (name, i)
        for name, layers in models.items()
        for i, (first, second) in enumerate(pairwise(layers), 1)
        if len(after[first.key]) > 1 or len(before[second.key]) > 1
    }


def _spans(name: str, layers: Sequence[Wired], cuts: set[Cut]) -> list[Span]:
    ends = [0, *(i for i in range(1, len(layers)) if (name, i) in cuts), len(layers)]
    return [Span(*span) for span in pairwise(ends)]


def _turn(layers: Sequence[Wired], span: Span, min_bytes: int) -> int | None:
    """The layer before which activations exceed weights most, in sum; None if that is little.

    A batch saves reading weights again for each row, and pays with activations that fall out of
    the caches. If both are large, the parts of a block run best with batches of different sizes.
    """
    inside = layers[span.start : span.end]
    if len(inside) < 2:
        return None
    weights = list(accumulate((layer.weight_bytes for layer in inside), initial=0))
    surplus = list(accumulate((la.write_bytes - la.weight_bytes for la in inside), initial=0))
    crossing = _crossing(inside)
    # Values that cross the cut are written and read once more, so a nearby place where they are
    # smaller is better.
    turn = max(range(1, len(inside)), key=lambda i: surplus[i] - crossing[i])
    heavy = min(surplus[turn], surplus[turn] - surplus[-1]) >= TURN_BYTES
    large = min(weights[turn], weights[-1] - weights[turn]) >= min_bytes
    return span.start + turn if heavy and large else None


def _crossing(layers: Sequence[Wired]) -> list[int]:
    """The bytes a row that cross the border before each layer: made before it and read after it."""
    last = {i - back: i for i, layer in enumerate(layers) for back, _ in layer.reads}
    return [
        sum(layers[made].write_bytes for made, read in last.items() if 0 <= made < i <= read)
        for i in range(len(layers))
    ]


@dataclass(frozen=True, slots=True)
class _Run:
    model: str
    span: Span
    signature: Signature
    weight_bytes: int


def _runs(models: Mapping[str, Sequence[Wired]], cuts: set[Cut]) -> list[_Run]:
    return [
        _Run(
            name,
            span,
            signature(layers, span),
            sum(layer.weight_bytes for layer in layers[span.start : span.end]),
        )
        for name, layers in models.items()
        for span in _spans(name, layers, cuts)
    ]


def _cheap_merge(
    models: Mapping[str, Sequence[Wired]], runs: Sequence[_Run], min_bytes: int
) -> set[Cut]:
    """The cuts that disappear when one small run is copied into its neighbours; empty if none is.

    The run is copied into all runs that follow it, if each of them follows nothing else, or else
    into all that lead to it, if each of them leads to nothing else.
    """
    at_start = {(run.model, run.span.start): run for run in runs}
    at_end = {(run.model, run.span.end): run for run in runs}
    starts: dict[Signature, set[Cut]] = defaultdict(set)
    ends: dict[Signature, set[Cut]] = defaultdict(set)
    for run in runs:
        starts[run.signature].add((run.model, run.span.start))
        ends[run.signature].add((run.model, run.span.end))
    for run in runs:
        if run.weight_bytes >= min_bytes:
            continue
        for cuts, beside, theirs in ((ends, at_start, starts), (starts, at_end, ends)):
            border = cuts[run.signature]
            if not all(cut in beside for cut in border):
                continue
            if set().union(*(theirs[beside[cut].signature] for cut in border)) != border:
                continue
            joined = {
                signature(
                    models[name], Span(at_end[name, i].span.start, at_start[name, i].span.end)
                )
                for name, i in border
            }
            if (len(joined) - 1) * run.weight_bytes < min_bytes:
                return border
    return set()
