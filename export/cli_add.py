"""The commands `edged-export onnx` and `torch`, which put models into a store.

Modules that only one of them needs are imported when it runs.
"""

from __future__ import annotations

import argparse
import codecs
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

import msgspec

from edged.cli.console import print_json, say, show_bytes, table
from edged.errors import InvalidArgument, NotFound
from edged.manifest import Preprocess
from edged.store import Store
from export import labels, listing
from export.cli_look import add_min_block, extra, new_command, summary

if TYPE_CHECKING:
    from export.add import Added, Report
    from export.source import Source


def register(commands: Any) -> None:
    command = new_command(commands, "onnx", _onnx, "add ONNX models, cut into blocks")
    command.add_argument("sources", nargs="+", metavar="TASK[:NAME]=FILE.onnx")
    _add_options(command)
    command = new_command(commands, "torch", _torch, "add torch modules, cut into blocks")
    command.add_argument(
        "sources",
        nargs="+",
        metavar="TASK[:NAME]=PACKAGE.MODULE:FUNCTION",
        help="a callable that returns a torch.nn.Module and an example of its input",
    )
    _add_options(command)


def _add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--preprocess", type=File, metavar="FILE.toml", help="how an image becomes the input"
    )
    command.add_argument(
        "--labels",
        action="append",
        default=[],
        metavar="[TASK=]FILE",
        help="names of the classes, one a line; for all models, or for those of one task",
    )
    command.add_argument(
        "--samples",
        action="append",
        default=[],
        metavar="[TASK=]PATH",
        help="real input to check with: a folder of images, or arrays as .npz or .npy; for all "
        "models, or for those of one task",
    )
    command.add_argument("--precision", choices=["fp32", "fp16", "bf16", "int8"])
    _add_border_options(command)
    add_min_block(command)
    command.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="largest difference to the uncut model, relative to the row and the channel",
    )
    command.add_argument("--replace", action="store_true", help="models that are there already")


def _add_border_options(command: argparse.ArgumentParser) -> None:
    """What inputs and outputs there are, and how many rows run at once."""
    command.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="INPUT=N,N,...",
        help="extents of an input with free axes, without the batch axis or with it",
    )
    command.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="INPUT=X[,X...]",
        help="the value of an input that stays, as a sample rate; one number fills all of it",
    )
    command.add_argument(
        "--outputs", metavar="A,B,...", help="the outputs to keep, in this order; default: all"
    )
    command.add_argument(
        "--rows",
        type=int,
        choices=[1],
        help="1: run one row at a time, though more might be possible",
    )


def _onnx(args: argparse.Namespace) -> None:
    named = _all_named(args)
    _add(args, [_source(args, task, name, File(file)) for task, name, file in named])


def _torch(args: argparse.Namespace) -> None:
    with extra():
        from export.torch_model import export_module, load_module

    named = _all_named(args)
    sys.path.insert(0, os.getcwd())  # a console script does not search there by itself
    with tempfile.TemporaryDirectory(prefix="edged-export-") as folder:
        sources = []
        for i, (task, name, target) in enumerate(named):
            function = target.rpartition(":")[2]
            file = File(folder, f"{i}-{function}.onnx")
            export_module(*load_module(target), file)
            sources.append(_source(args, task, name, file))
        _add(args, sources)


def _all_named(args: argparse.Namespace) -> list[tuple[str, str, str]]:
    """All models on the command line. Raises InvalidArgument if an option names another task."""
    named = [_named(text) for text in args.sources]
    tasks = dict.fromkeys(task for task, _, _ in named)
    for option, texts in (("--labels", args.labels), ("--samples", args.samples)):
        for text in texts:
            task, equals, _ = text.partition("=")
            if equals and task not in tasks:
                raise InvalidArgument(
                    f"{option} {text}: no model here is for the task {task!r}; write TASK=PATH "
                    f"with one of {', '.join(tasks)}, or a path without ="
                )
    return named


def _named(text: str) -> tuple[str, str, str]:
    """The task, the name of the model, and the text after the `=`."""
    names, equals, what = text.partition("=")
    if not equals or not what:
        raise InvalidArgument(f"{text!r} names no task: write TASK={text}")
    task, _, name = names.partition(":")
    return task, name or task, what


