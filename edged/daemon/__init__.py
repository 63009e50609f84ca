"""The daemon: a front process that owns sockets and scheduler, and its device worker."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack
from pathlib import Path

from edged import malloc as heap
from edged.config import Config
from edged.daemon.loop import Loop
from edged.daemon.models.held_store import Shelf
from edged.daemon.preflight import check, worker_settings
from edged.errors import InvalidArgument
from edged.observe.recording import Recorder
from edged.store import Store
from edged.systemd import JournalFormatter, Notifier, is_journal

__all__ = ["serve", "worker_settings"]

log = logging.getLogger("edged")

_KEEP_BYTES, _KEEP_PIECE_BYTES = 32 << 20, 16 << 20  # of freed payloads, for those that come next


def serve(config: Config, *, record: Path | None = None) -> int:
    """Run until told to end; the exit status. Raises EdgedError when it cannot start."""
    _start_logging(config.log.level)
    heap.keep(_KEEP_BYTES, _KEEP_PIECE_BYTES)
    with ExitStack() as stack:
        shelf = Shelf(Store(config.store), config.models)
        stack.callback(shelf.close)
        checked = check(config, shelf)
        for name, model in checked.versions.unusable.items():
            log.error("model %s cannot be served: %s", name, model.reason)
        recorder = None
        if record is not None:
            try:
                file = stack.enter_context(record.open("w", encoding="utf-8"))
            except OSError as error:
                raise InvalidArgument(f"cannot record to {record}: {error.strerror}") from error
            recorder = Recorder(file, config.scheduler.choice, config.memory.choice)
        loop = Loop(
            config,
            checked.versions,
            shelf,
            checked.worker,
            notifier=Notifier(),
            recorder=recorder,
            profile=checked.profile,
        )
        return loop.run()


def _start_logging(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    if is_journal(sys.stderr.fileno()):
        handler.setFormatter(JournalFormatter())  # which adds the time and the name itself
    else:
        handler.setFormatter(logging.Formatter("edged: %(levelname)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
