"""What a start needs of this machine, looked at before anything is started.

`edged serve` calls `check` before it touches a socket. `edged check` calls the same function with
the rights of the account that runs it, and then `check_device` and `check_blocks`: what these find
out, the worker of a start finds out as it loads.
"""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from edged import options, profiles, wire
from edged.children import command
from edged.config import Config, cores
from edged.daemon.models.held_store import HeldStore, inspect
from edged.daemon.models.state_file import state_dir
from edged.daemon.models.versions import Versions
from edged.daemon.places import check_directory, check_endpoint, endpoints
from edged.device.choosing import BackendCandidate, choose
from edged.device.inputs import preparations
from edged.device.process import environment
from edged.device.settings import Settings as WorkerSettings
from edged.device.settings import Trial
from edged.errors import ConfigError, EdgedError, StoreError, Unavailable, from_code
from edged.manifest import Manifest
from edged.observe.awake import Awake
from edged.profiles.form import DeviceProfile, check_fits, microbatches
from edged.store import Store

_TRIAL_S = 120.0  # a device that does not come up within that time hangs


@dataclass(frozen=True, slots=True)
class Checked:
    """What the start goes on with."""

    versions: Versions
    worker: WorkerSettings
    profile: DeviceProfile | None


def check(config: Config, held: HeldStore) -> Checked:
    """Raises the EdgedError that the start would end with; its `start_status` says whether time
    may mend it. `held` then keeps the blocks of what would be served.
    """
    _check_models(config)
    versions = Versions(held.read())
    models = versions.models
    profile = _profile(config, models)
    versions.catalog()  # raises where no model can be served
    worker = worker_settings(config, [*versions.served, *versions.unusable], profile)
    _check_backend(config, models)
    _check_memory(config, models)
    if config.device.idle_latency_us is not None:
        Awake(config.device.idle_latency_us).close()
    if (directory := state_dir(config)) is not None:
        check_directory("server.state_dir", directory, "what administrators say")
    for key, endpoint in endpoints(config):
        check_endpoint(key, endpoint)
    return Checked(versions, worker, profile)


def check_device(checked: Checked) -> None:
    """Open the backend as a worker would, in a process of its own. Raises what a start would raise,
    also where the profile was measured on another device.
    """
    trial = _try_backend(checked.worker)
    if trial.failure is not None:
        raise from_code(*trial.failure)
    if checked.profile is not None:
        blocks = checked.versions.blocks
        check_fits(
            checked.profile,
            blocks,
            backend=checked.worker.backend,
            device=trial.device,
            machine=profiles.machine(),
            lanes=trial.lanes,
        )


def chosen(
    config: Config, before_s: Callable[[float], None] = lambda seconds: None
) -> tuple[Config, str]:
    """The configuration with a backend in the place of `auto`, and a line that says why this one;
    empty where a backend was named. `before_s` is told before each trial how long it may take."""
    if config.device.backend != "auto":
        return config, ""

    def with_backend(candidate: BackendCandidate) -> Config:
        device = msgspec.structs.replace(
            config.device, backend=candidate.backend, options=dict(candidate.options)
        )
        return msgspec.structs.replace(config, device=device)

    def attempt(candidate: BackendCandidate) -> str | None:
        try:
            options.check_installed(candidate.backend)
            if candidate.backend == "tensorrt" and importlib.util.find_spec("onnx") is None:
                return "onnx, which builds engines, is missing: pip install 'edged[tensorrt]'"
            before_s(_TRIAL_S)
            tried = _try_backend(worker_settings(with_backend(candidate), config.memory.pinned))
        except EdgedError as error:
            return str(error)
        return None if tried.failure is None else tried.failure[1]

    choice = choose(attempt)
    return with_backend(choice.candidate), choice.line


