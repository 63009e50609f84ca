"""The commands `edged-export ls`, `show`, `diff`, `verify`, `rm`, `gc` and `migrate`.

They need neither onnx nor torch nor scikit-learn.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path as File
from typing import Any

import msgspec

from edged.cli.console import print_json, say, show_bytes, table
from edged.errors import Unsupported
from edged.manifest import CHECKS, Manifest, Value
from edged.store import SCHEMA, Store
from export import listing
from export.blocks import MIN_BYTES
from export.listing import BlockLine, StoreContents
from export.migrate import migrate


def register(commands: Any) -> None:
    new_command(commands, "ls", _ls, "what is stored, and how much of it is shared")
    command = new_command(commands, "show", _show, "one model: its blocks and who shares them")
    command.add_argument("model", metavar="MODEL")
    command.add_argument("--layers", action="store_true", help="also the layers of each block")
    command = new_command(commands, "diff", _diff, "what two models share")
    command.add_argument("first", metavar="MODEL")
    command.add_argument("second", metavar="MODEL")
    new_command(
        commands, "verify", _verify, "read everything again and compare it with its digests"
    )
    command = new_command(commands, "rm", _rm, "forget models; gc then removes their blocks")
    command.add_argument("models", nargs="+", metavar="MODEL")
    new_command(commands, "gc", _gc, "remove blocks that no model uses and no daemon holds")
    new_command(commands, "migrate", _migrate, "give a store of an older version the newest schema")


def new_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int | None], text: str
) -> argparse.ArgumentParser:
    """A subcommand with the options that all subcommands have."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.add_argument("--store", type=File, required=True, metavar="DIR")
    command.add_argument("--json", action="store_true", help="print JSON for programs")
    command.set_defaults(run=run)
    return command


def add_min_block(command: argparse.ArgumentParser) -> None:
    """Add the option of commands that plan blocks, which they do for all models of the store."""
    command.add_argument(
        "--min-block",
        type=int,
        default=MIN_BYTES,
        metavar="BYTES",
        help=f"what a block should at least weigh; the same in all commands (default: {MIN_BYTES})",
    )


