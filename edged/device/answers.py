"""From a batch's raw outputs to what was asked for: softmax, the best classes with their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edged.backends.memory import NUMPY, Array
from edged.device import link
from edged.layout import Place, View
from edged.manifest import Manifest

_DATATYPES = {np.dtype(kind): name for name, kind in NUMPY.items()}


class Answers:
    """Collects the answers of one batch. What many rows want alike is computed for all at once."""

    def __init__(self, output: Callable[[View], Array]) -> None:
        """`output`: the rows of a view, which stay as they are while the answers are used."""
        self._output = output
        self._tensors: dict[tuple[View, bool], Array] = {}
        self._classes: dict[tuple[View, bool, str, int], list[tuple[link.Class, ...]]] = {}
        self.answers: list[link.Answer] = []
        self.payload: list[memoryview] = []

    def add(
        self, rid: int, ask: link.Ask, manifest: Manifest, place: Place, before: int, rows: int
    ) -> None:
        """One model of one request: `rows` rows of `place`, after `before` others."""
        outputs = []
        for index, (name, view) in enumerate(
            zip(manifest.outputs, place.outputs[ask.model], strict=True)
        ):
            first = index == 0  # what the ask says is about the first output
            tensor = self._tensor(view, first and ask.softmax)
            mine = tensor[before : before + rows]
            classes = None
            if first and ask.classification is not None:
                found = self._best(view, ask, manifest.labels)
                classes = tuple(found[before : before + rows])
            else:
                self.payload.append(mine.reshape(mine.size).view(np.uint8).data)
            outputs.append(link.Output(name, _DATATYPES[mine.dtype], mine.shape, classes))
        self.answers.append(link.Answer(rid, ask.model, tuple(outputs)))

    def _tensor(self, view: View, softened: bool) -> Array:
        key = (view, softened)
        if key not in self._tensors:
            raw = self._output(view)
            self._tensors[key] = softmax(raw) if softened else raw
        return self._tensors[key]

    def _best(
        self, view: View, ask: link.Ask, labels: Sequence[str]
    ) -> list[tuple[link.Class, ...]]:
        assert ask.classification is not None
        key = (view, ask.softmax, ask.model, ask.classification)
        if key not in self._classes:
            scores = self._tensor(view, ask.softmax)
            self._classes[key] = best_classes(scores, ask.classification, labels)
        return self._classes[key]


def softmax(scores: Array) -> Array:
    """Over the last axis, in float32 at least."""
    wide = scores.astype(np.promote_types(scores.dtype, np.float32))
    wide -= wide.max(axis=-1, keepdims=True)
    np.exp(wide, out=wide)
    wide /= wide.sum(axis=-1, keepdims=True)
    return wide


def best_classes(scores: Array, k: int, labels: Sequence[str]) -> list[tuple[link.Class, ...]]:
    """For each row of `scores` (rows, classes) its `k` best, best first; ties by index.

    NaN is worse than any score. `labels` is empty or names each class.
    """
    order = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, order, axis=1).astype(np.float64)
    return [
        tuple(
            link.Class(index, score, labels[index] if labels else "")
            for index, score in zip(indices, values, strict=True)
        )
        for indices, values in zip(order.tolist(), best.tolist(), strict=True)
    ]
