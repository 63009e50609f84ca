"""Whether the rows of a batch are independent: measured beside other rows and alone.

A row at the same place of a batch of the same size is computed by the same instructions, so its
result must be the same to the last bit, whichever rows are beside it. That finds any coupling,
however small, and never takes rounding for one. A row alone is computed by other instructions, so
its difference must be within a tolerance of each channel.

The rows differ much from one another: dim and bright ones, zeros, constants, pictures of bytes, and
the samples of the user.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import onnxruntime as ort
from onnx import helper

from export.check import compare
from export.graph import OnnxGraph, to_model
from export.probe import SPAN, Array, Arrays, Span, run, session

Places: TypeAlias = tuple[int, ...]  # the number of the row at each place of a batch

_PLACES = 3  # rows of a batch, as many as `probe` runs
# Two rows take turns at each place, so that each row has different neighbours in its two batches.
_BATCHES = ((0, 1, 2), (3, 4, 5), (3, 1, 5), (0, 4, 2))
_NATURAL = (0, 1, 3, 4)  # rows without equal elements, in which no choice depends on rounding
_BRIGHT = 1e3
_BRIGHT_HALF = 30.0  # squares of larger values leave the range of half precision


def dependence(
    graph: OnnxGraph,
    watched: Sequence[str],
    tolerance: float,
    floor: float,
    samples: Arrays | None = None,
) -> str | None:
    """A text for people that says how a row depends on the others; None if none does.

    `watched` are values whose first axis is the batch, the outputs among them. `tolerance` and
    `floor` are those of `compare`; `samples` are further rows of the inputs. Raises InvalidArgument
    if the graph does not run such rows.
    """
    runner = session(to_model(graph, watched).SerializeToString())
    rows = _with_samples(unlike_rows(graph), samples)
    trios = _trios(range(2 * _PLACES, len(next(iter(rows.values())))))
    seen: dict[tuple[str, int, int], bytes] = {}
    batches: list[tuple[Places, Arrays]] = []
    for chosen in (*_BATCHES, *_companies_of(trios)):
        found = _run(runner, watched, rows, chosen)
        for name, array in found.items():
            if len(array) != len(chosen):
                return f"the number of rows of {name!r} depends on their content"
            for place, row in enumerate(chosen):
                digest = _digest(array, place)
                if seen.setdefault((name, place, row), digest) != digest:
                    again = _run(runner, watched, rows, chosen)
                    if _digest(again[name], place) == digest:
                        return f"a row of {name!r} changes with the rows beside it"
        if chosen in _BATCHES:
            batches.append((chosen, {name: found[name] for name in graph.outputs}))

    def equal(one: Arrays, other: Arrays) -> bool:
        return compare(one, other, floor).relative <= tolerance

    shown = _alone(runner, graph.outputs, rows, _NATURAL, batches, equal)
    for trio in trios[::_PLACES]:  # these trios hold each sample once
        shown = shown or _alone(runner, graph.outputs, rows, trio, [], equal)
    return shown


def _with_samples(rows: Arrays, samples: Arrays | None) -> Arrays:
    if not samples:
        return rows
    return {name: np.concatenate([array, samples[name]]) for name, array in rows.items()}


def _trios(samples: Sequence[int]) -> list[Places]:
    """Each sample with the two after it; the first samples follow the last one."""
    count = len(samples)
    return [tuple(samples[(i + k) % count] for k in range(_PLACES)) for i in range(count)]


def _companies_of(trios: Sequence[Places]) -> Iterator[Places]:
    """Batches with each sample at each place, beside samples and beside dim and bright rows."""
    for trio in trios:
        first = trio[0]
        yield from (trio, (first, 1, 5), (3, first, 2), (0, 4, first))


def unlike_rows(graph: OnnxGraph) -> Arrays:
    """Two rows for each place of a batch: normal, dim, zeros; bright, bytes, constant."""
    random = np.random.default_rng(0)
    arrays: Arrays = {}
    for value in graph.inputs:
        tensor = value.type.tensor_type
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        shape = tuple(dim.dim_value for dim in tensor.shape.dim)[1:]
        arrays[value.name] = np.stack(
            _unlike_integers(random, dtype, shape, graph.spans.get(value.name))
            if dtype.kind in "iub"
            else _unlike_floats(random, dtype, shape)
        )
    return arrays


def _unlike_floats(
    random: np.random.Generator, dtype: np.dtype[np.generic], shape: tuple[int, ...]
) -> list[Array]:
    bright = _BRIGHT if dtype.itemsize > 2 else _BRIGHT_HALF
    rows = [
        random.standard_normal(shape),
        1e-3 * random.standard_normal(shape),
        np.zeros(shape),
        bright * random.standard_normal(shape),
        random.uniform(0, 255, shape),
        np.full(shape, 0.5),
    ]
    return [row.astype(dtype) for row in rows]


def _unlike_integers(
    random: np.random.Generator,
    dtype: np.dtype[np.generic],
    shape: tuple[int, ...],
    span: Span | None,
) -> list[Array]:
    """Bytes of any value; other integers are of the input's span."""
    if span is not None or dtype not in (np.uint8, np.int8):
        least, largest = both = span or SPAN
        spans = [both, both, (least, least), both, both, (largest, largest)]
    elif dtype == np.uint8:
        spans = [(0, 255), (0, 4), (0, 0), (200, 255), (0, 255), (128, 128)]
    else:
        spans = [(-128, 127), (-2, 2), (0, 0), (70, 127), (-128, 127), (64, 64)]
    return [random.integers(low, high + 1, shape).astype(dtype) for low, high in spans]


def _alone(
    runner: ort.InferenceSession,
    outputs: Sequence[str],
    rows: Arrays,
    natural: Places,
    batches: Sequence[tuple[Places, Arrays]],
    equal: Callable[[Arrays, Arrays], bool],
) -> str | None:
    """Compare the `natural` rows with the same rows alone and at another place of a batch."""
    singles = [_run(runner, outputs, rows, [row]) for row in natural]
    moved = natural[::-1][:_PLACES]
    batches = [*batches, (moved, _run(runner, outputs, rows, moved))]
    for name in outputs:
        expected, found = [], []
        for chosen, values in batches:
            for place, row in enumerate(chosen):
                if row in natural:
                    expected.append(singles[natural.index(row)][name])
                    found.append(values[name][place : place + 1])
        if not equal({name: np.concatenate(expected)}, {name: np.concatenate(found)}):
            return f"a row of {name!r} is another one alone than in a batch"
    return None


def _run(
    runner: ort.InferenceSession, wanted: Sequence[str], rows: Arrays, chosen: Sequence[int]
) -> Arrays:
    given = {name: array[list(chosen)] for name, array in rows.items()}
    return dict(zip(wanted, run(runner, wanted, given), strict=True))


def _digest(array: Array, place: int) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(array[place]).tobytes(), digest_size=16).digest()
