"""`edged models`: what a daemon serves."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from edged.cli.connection import add_connection_options, client_of, plain
from edged.cli.console import print_json, say, show_bytes, table

if TYPE_CHECKING:
    from edged import wire


def register(commands: Any) -> None:
    parser = commands.add_parser("models", help="what a daemon serves")
    parser.add_argument("name", nargs="?", metavar="NAME", help="all about one task or model")
    add_connection_options(parser, timeout_s=5.0)
    parser.set_defaults(run=_models)


def _models(args: argparse.Namespace) -> int:
    with client_of(args) as client:
        if args.name is not None:
            model = client.model(args.name)
            if args.json:
                print_json(plain(model))
            else:
                say(_one(model))
            return 0
        models = client.models()
    if args.json:
        print_json([plain(model) for model in models])
    else:
        say(_all(models))
    return 0


def _all(models: tuple[wire.ModelIndex, ...]) -> str:
    rows = [
        [
            model.task,
            model.name + ("" if model.default else " (on request)"),
            model.state
            + (", pinned" if model.pinned else "")
            + (f": {model.reason}" if model.reason else ""),
            model.precision,
            _bytes(model.total_bytes),
            _bytes(model.shared_bytes),
        ]
        for model in models
    ]
    return table(["task", "model", "state", "precision", "size", "of that shared"], rows)


def _bytes(count: int | None) -> str:
    return "" if count is None else show_bytes(count)


def _one(model: wire.ModelMetadataReply) -> str:
    lines = [f"{model.name}, a model for {model.task} ({model.platform})"]
    for kind, tensors in (("input", model.inputs), ("output", model.outputs)):
        for tensor in tensors:
            extents = ", ".join("any" if n < 0 else str(n) for n in tensor.shape)
            lines.append(f"  {kind} {tensor.name}: {tensor.datatype} [{extents}]")
    if model.max_rows is not None:
        lines.append(f"  runs {model.max_rows} row at a time")
    if model.labels:
        shown = ", ".join(model.labels[:5])
        more = f", ... ({len(model.labels)} in all)" if len(model.labels) > 5 else ""
        lines.append(f"  labels: {shown}{more}")
    for what, values in (("accuracy", model.accuracy), ("preprocess", model.preprocess)):
        if values is not None:
            lines.append(f"  {what}: " + ", ".join(f"{k} {v}" for k, v in values.items()))
    return "\n".join(lines)
