"""`edged prepare`: blocks prepared for this device before a start needs them, with progress."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edged import config as configuration
from edged.cli.console import say, show
from edged.cli.serve import DEFAULT_CONFIG
from edged.errors import EdgedError


def register(commands: Any) -> None:
    prepare = commands.add_parser(
        "prepare",
        help="prepare blocks for this device before a start needs them",
        description="Prepare every block of the models that a configuration serves, as a daemon "
        "does when it meets one: backend tensorrt builds engines, which takes minutes. A daemon "
        "may run meanwhile; it waits for an engine that is built here, and uses it. The exit "
        "status is 1 if a block could not be prepared.",
    )
    prepare.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE")
    prepare.add_argument(
        "--model", action="append", metavar="NAME", help="only the blocks of this model"
    )
    prepare.set_defaults(run=_prepare)


def _prepare(args: argparse.Namespace) -> int:
    from edged import backends  # arrays and runtimes, which other commands do without
    from edged.daemon.preflight import chosen, worker_settings
    from edged.device.loader import Loader
    from edged.store import Store

    config, _ = chosen(configuration.read(args.config))
    store = Store(config.store)
    manifests = store.models(args.model or config.models)
    settings = worker_settings(config, store.names())
    backend = backends.create(
        settings.backend,
        settings.options,
        threads=settings.threads,
        cache_dir=Path(settings.cache_dir),
    )
    try:
        if not backend.prepares:
            say(f"backend {backend.name} reads blocks as they are: nothing is to be prepared")
            return 0
        loader = Loader(store, backend)
        loader.begin(manifests)
        missing = [block for block in loader.blocks if not backend.is_prepared(block)]
        say(f"{len(loader.blocks) - len(missing)} of {len(loader.blocks)} blocks are prepared")
        return _all(missing, loader.build)
    finally:
        backend.close()


def _all(blocks: list[str], build: Callable[[str, Callable[[str, float], bool]], None]) -> int:
    """Prepare these; one that fails keeps none of the others back."""
    failed = 0
    for number, block in enumerate(blocks, start=1):
        line = _Line(f"block {number} of {len(blocks)}, {block[:12]}")
        try:
            build(block, line.progress)
        except EdgedError as error:
            line.end(str(error))
            failed += 1
        else:
            line.end("prepared")
    return 1 if failed else 0


class _Line:
    """One line for each block; on a terminal it shows how far the block is."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._began_s = time.monotonic()
        self._is_terminal = sys.stderr.isatty()

    def progress(self, phase: str, done: float) -> bool:
        if self._is_terminal:
            text = f"{self._what}: {phase[:24]} {done:.0%}"
            show(text)
        return True

    def end(self, how: str) -> None:
        if self._is_terminal:
            show("")
        say(f"{self._what}: {how}, {time.monotonic() - self._began_s:.1f} s")