def _try_backend(settings: WorkerSettings) -> Trial:
    try:
        done = subprocess.run(
            command("edged.device.trial"),
            input=msgspec.json.encode(settings),
            stdout=subprocess.PIPE,
            env={**os.environ, **environment(settings)},
            timeout=_TRIAL_S,
        )
        return msgspec.json.decode(done.stdout, type=Trial)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(
            f"backend {settings.backend} did not come up within {_TRIAL_S:g} s"
        ) from error
    except OSError as error:  # no memory, or no more processes
        text = f"backend {settings.backend} cannot be tried: {error.strerror}"
        raise Unavailable(text) from error
    except msgspec.DecodeError as error:
        raise EdgedError(
            f"backend {settings.backend} does not come up: its process ended with status "
            f"{done.returncode}"
        ) from error


def check_blocks(config: Config) -> dict[str, str]:
    """Read every block. Returns the models that cannot be served, and why.

    Raises StoreError where not one model can be served.
    """
    return inspect(Store(config.store), config.models)


def worker_settings(
    config: Config, models: Iterable[str], profile: DeviceProfile | None = None
) -> WorkerSettings:
    """What every worker is told, with automatic values filled in. `models`: names of the models
    that the daemon has.
    """
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
        report_block_runs=config.metrics.bind is not None,
        log_level=config.log.level,
    )


def _check_models(config: Config) -> None:
    try:
        names = Store(config.store).names()
    except StoreError as error:
        raise type(error)(f"store: {error}") from error
    if unknown := sorted(set(config.models or ()) - set(names)):
        raise ConfigError(
            f"models: {unknown[0]!r} is not in the store at {config.store}; it has: "
            f"{', '.join(names) or 'none'}"
        )


def _profile(config: Config, models: Mapping[str, Manifest]) -> DeviceProfile | None:
    """The profile that the configuration names. The worker may still find that it was measured
    with another number of lanes or threads.
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


def _check_backend(config: Config, models: Mapping[str, Manifest]) -> None:
    device = config.device
    options.check_installed(device.backend)
    chosen = options.parse(device.backend, device.options)
    if isinstance(chosen, options.EmulatedOptions):
        try:
            _check_figures(options.figures(chosen), models)
        except ConfigError as error:
            raise ConfigError(f"device.options of backend emulated: {error}") from error
    on_cpu = isinstance(chosen, options.OnnxRuntimeOptions) and chosen.provider == "cpu"
    if on_cpu or isinstance(chosen, options.TensorRtOptions):
        check_directory("device.cache_dir", device.cache_dir, "prepared blocks")


def _check_figures(keys: Iterable[str], models: Mapping[str, Manifest]) -> None:
    """Raises ConfigError where an emulated device could run none of the models."""
    known = tuple("" if key == "*" else key for key in keys)
    lacking = [
        next((step.block for step in model.steps if not step.block.startswith(known)), None)
        for model in models.values()
    ]
    if all(lacking):
        raise ConfigError(
            f"no times for block {str(lacking[0])[:12]}: profile that block, or give times for * "
            "(all others)"
        )


def _check_memory(config: Config, models: Mapping[str, Manifest]) -> None:
    total_bytes = psutil.virtual_memory().total
    if config.memory.reserve_bytes >= total_bytes:
        raise ConfigError(
            f"memory.reserve_bytes is {config.memory.reserve_bytes}: this machine has "
            f"{total_bytes} bytes"
        )
    row_bytes = sum(_row_bytes(models.values()))
    rows = config.scheduler.staging_rows
    if rows * row_bytes > total_bytes:
        raise ConfigError(
            f"scheduler.staging_rows is {rows}: with rows of {row_bytes} bytes that is more than "
            f"the {total_bytes} bytes of this machine; at most {total_bytes // row_bytes} fit it"
        )


def _row_bytes(models: Iterable[Manifest]) -> Iterable[int]:
    """Bytes of one row of each shape of input; staging holds `staging_rows` of each."""
    shapes = {
        tuple((value.datatype, value.shape) for value in preparation.inputs)
        for preparation in preparations(models, images=False)
    }
    for inputs in shapes:
        yield sum(wire.ITEM_BYTES[datatype] * math.prod(shape) for datatype, shape in inputs)
