"""`python -m tools.demo`: build a store with five tasks, serve it, ask it, compare, report.

Ends with status 0 when the daemon classified every held out image as the uncut models do.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edged.client import Client
from edged.errors import EdgedError
from edged.manifest import Manifest
from edged.store import Store
from tools.demo import data, reference
from tools.demo.build import Folder, build
from tools.demo.daemon import SOCKET, Daemon, command
from tools.demo.load import TOP_K, ask_all
from tools.demo.report import Summary, render, summarize


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 if something failed, which one line of stderr names."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path(".demo"), help="where everything is kept")
    parser.add_argument("--seed", type=int, default=0, help="of splits, crops and mixing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--serve", action="store_true", help="only leave the daemon running")
    args = parser.parse_args(argv)
    folder = Folder(args.dir)
    try:
        models = build(folder, args.seed)
        if args.serve:
            return _serve(folder)
        summary = _run(folder, models, args.seed)
    except EdgedError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"\n{render(summary)}\n\n{_what_now(folder)}")
    if args.json is not None:
        args.json.write_bytes(msgspec.json.encode(summary))
    return 0 if summary.agrees else 1


def _run(folder: Folder, models: dict[str, Manifest], seed: int) -> Summary:
    images = [image for task in data.SOURCES for image in data.held_out(folder.images, task)]
    print(f"==> {len(images)} held out images through the uncut models", flush=True)
    uncut = reference.classify(folder, models, images, TOP_K)
    print("==> the same images through the daemon", flush=True)
    with Daemon(folder.path) as daemon:
        began_s = time.monotonic()
        answers = ask_all(daemon.endpoint, images, seed)
        seconds = time.monotonic() - began_s
        with Client(daemon.endpoint) as client:
            batches = client.statistics().batches
    store = Store(folder.store)
    sizes = {block: store.block_size(block) for block in store.blocks()}
    return summarize(answers, uncut, batches, models, sizes, seconds)


def _serve(folder: Folder) -> int:
    """Become the daemon, so that signals and the exit status are its own."""
    print(f"{_try_it(folder)}\n", flush=True)
    os.chdir(folder.path)
    os.execv(sys.executable, command())


def _what_now(folder: Folder) -> str:
    return "\n".join(
        [
            f"Store {folder.store}, images {folder.images}, daemon's log {folder.path}/daemon.log.",
            "Go on: `make serve` leaves the daemon running. " + _try_it(folder),
        ]
    )


def _try_it(folder: Folder) -> str:
    edged = _short(Path(sys.executable).parent / "edged")
    at = f"--endpoint ipc://{folder.path / SOCKET}"
    photo, *_ = data.held_out(folder.images, "imagenet")
    digit, *_ = data.held_out(folder.images, "mnist")
    return (
        "In another terminal:\n"
        f"    {edged} infer {at} --task imagenet --top-k 3 {photo.path}\n"
        f"    {edged} infer {at} --task mnist --task digits {digit.path}\n"
        f"    {edged} status {at}"
    )


def _short(path: Path) -> Path:
    """The path relative to the current folder, if it is below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


if __name__ == "__main__":
    sys.exit(main())