@contextlib.contextmanager
def extra() -> Iterator[None]:
    """A context for imports of packages that a plain install of edged does not include."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise Unsupported(
            f"the package {package} is not installed: pip install 'edged[export]'"
        ) from error


def summary(found: StoreContents) -> str:
    """One line that sums up a whole store."""
    text = (
        f"{len(found.models)} models, {_count(found.blocks, found.tensors)}: "
        f"{show_bytes(found.block_bytes)} as blocks, {show_bytes(found.whole_bytes)} as whole "
        "models"
    )
    if found.unused_blocks or found.unused_tensors:
        unused = _count(found.unused_blocks, found.unused_tensors, "unused ")
        text += f"; {unused} ({show_bytes(found.unused_bytes)}), which gc removes"
    if found.schema < SCHEMA:
        text += (
            f"; the store has schema {found.schema}: edged-export migrate lets its models share "
            "tensors"
        )
    return text


def _count(blocks: int, tensors: int, kind: str = "") -> str:
    text = f"{blocks} {kind}blocks"
    return f"{text} and {tensors} {kind}tensors" if tensors else text


def _ls(args: argparse.Namespace) -> None:
    found = listing.contents(Store(args.store))
    if args.json:
        print_json(msgspec.to_builtins(found))
        return
    rows = [
        [
            line.name,
            line.task,
            line.precision,
            str(line.blocks),
            show_bytes(line.block_bytes),
            show_bytes(line.shared_bytes),
            show_bytes(line.whole_bytes),
            "" if line.accuracy is None else f"{line.accuracy:.4f}",
        ]
        for line in found.models
    ]
    headers = [
        "model",
        "task",
        "precision",
        "blocks",
        "bytes",
        "of that shared",
        "whole",
        "accuracy",
    ]
    say(table(headers, rows))
    say(summary(found))


def _show(args: argparse.Namespace) -> None:
    model, blocks = listing.path(Store(args.store), args.model)
    if args.json:
        print_json({"model": msgspec.to_builtins(model), "blocks": msgspec.to_builtins(blocks)})
        return
    say(f"{model.name}, a model for {model.task} ({model.precision})")
    for kind, names in (("input", model.inputs), ("output", model.answers)):
        for name in names:
            say(f"  {kind} {_value(model.value(name))}")
    for length in model.lengths:
        say(f"  output {length.output} is as long as the data say, on axis {length.axes} of a row")
    if model.preprocess is not None:
        fields = msgspec.to_builtins(model.preprocess)
        say("  preprocess " + ", ".join(f"{key} {value}" for key, value in fields.items()))
    if model.labels:
        say(f"  {len(model.labels)} labels: {', '.join(model.labels[:6])} ...")
    if model.accuracy is not None:
        measured = model.accuracy
        say(
            f"  {measured.metric} {measured.value:.4f} on {measured.images} images "
            f"(chance {measured.chance:.4f}; {measured.note})"
        )
    if model.head_of is not None:
        say(f"  its last layer is a head trained on {model.head_of.model}")
    if model.checks < CHECKS:
        say("  runs one row at a time: an older version exported it (see recheck)")
    elif model.max_rows is not None:
        say(f"  runs {model.max_rows} row at a time")
    if model.unfit:
        say(f"  not served: {model.unfit}")
    say(_layers(model) if args.layers else _blocks(model, blocks))


def _blocks(model: Manifest, blocks: tuple[BlockLine, ...]) -> str:
    rows = [
        [
            block.id[:12],
            show_bytes(block.bytes),
            show_bytes(block.shared_bytes),
            str(block.layers),
            "; ".join(_value(model.value(name)) for name in block.writes),
            ", ".join(block.sharers),
        ]
        for block in blocks
    ]
    headers = ["block", "bytes", "in shared tensors", "layers", "writes", "shared with"]
    return table(headers, rows)


def _layers(model: Manifest) -> str:
    rows = [
        [
            step.block[:12],
            layer.digest[:12],
            show_bytes(layer.weight_bytes),
            "; ".join(_value(model.value(name)) for name in layer.writes),
        ]
        for step in model.steps
        for layer in step.layers
    ]
    return table(["block", "layer", "weights", "writes"], rows)


def _value(value: Value) -> str:
    return f"{value.name} {value.datatype} {list(value.shape)}"


def _diff(args: argparse.Namespace) -> None:
    found = listing.common(Store(args.store), args.first, args.second)
    if args.json:
        print_json(msgspec.to_builtins(found))
        return
    first = (found.first_only, found.first_only_tensors, found.first_only_bytes)
    second = (found.second_only, found.second_only_tensors, found.second_only_bytes)
    counted = {
        "in both": (len(found.blocks), found.tensors, found.block_bytes),
        f"only in {found.first}": first,
        f"only in {found.second}": second,
    }
    rows = [
        [where, str(blocks), str(tensors), show_bytes(size)]
        for where, (blocks, tensors, size) in counted.items()
    ]
    say(table(["", "blocks", "tensors", "bytes"], rows))
    say(f"{found.layers} equal layers with {show_bytes(found.layer_bytes)} of weights")


def _verify(args: argparse.Namespace) -> int:
    store = Store(args.store)
    damage = listing.verify(store)
    if args.json:
        print_json(msgspec.to_builtins(damage))
    else:
        for one in damage:
            say(f"{one.what} (needed by {', '.join(one.models)})")
        if not damage:
            say(f"all is well: {summary(listing.contents(store))}")
    return 1 if damage else 0


def _rm(args: argparse.Namespace) -> None:
    with Store(args.store).update() as change:
        for name in args.models:
            change.remove_model(name)
        left = change.names()
    if args.json:
        print_json({"removed": args.models, "left": left})
    else:
        say(f"removed {', '.join(args.models)}; {len(left)} models left")


def _gc(args: argparse.Namespace) -> None:
    done = Store(args.store).gc()
    if args.json:
        print_json(
            {
                "removed": done.removed,
                "removed_tensors": done.removed_tensors,
                "removed_bytes": done.removed_bytes,
                "held": done.held,
            }
        )
        return
    removed = _count(len(done.removed), done.removed_tensors)
    say(f"removed {removed} ({show_bytes(done.removed_bytes)})")
    if done.held:
        say(f"kept {len(done.held)} unused blocks that a running daemon holds: try again later")


def _migrate(args: argparse.Namespace) -> None:
    done = migrate(Store(args.store))
    if args.json:
        print_json(dataclasses.asdict(done))
        return
    if done.before == done.after:
        say(f"the store has schema {done.after} already")
        return
    say(
        f"schema {done.before} is now {done.after}: {done.models} models, {len(done.blocks)} "
        "blocks with a new id; edged reload, and then edged-export gc, which removes the old ones"
    )
