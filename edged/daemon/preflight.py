"""What a start needs of this machine, looked at before anything is started.

`edged check` and the start of `edged serve` call the same `check`, with the eyes of the account
that runs them, so that what is found good by the one is by the other. Nothing is kept: what it
tries out in a directory it takes away again. Other daemons are not looked for.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from edged import options, profiles, wire
from edged.config import Config, cores
from edged.daemon.models.held_store import Shelf
from edged.daemon.models.versions import Versions
from edged.device.inputs import preparations
from edged.device.settings import Settings as WorkerSettings
from edged.endpoints import Endpoint, Tcp
from edged.errors import ConfigError, StoreError, Unavailable
from edged.manifest import Manifest
from edged.observe.awake import Awake
from edged.profiles.form import Profile, check_fits, microbatches
from edged.store import Store


@dataclass(frozen=True, slots=True)
class Checked:
    """What the start goes on with."""

    versions: Versions
    worker: WorkerSettings
    profile: Profile | None


def check(config: Config, shelf: Shelf) -> Checked:
    """Raises ConfigError where the configuration is wrong here, or another EdgedError where the
    machine is not ready for it. The shelf then holds the blocks of what would be served.
    """
    _check_models(config)
    versions = Versions(shelf.read())
    models = versions.models
    profile = _profile(config, models)
    versions.catalog()  # raises where no model can be served
    worker = worker_settings(config, [*versions.served, *versions.unusable], profile)
    _check_backend(config)
    _check_memory(config, models)
    if config.device.idle_latency_us is not None:
        Awake(config.device.idle_latency_us).close()
    for endpoint in config.server.parsed_endpoints:
        _check_endpoint("server.endpoints", endpoint)
    if (admin := config.server.parsed_admin) is not None:
        _check_endpoint("server.admin", admin)
    return Checked(versions, worker, profile)


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
        microbatches=None if profile is None else microbatches(profile),
    )


def _check_models(config: Config) -> None:
    try:
        names = Store(config.store).names()
    except StoreError as error:
        raise StoreError(f"store: {error}") from error
    if unknown := sorted(set(config.models or ()) - set(names)):
        raise ConfigError(
            f"models: {unknown[0]!r} is not in the store at {config.store}; it has: "
            f"{', '.join(names) or 'none'}"
        )


def _profile(config: Config, models: Mapping[str, Manifest]) -> Profile | None:
    """The one that the configuration names. The worker may still find that it is of another number
    of lanes or threads.
    """
    if config.device.profile is None:
        return None
    try:
        profile = profiles.read(config.device.profile)
        check_fits(
            profile,
            {step.block for manifest in models.values() for step in manifest.steps},
            backend=config.device.backend,
            device=profile.device,
            machine=profiles.machine(),
            lanes=profile.lanes,
        )
    except ConfigError as error:
        raise ConfigError(f"device.profile: {error}") from error
    return profile


def _check_backend(config: Config) -> None:
    device = config.device
    options.check_installed(device.backend)
    chosen = options.parse(device.backend, device.options)
    if isinstance(chosen, options.Emulated):
        try:
            options.figures(chosen)
        except ConfigError as error:
            raise ConfigError(f"device.options of backend emulated: {error}") from error
    if isinstance(chosen, options.OnnxRuntime) and chosen.provider == "cpu":
        try:
            _try(Path(device.cache_dir))
        except OSError as error:
            raise ConfigError(
                f"device.cache_dir: prepared blocks cannot be kept in {device.cache_dir} "
                f"({error.strerror}): name a directory that the daemon may write"
            ) from error


def _check_memory(config: Config, models: Mapping[str, Manifest]) -> None:
    total_bytes = psutil.virtual_memory().total
    if config.memory.reserve_bytes >= total_bytes:
        raise ConfigError(
            f"memory.reserve_bytes is {config.memory.reserve_bytes}: this machine has "
            f"{total_bytes} bytes in all"
        )
    row_bytes = sum(_row_bytes(models.values()))
    rows = config.scheduler.staging_rows
    if rows * row_bytes > total_bytes:
        raise ConfigError(
            f"scheduler.staging_rows is {rows}: with rows of {row_bytes} bytes that is more than "
            f"the {total_bytes} bytes of this machine; at most {total_bytes // row_bytes} fit it"
        )


def _row_bytes(models: Iterable[Manifest]) -> Iterable[int]:
    """Of a row of each shape of input, of which staging holds so many."""
    shapes = {
        tuple((value.datatype, value.shape) for value in preparation.inputs)
        for preparation in preparations(models, images=False)
    }
    for inputs in shapes:
        yield sum(wire.ITEM_BYTES[datatype] * math.prod(shape) for datatype, shape in inputs)


# --- places -----------------------------------------------------------------------------------


def _check_endpoint(key: str, endpoint: Endpoint) -> None:
    if isinstance(endpoint, Tcp):
        _check_port(key, endpoint)
        return
    path = Path(endpoint.path).absolute()
    try:
        if not path.parent.exists() and not path.parent.parent.exists():
            raise Unavailable(
                f"{key}: there is no directory {path.parent.parent}: make it first, or name another"
            )
        _try(path.parent)
        is_taken = os.path.lexists(path) and not path.is_socket()
    except OSError as error:
        raise Unavailable(
            f"{key}: no socket can be made in {path.parent} ({error.strerror}): name a directory "
            "that the daemon may write"
        ) from error
    if is_taken:  # ZeroMQ would remove a file
        raise ConfigError(f"{key}: {path} is there, and is no socket: name another path")


def _check_port(key: str, endpoint: Tcp) -> None:
    """Whether this account could listen there, as far as another daemon does not."""
    if endpoint.host != "*" and endpoint.host in {name for _, name in socket.if_nameindex()}:
        return
    family = socket.AF_INET6 if endpoint.is_ipv6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(("" if endpoint.host == "*" else endpoint.address, endpoint.port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise Unavailable(
                f"{key}: cannot listen at tcp://{endpoint.host}:{endpoint.port} "
                f"({error.strerror}): name an address of this machine, and a port that the "
                "daemon's account may take"
            ) from error


def _try(directory: Path) -> None:
    """Whether files can be made in it, or, if it is not there, it can be made. Raises OSError."""
    directory = directory.absolute()
    if not directory.exists():
        directory = next(parent for parent in directory.parents if parent.exists())
    with tempfile.TemporaryDirectory(prefix=".edged-", dir=directory):
        pass