def _source(args: argparse.Namespace, task: str, name: str, file: File) -> Source:
    with extra():
        from export.source import Source
    return Source(
        task=task,
        path=file,
        name=name,
        preprocess=None if args.preprocess is None else read_preprocess(args.preprocess),
        labels=_labels(args.labels, task),
        precision=args.precision,
        shapes=dict(_shape(text) for text in args.shape),
        inputs=dict(_value(text) for text in args.input),
        outputs=tuple(args.outputs.split(",")) if args.outputs else (),
        rows=args.rows,
        samples=_of_task(args.samples, task),
    )


def read_preprocess(file: File) -> Preprocess:
    """The preprocessing in a TOML file. Raises NotFound or InvalidArgument."""
    data = _read(file).removeprefix(codecs.BOM_UTF8)
    try:
        return msgspec.toml.decode(data, type=Preprocess)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{file}: {error}") from error


def _labels(options: Sequence[str], task: str) -> tuple[str, ...]:
    file = _of_task(options, task)
    return () if file is None else labels.decode(_read(file), file)


def _of_task(options: Sequence[str], task: str) -> File | None:
    """The path of the last `[TASK=]PATH` that names this task, else of the last that names none."""
    files = [File(text) for text in options if "=" not in text]
    files += [File(text.partition("=")[2]) for text in options if text.startswith(f"{task}=")]
    return files[-1] if files else None


def _read(file: File) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise NotFound(f"{file} cannot be read: {error.strerror}") from error


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, extents = text.partition("=")
    try:
        return name, tuple(int(extent) for extent in extents.split(","))
    except ValueError as error:
        raise InvalidArgument(f"{text!r} is no shape: write INPUT=3,224,224") from error


def _value(text: str) -> tuple[str, tuple[float, ...]]:
    name, _, numbers = text.partition("=")
    try:
        return name, tuple(float(number) for number in numbers.split(","))
    except ValueError as error:
        raise InvalidArgument(f"{text!r} is no value: write INPUT=16000") from error


def _add(args: argparse.Namespace, sources: Sequence[Source]) -> None:
    with extra():
        from export.add import add_models

    store = Store(args.store).create()
    report = add_models(
        store,
        sources,
        min_bytes=args.min_block,
        tolerance=args.tolerance,
        replace=args.replace,
    )
    if args.json:
        print_json(_plain(report))
        return
    rows = [
        [
            added.manifest.name,
            added.manifest.task,
            str(len(added.manifest.steps)),
            show_bytes(added.manifest.whole_bytes),
            show_bytes(added.new_bytes),
            f"{added.difference.absolute:.2g}",
            f"{added.difference.relative:.2g}",
        ]
        for added in report.added
    ]
    headers = ["model", "task", "blocks", "whole", "new here", "max diff", "relative"]
    say(table(headers, rows))
    for added in report.added:
        for note in _notes(added):
            say(f"{added.manifest.name}: {note}")
    if report.recut:
        say(f"cut anew, computing the same: {', '.join(report.recut)}")
    say(summary(listing.contents(store)))


def _notes(added: Added) -> list[str]:
    notes = []
    if added.coupled is not None:
        notes.append(f"runs one row at a time: {added.coupled}")
    if added.samples:
        notes.append(f"also checked on {added.samples} samples")
    if added.difference.largest < 1e-6:
        notes.append(
            f"its largest output on all that was tried is {added.difference.largest:.1g}: the "
            "comparison says little"
        )
    return notes


def _plain(report: Report) -> dict[str, Any]:
    return {
        "models": [
            {
                "name": added.manifest.name,
                "task": added.manifest.task,
                "blocks": [step.block for step in added.manifest.steps],
                "layers": sum(len(step.layers) for step in added.manifest.steps),
                "whole_bytes": added.manifest.whole_bytes,
                "new_bytes": added.new_bytes,
                "max_rows": added.manifest.max_rows,
                "coupled": added.coupled,
                "samples": added.samples,
                "largest_difference": added.difference.absolute,
                "relative_difference": added.difference.relative,
                "accuracy": msgspec.to_builtins(added.manifest.accuracy),
            }
            for added in report.added
        ],
        "recut": report.recut,
    }
