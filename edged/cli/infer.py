"""`edged infer`: tasks on image files, by a daemon."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edged.cli.connection import add_connection_options, client_of, plain, show_ms
from edged.cli.console import print_json, say, table
from edged.errors import EdgedError, NotFound

if TYPE_CHECKING:
    from edged import wire
    from edged.client import Client, Result, TaskResult


def register(commands: Any) -> None:
    parser = commands.add_parser(
        "infer",
        help="do tasks on images",
        description="Ask a daemon for tasks on images (JPEG, PNG, WebP, BMP). With --json, one "
        "object a line for each image. The exit status is 1 if any image failed.",
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument(
        "--task", action="append", required=True, metavar="NAME", help="repeat for several"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--top-k",
        type=int,
        metavar="K",
        help="best classes (1, of models that tell classes apart; else all outputs)",
    )
    how.add_argument("--raw", action="store_true", help="all outputs of the model, as they are")
    parser.add_argument("--softmax", action="store_true", help="scores as probabilities")
    parser.add_argument(
        "--priority", type=int, default=0, metavar="N", help="1 is the highest (0: the daemon's)"
    )
    add_connection_options(parser, timeout_s=30.0)
    parser.set_defaults(run=_infer)


def _infer(args: argparse.Namespace) -> int:
    for image in args.images:
        if not image.is_file():
            raise NotFound(f"{image}: no such file")
    failed = 0
    rows: list[list[str]] = []
    with client_of(args) as client:
        outcomes = client.infer_many(
            args.images,
            [_wanted(client, task, args) for task in args.task],
            return_exceptions=True,
            priority=args.priority,
        )
        for image, outcome in zip(args.images, outcomes, strict=True):
            failed += isinstance(outcome, EdgedError)
            if args.json:
                print_json({"image": str(image), **_plain(outcome)})
            elif isinstance(outcome, EdgedError):
                say(f"edged: {image}: {outcome}", error=True)
            else:
                rows += _rows(image, outcome)
    if rows:
        say(table(["image", "task", "answer", "score", "time"], rows))
    return 1 if failed else 0


def _wanted(client: Client, task: str, args: argparse.Namespace) -> wire.RequestedOutput:
    """How to ask for a task. Without options it is the best class, if the model tells classes."""
    from edged import wire  # imports what other commands do without

    top_k = args.top_k
    if top_k is None and not args.raw:
        first = client.model(task).outputs[0]
        top_k = 1 if len(first.shape) == 2 and first.shape[1] > 0 else None
    how = wire.OutputParameters(classification=top_k, softmax=args.softmax)
    return wire.RequestedOutput(task, how)


def _rows(image: Path, result: Result) -> list[list[str]]:
    """The rows of the table for one image, whose name and time stand in the first row only."""
    answers = [
        [task.task, *answer]
        for task in result.outputs
        for answer in (*_classes(task), *_tensors(task))
    ]
    time = show_ms(result.round_trip_s * 1e6) + (" (emulated)" if result.emulated else "")
    firsts = [(str(image), time)] + [("", "")] * (len(answers) - 1)
    return [[name, *answer, time] for (name, time), answer in zip(firsts, answers, strict=True)]


def _classes(task: TaskResult) -> list[tuple[str, str]]:
    return [(c.label or f"class {c.index}", f"{c.score:.4g}") for row in task.classes for c in row]


def _tensors(task: TaskResult) -> list[tuple[str, str]]:
    return [
        (f"{name}: {array.dtype} {list(array.shape)}", "") for name, array in task.tensors.items()
    ]


def _plain(outcome: Result | EdgedError) -> dict[str, Any]:
    if isinstance(outcome, EdgedError):
        return {"error": str(outcome), "code": outcome.code.value}
    return {
        "outputs": [
            {
                "task": task.task,
                "model": task.model,
                "classification": [plain(c) for c in task.classes[0]] if task.classes else None,
                "tensors": {name: array[0].tolist() for name, array in task.tensors.items()},
            }
            for task in outcome.outputs
        ],
        "parameters": plain(outcome.times),
        "round_trip_us": round(outcome.round_trip_s * 1e6),
        "sends": outcome.sends,
    }
