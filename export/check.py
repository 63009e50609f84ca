"""Whether a chain of blocks computes what the uncut model does.

Both run in ONNX Runtime on the same random input, and on samples of real input. The largest
difference is given as it is and relative to the size of its row and channel, so that a large error
in a small channel counts too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edged.errors import EdgedError, InvalidArgument
from edged.manifest import Manifest
from export.layers import numpy_type
from export.probe import Array, Arrays, random_array, run, session

Floats: TypeAlias = npt.NDArray[np.float64]

ROWS_COMPARED = 3
_ROW_SCALE_MIN = 1e-6  # a row's scale is at least this share of that of the row with the largest

# Cutting changes which operators the runtime fuses, so sums are rounded in other places. Quantised
# models round to steps: one step more or less is a large relative difference.
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "int8": 1e-1}

# The scale of a channel is at least this share of the largest value of its row: the rounding of the
# terms that it is a sum of is as large as that, and a quantised tensor has one step size.
FLOOR = {"fp32": 0.1, "fp16": 0.25, "bf16": 0.5, "int8": 1.0}


class CheckFailed(EdgedError):
    """The blocks do not compute what the model does: a bug here or in the runtime."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest difference between two results."""

    absolute: float
    largest: float  # largest absolute value of the first result
    relative: float  # largest difference relative to the scale of its row and channel

    def or_larger(self, other: Difference) -> Difference:
        """The larger one of each figure."""
        return Difference(
            max(self.absolute, other.absolute),
            max(self.largest, other.largest),
            max(self.relative, other.relative),
        )


class Uncut:
    """A whole model that runs any number of rows, even if it was exported for `fixed` rows only.

    `inputs` and `outputs` map names of values to those of the session. `constants` are the values
    of its other inputs.
    """

    def __init__(
        self,
        runner: ort.InferenceSession,
        inputs: Mapping[str, str],
        outputs: Mapping[str, str],
        fixed: int | None = None,
        constants: Mapping[str, Array] | None = None,
    ) -> None:
        self._runner = runner
        self._inputs = dict(inputs)
        self._outputs = dict(outputs)
        self._fixed = fixed
        self._constants = dict(constants or {})

    def __call__(self, feed: Arrays) -> Arrays:
        given = {inner: feed[name] for name, inner in self._inputs.items()}
        wanted = list(self._outputs.values())
        if self._fixed is None:
            found = run(self._runner, wanted, self._constants | given)
            return dict(zip(self._outputs, found, strict=True))
        rows = len(next(iter(given.values())))
        parts = []
        for start in range(0, rows, self._fixed):
            # The last row is repeated to fill the fixed number of rows.
            chosen = np.minimum(np.arange(start, start + self._fixed), rows - 1)
            part = {name: array[chosen] for name, array in given.items()}
            parts.append(run(self._runner, wanted, self._constants | part))
            if any(np.ndim(found) == 0 for found in parts[-1]):
                raise InvalidArgument("an output has no axes, so it has no rows")
        whole = [np.concatenate(part)[:rows] for part in zip(*parts, strict=True)]
        return dict(zip(self._outputs, whole, strict=True))


def feeds(manifest: Manifest) -> list[Arrays]:
    """Random inputs for a model: single rows, and then all of them together if it can run that."""
    random = np.random.default_rng(0)
    rows = {
        value.name: random_array(
            random,
            numpy_type(value.datatype),
            (ROWS_COMPARED, *value.shape),
            manifest.span(value.name),
        )
        for value in map(manifest.value, manifest.inputs)
    }
    singles = [{n: array[i : i + 1] for n, array in rows.items()} for i in range(ROWS_COMPARED)]
    return singles if manifest.max_rows == 1 else [*singles, rows]


def batches(samples: Arrays, max_rows: int | None) -> list[Arrays]:
    """All rows of `samples`, in few small batches that the model can run."""
    rows = max_rows or ROWS_COMPARED
    count = len(next(iter(samples.values()), ()))
    return [
        {name: array[start : start + rows] for name, array in samples.items()}
        for start in range(0, count, rows)
    ]


