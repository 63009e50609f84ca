"""The daemon: a front process that owns sockets and scheduler, and its device worker."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from edged import heap, profiles
from edged.config import Config, cores
from edged.daemon.loop import Loop
from edged.daemon.recording import Recorder
from edged.daemon.shelf import Shelf
from edged.daemon.versions import Versions
from edged.device.settings import Settings as WorkerSettings
from edged.errors import ConfigError, InvalidArgument
from edged.profiles.form import Profile, microbatches
from edged.store import Store
from edged.systemd import JournalFormatter, Notifier, is_journal

log = logging.getLogger("edged")

_KEEP_BYTES, _KEEP_PIECE_BYTES = 32 << 20, 16 << 20  # of freed payloads, for those that come next


def serve(config: Config, *, record: Path | None = None) -> int:
    """Run until told to end; the exit status. Raises EdgedError when it cannot start."""
    _start_logging(config.log.level)
    heap.keep(_KEEP_BYTES, _KEEP_PIECE_BYTES)
    profile = None if config.device.profile is None else profiles.read(config.device.profile)
    with ExitStack() as stack:
        shelf = Shelf(Store(config.store), config.models)
        stack.callback(shelf.close)
        versions = Versions(shelf.read())
        for name, model in versions.unusable.items():
            log.error("model %s cannot be served: %s", name, model.reason)
        recorder = None
        if record is not None:
            try:
                file = stack.enter_context(record.open("w", encoding="utf-8"))
            except OSError as error:
                raise InvalidArgument(f"cannot record to {record}: {error.strerror}") from error
            recorder = Recorder(file, config.scheduler, config.memory.choice)
        loop = Loop(
            config,
            versions,
            shelf,
            worker_settings(config, [*versions.served, *versions.unusable], profile),
            notifier=Notifier(),
            recorder=recorder,
            profile=profile,
        )
        return loop.run()


def _start_logging(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    if is_journal(sys.stderr.fileno()):
        handler.setFormatter(JournalFormatter())  # which adds the time and the name itself
    else:
        handler.setFormatter(logging.Formatter("edged: %(levelname)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])


def worker_settings(
    config: Config, models: Iterable[str], profile: Profile | None = None
) -> WorkerSettings:
    """What every worker is told, with automatic values filled in. `models`: that the daemon has."""
    device = config.device
    if unknown := sorted(set(config.memory.pinned) - set(models)):
        raise ConfigError(
            f"memory.pinned: {unknown[0]!r} is not served: name models of the store, and in "
            "`models` if that is set"
        )
    return WorkerSettings(
        store=str(Path(config.store).absolute()),
        cache_dir=str(Path(device.cache_dir).absolute()),
        backend=device.backend,
        options=device.options,
        threads=device.threads or cores(),
        prepare_threads=device.prepare_threads or cores(),
        max_batch_rows=config.scheduler.max_batch_rows,
        staging_rows=config.scheduler.staging_rows,
        max_pixels=config.limits.max_pixels,
        time_models=profile is None,
        microbatches={} if profile is None else microbatches(profile),
    )
