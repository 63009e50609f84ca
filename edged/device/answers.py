"""From a batch's raw outputs to what was asked for: softmax, the best classes with their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edged import wire
from edged.backends.memory import NUMPY, Array
from edged.device.staging import Staged
from edged.errors import Unsupported
from edged.link import messages as link
from edged.manifest import Manifest
from edged.paths.layout import BufferView, Place

_DATATYPES = {np.dtype(kind): name for name, kind in NUMPY.items()}


class Answers:
    """Collects the answers of one batch. What many rows want alike is computed for all at once."""

    def __init__(self, output: Callable[[BufferView], Array]) -> None:
        """`output`: the rows of a view, which stay as they are while the answers are used."""
        self._output = output
        self._tensors: dict[tuple[int, str, bool], list[Array]] = {}  # by place, model, softmax
        self._classes: dict[tuple[int, link.Ask], list[tuple[wire.ClassScore, ...]]] = {}
        self.answers: list[link.ModelAnswer] = []
        self.payload: list[memoryview] = []

    def add(
        self, request: Staged, ask: link.Ask, manifest: Manifest, place: Place, before: int
    ) -> None:
        """One model of a request, whose rows are those of `place` after `before` others."""
        mine = slice(before, before + request.rows)
        tensors = self._all(place, ask)
        classes: tuple[tuple[wire.ClassScore, ...], ...] | None = None
        if ask.classification is not None:
            key = (id(place), ask)
            if key not in self._classes:
                found = best_classes(tensors[0], ask.classification, manifest.labels)
                self._classes[key] = found
            classes = tuple(self._classes[key][mine])
        outputs = []
        parts = dict(zip(manifest.outputs, [tensor[mine] for tensor in tensors], strict=True))
        if manifest.lengths:
            _shorten(parts, manifest)
        for name, part in parts.items():
            if classes is None:
                self.payload.append(part[..., np.newaxis].view(np.uint8).data)
            outputs.append(link.ModelOutput(name, _DATATYPES[part.dtype], part.shape, classes))
            classes = None  # they are of the first output
        self.answers.append(link.ModelAnswer(request.rid, ask.model, tuple(outputs)))

    def _all(self, place: Place, ask: link.Ask) -> list[Array]:
        """The outputs of a model for all rows of a place."""
        key = (id(place), ask.model, ask.softmax)
        if key not in self._tensors:
            tensors = [self._output(view) for view in place.outputs[ask.model]]
            if ask.softmax:
                tensors[0] = softmax(tensors[0])
            self._tensors[key] = tensors
        return self._tensors[key]


def _shorten(parts: dict[str, Array], manifest: Manifest) -> None:
    """Cut outputs to their lengths in the one row that they have, and drop those that tell these.

    Raises Unsupported for a length beyond the room of its output.
    """
    for length in manifest.lengths:
        room = parts[length.output]
        assert len(room) == 1, "outputs of free length have one row; this is a bug"
        cut = [slice(None)] * room.ndim
        for axis, extent in zip(length.axes, parts.pop(length.told_by)[0].tolist(), strict=True):
            if not 0 <= extent <= room.shape[1 + axis]:
                raise Unsupported(
                    f"output {length.output!r} of model {manifest.name!r} has {extent} entries, "
                    f"and there is room for {room.shape[1 + axis]}: export the model again with "
                    "samples like this input (--samples)"
                )
            cut[1 + axis] = slice(extent)
        parts[length.output] = np.ascontiguousarray(room[tuple(cut)])


def softmax(scores: Array) -> Array:
    """Over the last axis, in float32 at least."""
    wide = scores.astype(np.promote_types(scores.dtype, np.float32))
    wide -= wide.max(axis=-1, keepdims=True)
    np.exp(wide, out=wide)
    wide /= wide.sum(axis=-1, keepdims=True)
    return wide


def best_classes(scores: Array, k: int, labels: Sequence[str]) -> list[tuple[wire.ClassScore, ...]]:
    """For each row of `scores` (rows, classes) its `k` best, best first; ties by index.

    NaN is worse than any score. `labels` is empty or names each class.
    """
    order = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, order, axis=1).astype(np.float64)
    return [
        tuple(
            wire.ClassScore(index, score, labels[index] if labels else "")
            for index, score in zip(indices, values, strict=True)
        )
        for indices, values in zip(order.tolist(), best.tolist(), strict=True)
    ]
