"""Whether a chain of blocks computes what the uncut model does, each row by itself.

Runs both in ONNX Runtime on the same random input. A largest difference is given as it is and
relative to the largest value compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from edged.errors import EdgedError, Unsupported
from edged.manifest import Manifest
from export.layers import numpy_type
from export.probe import Array, Arrays, random_array, run, session

ROWS_COMPARED = 3

# Cutting moves the borders of what the runtime fuses, so sums are rounded elsewhere. Quantised
# models round to steps: one step more or less is a large relative difference.
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "int8": 1e-1}


class CheckFailed(EdgedError):
    """The blocks do not compute what the model does: a bug here or in the runtime."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Of two results; `relative` to the largest absolute value in the first."""

    absolute: float
    largest: float

    @property
    def relative(self) -> float:
        if self.absolute == 0:
            return 0.0
        return self.absolute / self.largest if self.largest else float("inf")


class Uncut:
    """A whole model, run at any number of rows also if it was exported for `fixed` rows only.

    `inputs` and `outputs` map names of values to those of the session.
    """

    def __init__(
        self,
        runner: ort.InferenceSession,
        inputs: Mapping[str, str],
        outputs: Mapping[str, str],
        fixed: int | None = None,
    ) -> None:
        self._runner = runner
        self._inputs = dict(inputs)
        self._outputs = dict(outputs)
        self._fixed = fixed

    def __call__(self, feed: Arrays) -> Arrays:
        given = {inner: feed[name] for name, inner in self._inputs.items()}
        wanted = list(self._outputs.values())
        if self._fixed is None:
            return dict(zip(self._outputs, run(self._runner, wanted, given), strict=True))
        rows = len(next(iter(given.values())))
        parts = []
        for start in range(0, rows, self._fixed):
            # The last row is repeated where there are not enough.
            chosen = np.minimum(np.arange(start, start + self._fixed), rows - 1)
            part = {name: array[chosen] for name, array in given.items()}
            parts.append(run(self._runner, wanted, part))
        whole = [np.concatenate(part)[:rows] for part in zip(*parts, strict=True)]
        return dict(zip(self._outputs, whole, strict=True))


def feeds(manifest: Manifest) -> list[Arrays]:
    """Random input for a model: single rows, and then these together if it can run that."""
    random = np.random.default_rng(0)
    rows = {
        value.name: random_array(random, numpy_type(value.datatype), (ROWS_COMPARED, *value.shape))
        for value in map(manifest.value, manifest.inputs)
    }
    singles = [{n: array[i : i + 1] for n, array in rows.items()} for i in range(ROWS_COMPARED)]
    return singles if manifest.max_rows == 1 else [*singles, rows]


def compare(expected: Arrays, found: Arrays) -> Difference:
    """The largest difference over all arrays; infinite where they differ in shape or in NaN."""
    absolute = largest = 0.0
    for name, array in expected.items():
        first, second = np.asarray(array, np.float64), np.asarray(found[name], np.float64)
        if first.shape != second.shape or (np.isnan(first) != np.isnan(second)).any():
            return Difference(float("inf"), 1.0)
        with np.errstate(invalid="ignore"):
            gap = np.where(first == second, 0.0, np.abs(first - second))
        absolute = max(absolute, float(np.nanmax(gap, initial=0.0)))
        finite = np.abs(first[np.isfinite(first)])
        largest = max(largest, float(np.max(finite, initial=0.0)))
    return Difference(absolute, largest)


def check_model(
    manifest: Manifest,
    block: Callable[[str], bytes],
    expected: Sequence[Arrays],
    tolerance: float,
) -> Difference:
    """Compare the blocks' results for `feeds(manifest)` with `expected`; the largest difference.

    Raises CheckFailed above the tolerance, and Unsupported if a row depends on those beside it.
    """

    def watch(name: str, found: Sequence[Array]) -> None:
        if manifest.max_rows != 1:
            *alone, together = found
            change = compare({name: np.concatenate(alone)}, {name: together})
            _check_rows(manifest.name, name, change, tolerance)

    results = run_chain(manifest, block, feeds(manifest), watch)
    differences = [compare(*pair) for pair in zip(expected, results, strict=True)]
    worst = max(differences, key=lambda difference: difference.relative)
    if not worst.relative <= tolerance:
        raise CheckFailed(
            f"model {manifest.name!r}: its blocks differ from the uncut model by "
            f"{worst.absolute:.2g}, {worst.relative:.2g} of the largest output (allowed: "
            f"{tolerance:.2g}); nothing was written"
        )
    return worst


def run_chain(
    manifest: Manifest,
    block: Callable[[str], bytes],
    given: Sequence[Arrays],
    watch: Callable[[str, Sequence[Array]], None] = lambda _name, _found: None,
) -> list[Arrays]:
    """The outputs of a model for each of `given`, block by block; only one block is loaded.

    `watch` is shown each value that a block writes, one array for each of `given`.
    """
    last_reads = {name: i for i, step in enumerate(manifest.steps) for name in step.reads}
    last_reads |= dict.fromkeys(manifest.outputs, len(manifest.steps))
    known = [dict(feed) for feed in given]
    for i, step in enumerate(manifest.steps):
        runner = session(block(step.block))
        for values in known:
            taken = {f"x{j}": values[name] for j, name in enumerate(step.reads)}
            made = run(runner, [f"y{j}" for j in range(len(step.writes))], taken)
            values |= dict(zip(step.writes, made, strict=True))
        for name in step.writes:
            watch(name, [values[name] for values in known])
        for name in {*step.reads, *step.writes}:
            if last_reads.get(name, -1) <= i:
                for values in known:
                    del values[name]
    return [{name: values[name] for name in manifest.outputs} for values in known]


def _check_rows(model: str, value: str, difference: Difference, tolerance: float) -> None:
    if not difference.relative <= tolerance:
        raise Unsupported(
            f"model {model!r}: a row depends on the other rows of its batch ({value!r} changes by "
            f"{difference.relative:.2g}): export it in evaluation mode, with the batch as axis 0"
        )
