"""The daemon: a front process that owns sockets and scheduler, and its device worker."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path

from edged import logs, malloc
from edged.config import Config
from edged.daemon.loop import Loop
from edged.daemon.models.held_store import HeldStore
from edged.daemon.preflight import check, check_blocks, chosen, worker_settings
from edged.errors import EdgedError, InvalidArgument
from edged.observe.recording import Recorder
from edged.store import Store
from edged.systemd import Notifier

__all__ = ["serve", "worker_settings"]

log = logging.getLogger("edged")

# Freed payloads that the front keeps: the next ones take their place without asking the kernel.
_KEEP_BYTES, _KEEP_PIECE_BYTES = 32 << 20, 16 << 20


def serve(config: Config, *, record: Path | None = None) -> int:
    """Run until told to end; the exit status. Raises EdgedError when it cannot start."""
    logs.begin(config.log.level)
    malloc.keep(_KEEP_BYTES, _KEEP_PIECE_BYTES)
    notifier = Notifier()
    config, why = chosen(config, lambda seconds: notifier.starting(within_s=2 * seconds))
    if why:
        log.info("%s", why)
    with ExitStack() as stack:
        held = HeldStore(Store(config.store), config.models)
        stack.callback(held.close)
        checked = check(config, held)
        for name, model in checked.versions.unusable.items():
            log.error("model %s cannot be served: %s", name, model.reason, extra={"model": name})
        loop = Loop(
            config,
            checked.versions,
            held,
            checked.worker,
            notifier=notifier,
            recorder=None if record is None else _recorder(record, config, stack),
            profile=checked.profile,
        )
        try:
            return loop.run()
        except EdgedError as error:
            if type(error) is EdgedError:  # all that a worker can say of a damaged store
                check_blocks(config)
            raise


def _recorder(path: Path, config: Config, stack: ExitStack) -> Recorder:
    try:
        file = stack.enter_context(path.open("w", encoding="utf-8"))
    except OSError as error:
        raise InvalidArgument(f"cannot record to {path}: {error.strerror}") from error
    return Recorder(file, config.scheduler.settings, config.memory.choice)