def compare(expected: Arrays, found: Arrays, floor: float = 1.0) -> Difference:
    """The largest difference over all arrays; infinite if shapes or the places of NaN differ.

    The scale of a channel is at least the share `floor` of the largest value of its row.
    """
    absolute = largest = relative = 0.0
    for name, array in expected.items():
        first, second = np.asarray(array, np.float64), np.asarray(found[name], np.float64)
        if first.shape != second.shape or (np.isnan(first) != np.isnan(second)).any():
            return Difference(float("inf"), 1.0, float("inf"))
        if not first.size:
            continue
        with np.errstate(invalid="ignore"):
            gap = np.where((first == second) | np.isnan(first), 0.0, np.abs(first - second))
        size = np.where(np.isfinite(first), np.abs(first), 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            worst = np.where(gap > 0, gap / _scales(size, floor), 0.0)
        absolute = max(absolute, float(gap.max()))
        largest = max(largest, float(size.max()))
        relative = max(relative, float(worst.max()))
    return Difference(absolute, largest, relative)


def _scales(size: Floats, floor: float) -> Floats:
    """The scale to which a difference is relative, for each element; `size` has absolute values.

    It is the largest value of the row, times the share of it that the channel reaches in any row. A
    channel is one index of an axis. Which axis that is is not known, so the smallest scale counts.
    """
    whole = tuple(range(1, size.ndim))
    rows = size.max(axis=whole, keepdims=True) if whole else size
    rows = np.maximum(rows, _ROW_SCALE_MIN * rows.max())
    shares = size / np.where(rows > 0, rows, 1.0)
    least = np.ones_like(shares)
    for axis in whole:
        others = tuple(a for a in range(size.ndim) if a != axis)
        least = np.minimum(least, shares.max(axis=others, keepdims=True))
    scales: Floats = rows * np.maximum(least, floor)
    return scales


def check_model(
    manifest: Manifest,
    block: Callable[[str], bytes],
    expected: Sequence[Arrays],
    tolerance: float,
    sampled: Sequence[tuple[Arrays, Arrays]] = (),
) -> Difference:
    """The largest difference between the blocks' results for `feeds(manifest)` and `expected`.

    `sampled` holds pairs of samples and expected results. Raises CheckFailed above the tolerance.
    """
    floor = FLOOR[manifest.precision]
    given = [*feeds(manifest), *(samples for samples, _ in sampled)]
    results = run_chain(manifest, block, given)
    worst = compare(_joined(expected), _joined(results[: len(expected)]), floor)
    for (_, known), found in zip(sampled, results[len(expected) :], strict=True):
        worst = worst.or_larger(compare(known, found, floor))
    if not worst.relative <= tolerance:
        raise CheckFailed(
            f"model {manifest.name!r}: its blocks differ from the uncut model by "
            f"{worst.absolute:.2g}, {worst.relative:.2g} of what the row and channel are like "
            f"(allowed: {tolerance:.2g}); nothing was written"
        )
    return worst


def _joined(results: Sequence[Arrays]) -> Arrays:
    """The rows of all results, one after the other."""
    return {name: np.concatenate([result[name] for result in results]) for name in results[0]}


def run_chain(
    manifest: Manifest,
    block: Callable[[str], bytes],
    given: Sequence[Arrays],
) -> list[Arrays]:
    """The outputs of a model for each of `given`, block by block; one block is loaded at a time."""
    last_reads = {name: i for i, step in enumerate(manifest.steps) for name in step.reads}
    last_reads |= dict.fromkeys(manifest.outputs, len(manifest.steps))
    known = [dict(feed) for feed in given]
    for i, step in enumerate(manifest.steps):
        runner = session(block(step.block))
        for values in known:
            taken = {f"x{j}": values[name] for j, name in enumerate(step.reads)}
            made = run(runner, [f"y{j}" for j in range(len(step.writes))], taken)
            values |= dict(zip(step.writes, made, strict=True))
        for name in {*step.reads, *step.writes}:
            if last_reads.get(name, -1) <= i:
                for values in known:
                    del values[name]
    return [{name: values[name] for name in manifest.outputs} for values in known]
