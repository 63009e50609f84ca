"""The command `edged-export head`: a linear head on frozen features, trained or from a file."""

from __future__ import annotations

import argparse
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

import msgspec

from edged.cli.console import print_json, say, show_bytes
from edged.errors import InvalidArgument
from edged.store import Store
from export.cli_look import add_min_block, extra, new_command

if TYPE_CHECKING:
    from export.add import Added


def register(commands: Any) -> None:
    command = new_command(commands, "head", _head, "train a linear head, and add it as a model")
    command.add_argument("--model", required=True, help="the model whose features it stands on")
    command.add_argument("--task", required=True)
    command.add_argument("--name", default="", help="of the new model; default: the task's")
    command.add_argument(
        "--data", type=File, metavar="FOLDER", help="one folder of images for each class"
    )
    command.add_argument(
        "--test", type=File, metavar="FOLDER", help="such a folder to measure the accuracy on"
    )
    command.add_argument(
        "--held-out",
        type=float,
        default=0.3,
        metavar="SHARE",
        help="of each class, to measure the accuracy on where there is no --test (default: 0.3)",
    )
    command.add_argument("--seed", type=int, default=0, help="of the choice of these")
    command.add_argument(
        "--c", type=float, default=0.02, help="inverse strength of the L2 penalty (default: 0.02)"
    )
    command.add_argument(
        "--at", metavar="VALUE", help="the features (default: what the last linear layer reads)"
    )
    command.add_argument("--save", type=File, metavar="FILE", help="also write the head to a file")
    command.add_argument(
        "--head", type=File, metavar="FILE", help="add the head of this file, without training"
    )
    add_min_block(command)
    command.add_argument("--replace", action="store_true", help="a model that is there already")


def _head(args: argparse.Namespace) -> None:
    with extra():
        from export.heads import attach_head, train_head

    if (args.data is None) == (args.head is None):
        raise InvalidArgument("give either --data FOLDER to train on, or --head FILE")
    place: Any = {"name": args.name, "at": args.at}
    place |= {"min_bytes": args.min_block, "replace": args.replace}
    store = Store(args.store)
    if args.head is not None:
        added = attach_head(store, args.model, args.task, args.head, **place)
    else:
        added = train_head(
            store,
            args.model,
            args.task,
            args.data,
            test=args.test,
            held_out=args.held_out,
            seed=args.seed,
            c=args.c,
            save=args.save,
            **place,
        )
    _show(added, args)


def _show(added: Added, args: argparse.Namespace) -> None:
    measured = added.manifest.accuracy
    assert measured is not None, "this is a bug: a head without an accuracy"
    if args.json:
        print_json(
            {
                "name": added.manifest.name,
                "task": added.manifest.task,
                "labels": added.manifest.labels,
                "accuracy": msgspec.to_builtins(measured),
                "new_bytes": added.new_bytes,
            }
        )
        return
    say(
        f"{added.manifest.name}: top-1 accuracy {measured.value:.4f} on {measured.images} images "
        f"({measured.note}), chance {measured.chance:.4f}; {len(added.manifest.labels)} classes, "
        f"{show_bytes(added.new_bytes)} on top of {args.model}"
    )
