"""The form of a model in the store: for batches, or for one row at a time.

A model gets the form for batches if it has a batch axis in front, can be set free from a fixed
number of rows, and keeps rows apart. Any other gets the form for one row, with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import Literal, TypeAlias

import onnxruntime as ort
from onnx import TensorProto

from edged.errors import InvalidArgument, Unsupported
from edged.manifest import FreeLength
from export.batch import set_free
from export.borders import fixed_rows, for_one, no_batch_axis
from export.branches import without_branches
from export.check import FLOOR, TOLERANCE, Uncut, batches, compare
from export.company import dependence
from export.graph import OnnxGraph, tidy, to_model
from export.layers import Path, cut
from export.normalise import normalise
from export.one_row import UncutRow, one_row, rows_in_front, taken
from export.opset import upgraded
from export.probe import ROWS_TRIED, Array, Arrays, Facts, feed, probe, session
from export.rows import coupling

Precision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8"]

_QUANTISED = {
    "ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv",
    "QLinearMatMul",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Given:
    """A model whose form is not known yet."""

    runner: ort.InferenceSession  # the model as its file has it
    graph: OnnxGraph  # what is to be served of it; it may have branches
    constants: Mapping[str, Array]  # the values of inputs that are fixed
    samples: File | None  # real input, for messages
    read: Callable[[Arrays], Arrays]  # the samples, for inputs like those that it is given
    precision: Precision | None  # None takes that of most weights
    one_by_one: bool  # whether the form for one row was asked for

    def uncut(self, fixed: int | None = None) -> Uncut:
        """The model as its file has it, which runs `fixed` rows only."""
        names = {value.name: value.name for value in self.graph.inputs}
        outputs = {name: name for name in self.graph.outputs}
        return Uncut(self.runner, names, outputs, fixed, self.constants)


@dataclass(frozen=True, slots=True)
class Form:
    """A model in its form."""

    path: Path
    uncut: Callable[[Arrays], Arrays]  # the whole model
    rows: Arrays  # the samples
    precision: Precision
    coupled: str | None = None  # why it runs one row at a time; None: it runs batches
    lengths: tuple[FreeLength, ...] = ()


def form_of(given: Given) -> Form:
    """Raises InvalidArgument and Unsupported for a model that has neither form."""
    if given.one_by_one:
        return _for_one_row(given, "that was asked for (--rows 1)")
    reason = no_batch_axis(given.graph)
    if reason is not None:
        return _for_one_row(given, reason)
    fixed = fixed_rows(given.graph)
    uncut = given.uncut(fixed)
    try:
        rows = _samples(given, feed(given.graph, 1), given.uncut() if fixed == 1 else uncut)
    except InvalidArgument as unfit:
        if fixed in (None, 1):
            raise
        try:
            return _for_one_row(given, "the samples show that its inputs have no batch axis")
        except InvalidArgument:
            raise unfit from None
    error: Exception | None = None
    try:
        form = _for_batches(given, fixed, uncut, rows)
    except (InvalidArgument, Unsupported) as failed:
        # The rows are not axis 0 of everything, or the model cannot run what it declares.
        form, error = f"it does not run with more ({failed})", failed
    if isinstance(form, Form):
        return form
    if fixed is not None and fixed != 1:
        _refuse_batch(given.graph, fixed, form)
        form = "its inputs have no batch axis"
    try:
        return _for_one_row(given, form, sure=False)
    except (InvalidArgument, Unsupported):
        if error is None or fixed is not None:
            raise
        raise error from None  # the error of the model as it was exported


def _refuse_batch(graph: OnnxGraph, fixed: int, reason: str) -> None:
    """Raise Unsupported if all outputs have as many rows as the inputs: then it is a batch."""
    facts = probe(_plain(graph, (fixed,)), (fixed,))
    sizes = [facts.sizes.get(name) for name in graph.outputs]
    if all(size is not None and len(size.fixed) and size.fixed[0] == fixed for size in sizes):
        raise Unsupported(
            f"it runs batches of exactly {fixed}, and could not be set free ({reason}): export it "
            "with a dynamic batch axis or for one row; or say --rows 1, and all of such a batch is "
            "one row"
        )


def _plain(graph: OnnxGraph, rows: Sequence[int]) -> OnnxGraph:
    """The graph without branches, in an opset that all know."""
    return upgraded(without_branches(graph, rows))


def _for_batches(given: Given, fixed: int | None, uncut: Uncut, rows: Arrays) -> Form | str:
    """The form for any number of rows, or why there is none. `rows` are samples."""
    if fixed is None:
        graph = _plain(given.graph, ROWS_TRIED)
    else:
        exported = _plain(given.graph, (fixed,))
        facts = probe(exported, (fixed,))
        if reason := _free_length(exported, facts):
            return reason
        graph = tidy(set_free(exported, facts, fixed))
    facts = probe(graph)
    if reason := _free_length(graph, facts):
        return reason
    if (mixing := coupling(graph, facts)) is not None:
        return f"{mixing} mixes the rows of a batch"
    path = cut(normalise(graph, facts))
    precision = given.precision or precision_of(graph)
    tolerance, floor = TOLERANCE[precision], FLOOR[precision]
    if fixed is not None:
        trial = feed(graph, fixed + 2)  # errors cannot show at the same number of rows as before
        freed = Uncut(session(to_model(graph).SerializeToString()), *_same_names(graph))
        for tried in (trial, *batches(rows, None)):
            if not compare(uncut(tried), freed(tried), floor).relative <= tolerance:
                return "set free for more, it computes something else"
    crossing = [value.name for value in path.values if value.name not in path.inputs]
    watched = dict.fromkeys([*graph.outputs, *crossing])
    dependent = dependence(graph, list(watched), tolerance, floor, rows)
    return Form(path, uncut, rows, precision) if dependent is None else dependent


def _free_length(graph: OnnxGraph, facts: Facts) -> str | None:
    """That the length of an output depends on the data, for people; None if none does."""
    free = next((name for name in graph.outputs if name in facts.varying), None)
    return None if free is None else f"the length of output {free!r} depends on the data"


def _same_names(graph: OnnxGraph) -> tuple[dict[str, str], dict[str, str]]:
    inputs = {value.name: value.name for value in graph.inputs}
    return inputs, {name: name for name in graph.outputs}


def _for_one_row(given: Given, reason: str, *, sure: bool = True) -> Form:
    """The form for one row. Unless it is `sure`, a reason that shows in an output is the better."""
    single = for_one(given.graph)
    feed(single, None)  # refuses inputs of unknown extents
    framed, whole = rows_in_front(single)
    uncut = given.uncut()

    def as_in_file(row: Arrays) -> Arrays:
        return uncut(taken(row, whole))

    rows = _samples(given, feed(framed, 1), as_in_file)
    graph = _plain(framed, (1,))
    form = one_row(graph, whole, batches(rows, 1))
    path = cut(normalise(form.graph, probe(form.graph, (1,))), rows=1)
    if form.reason is not None and not sure:
        reason = form.reason
    return Form(
        path,
        UncutRow(uncut, form),
        rows,
        given.precision or precision_of(graph),
        reason,
        tuple(room.length for room in form.rooms),
    )


def _samples(given: Given, like: Arrays, uncut: Callable[[Arrays], Arrays]) -> Arrays:
    """The rows of the samples, which the model must be able to run."""
    rows = given.read(like)
    try:
        for row in batches(rows, 1):
            uncut(row)
    except InvalidArgument as error:
        raise InvalidArgument(
            f"the samples {given.samples} are no input of the model: {error}"
        ) from error
    return rows


def precision_of(graph: OnnxGraph) -> Precision:
    """The precision of most weights, or int8 if the graph quantises."""
    if any(node.op_type in _QUANTISED for node in graph.nodes):
        return "int8"
    kinds: Counter[int] = Counter()
    for tensor in graph.weights.values():
        kinds[tensor.data_type] += tensor.ByteSize()
    names: dict[int, Precision] = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
    return names.get(kinds.most_common(1)[0][0], "fp32") if kinds else "fp32"
