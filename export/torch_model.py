"""Exports a torch module to an ONNX file by torch.onnx.export, for any number of rows if possible.

Importing this module imports torch.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path as File
from typing import Any

import torch
from torch.export import Dim
from torch.utils import _pytree as pytree

from edged.errors import InvalidArgument, NotFound, Unsupported


def load_module(target: str) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """The module, and an example of its input, that the callable `package.module:function` returns.

    The example is a tensor or a tuple of tensors whose axis 0 is the rows.
    Raises InvalidArgument or NotFound.
    """
    name, colon, attribute = target.partition(":")
    if not colon:
        raise InvalidArgument(f"{target!r} is no package.module:function")
    try:
        function = getattr(importlib.import_module(name), attribute)
    except ModuleNotFoundError as error:
        raise NotFound(f"module {name} cannot be imported: {error}") from error
    except AttributeError as error:
        raise NotFound(f"module {name} has no {attribute!r}") from error
    made = function()
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], torch.nn.Module)):
        raise InvalidArgument(f"{target} must return a torch.nn.Module and an example of its input")
    module, example = made
    inputs = (example,) if isinstance(example, torch.Tensor) else tuple(example)
    if not inputs or not all(isinstance(one, torch.Tensor) and one.dim() for one in inputs):
        raise InvalidArgument(
            f"{target} must return tensors with the batch as axis 0 as its example"
        )
    return module, inputs


def export_module(module: torch.nn.Module, inputs: Sequence[torch.Tensor], file: File) -> None:
    """Write `module` in evaluation mode to an ONNX file with its weights inside.

    Raises Unsupported if torch cannot export it.
    """
    module = module.eval()
    # If the example has one row, torch treats the number of rows as a constant.
    pair = tuple(one if len(one) > 1 else torch.cat([one, one]) for one in inputs)
    single = tuple(one[:1] for one in inputs)
    names = _names(module, pair)
    with _quiet(), torch.no_grad():
        outputs = _output_names(module(*pair))
        for example, rows in ((pair, Dim("rows", min=1)), (pair, Dim.DYNAMIC), (single, None)):
            try:
                program = torch.onnx.export(
                    module,
                    example,
                    dynamo=True,
                    dynamic_shapes=None if rows is None else tuple({0: rows} for _ in example),
                    input_names=names,
                    output_names=outputs,
                    verbose=False,
                )
            except torch.onnx.OnnxExporterError as error:
                failure = error
                continue
            assert program is not None, "torch.onnx.export(dynamo=True) returns a program"
            program.save(str(file), external_data=False)
            return
    raise Unsupported(
        f"torch cannot export {type(module).__name__}: {_cause(failure)}; export it to ONNX in "
        "another way and give that to `edged-export onnx`"
    ) from failure


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A context without torch's warnings of missing packages and of its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _names(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> list[str]:
    """The names of the first parameters of forward, if they have names."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind in kinds]
    return (
        names[: len(inputs)] if len(names) >= len(inputs) else [f"x{i}" for i in range(len(inputs))]
    )


def _output_names(made: Any) -> list[str]:
    if isinstance(made, Mapping):
        return [str(name) for name in made]
    count = len(pytree.tree_leaves(made))
    return ["output"] if count == 1 else [f"output{i}" for i in range(count)]


def _cause(error: BaseException) -> str:
    """The first line of the message of the innermost error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
