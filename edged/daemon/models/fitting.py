"""Whether what a request brings and asks for fits the models that it names. Pure.

What a model says of itself decides, before the request is admitted: shapes and bytes of what is
brought are checked where it is prepared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edged.errors import InvalidArgument
from edged.manifest import Manifest
from edged.wire import InputTensor, OutputParameters


def check_inputs(tensors: Sequence[InputTensor], models: Iterable[Manifest]) -> None:
    """Raise InvalidArgument for an input that none of the models has.

    With one input the name is not looked at.
    """
    if len(tensors) == 1:
        return
    wanted = list(models)
    taken = {name for model in wanted for name in model.inputs}
    surplus = [tensor.name for tensor in tensors if tensor.name not in taken]
    if surplus:
        raise InvalidArgument(
            f"input {surplus[0]!r} is of none of the models that are asked for, which take "
            f"{'; '.join(f'{model.name}: {signature(model, model.inputs)}' for model in wanted)}: "
            "leave it out"
        )


def check_rows(model: Manifest, rows: int) -> None:
    """Raise InvalidArgument for several rows where each has outputs of a length of its own."""
    if rows > 1 and model.lengths:
        raise InvalidArgument(
            f"the outputs of model {model.name!r} are as long as each row's data say, so a request "
            f"has one row, and this one has {rows}: send a request for each"
        )


def check_output(model: Manifest, how: OutputParameters) -> None:
    """Raise InvalidArgument where the first output of the model is none that classes can be taken
    from, or scores.
    """
    shape = model.client_shape(model.outputs[0])
    if how.classification is not None and (len(shape) != 1 or shape[0] < 0):
        raise InvalidArgument(
            f"classification takes the classes of a first output [rows, classes], and model "
            f"{model.name!r} has {signature(model, model.answers)}: ask for the task without "
            "classification (top_k=None, --raw), which gives all outputs as tensors"
        )
    if how.softmax and (not shape or shape[-1] < 1):
        raise InvalidArgument(
            f"softmax goes over the last axis of a first output [rows, .., scores], and model "
            f"{model.name!r} has {signature(model, model.answers)}: ask for the task without "
            "softmax"
        )


def signature(model: Manifest, names: Iterable[str]) -> str:
    """These inputs or outputs of a model, for people."""
    return ", ".join(
        f"{value.name} {value.datatype} {['rows', *_extents(model, value.name)]}".replace("'", "")
        for value in map(model.value, names)
    )


def _extents(model: Manifest, name: str) -> list[int | str]:
    return ["any" if extent < 0 else extent for extent in model.client_shape(name)]
