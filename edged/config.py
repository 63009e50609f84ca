"""The daemon's configuration: TOML into frozen typed values. Unknown keys are refused.

Every key has a default and its unit in its name; configs/edged.toml lists them all with comments.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edged import wire
from edged.bounds import (
    Bytes,
    BytesOrNone,
    Count,
    Levels,
    ModelName,
    PathText,
    Rows,
    RowSeconds,
    Seconds,
    Threads,
    explained,
)
from edged.cgroups import processors
from edged.core.settings import Memory as MemorySettings
from edged.core.settings import Settings as SchedulerSettings
from edged.endpoints import Endpoint, Tcp, clash, parse
from edged.errors import ConfigError, InvalidArgument
from edged.options import Name as BackendName
from edged.options import parse as parse_options
from edged.policies import find as find_policy
from edged.typeinfo import describe
from edged.uplink.grants import Settings as Uplink
from edged.wire import DEFAULT_ENDPOINT

MAX_CONFIG_BYTES = 2**20
LEAST_BUDGET_BYTES = 2**26  # with less, front and worker would not start
_WIRE, _SCHEDULER = wire.Limits(), SchedulerSettings()
_FrameBytes: TypeAlias = Annotated[int, Meta(ge=4_096, le=2**30)]
_Items: TypeAlias = Annotated[int, Meta(ge=1, le=256)]  # that the header of a request may list

_EndpointText: TypeAlias = Annotated[str, Meta(max_length=256)]

_SAYS = {  # what msgspec's word on these keys leaves out
    "$.server.socket_mode": "three octal digits, the owner's 6 or 7, as 0660",
    "$.store": "a path",
    "$.device.cache_dir": "a path",
}


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Server(_Section, frozen=True):
    """Sockets and the life of the daemon."""

    endpoints: Annotated[tuple[_EndpointText, ...], Meta(max_length=64)] = (DEFAULT_ENDPOINT,)
    socket_mode: Annotated[str, Meta(pattern=r"^0?[67][0-7]{2}\Z")] = "0660"  # of ipc sockets
    shared_memory: bool = True  # for payloads of clients on this host
    allow_plain_tcp: bool = False  # listen beyond loopback without encryption
    default_timeout_s: Seconds = 30.0  # of requests that bring none
    # Priority of requests that bring none; 0 is the most urgent.
    default_level: Annotated[int, Meta(ge=0, le=99)] = 1
    client_timeout_s: Seconds = 10.0  # silence after which a client that pings counts as gone
    drain_timeout_s: Seconds = 30.0  # for accepted requests, after SIGTERM
    admin: _EndpointText | None = None  # None: beside the first ipc endpoint, as .admin; "": none

    @property
    def socket_permissions(self) -> int:
        """`socket_mode` as a number."""
        return int(self.socket_mode, 8)

    @property
    def parsed_endpoints(self) -> tuple[Endpoint, ...]:
        """Raises ConfigError for one that is none."""
        return tuple(_parsed("server.endpoints", endpoint) for endpoint in self.endpoints)

    @property
    def parsed_admin(self) -> Endpoint | None:
        """Where administrators connect, if they can. Raises ConfigError, likewise."""
        admin = self.admin_endpoint
        return None if admin is None else _parsed("server.admin", admin)

    @property
    def admin_endpoint(self) -> str | None:
        """Where administrators connect, if they can."""
        if self.admin is not None:
            return self.admin or None
        ipc = [endpoint for endpoint in self.endpoints if endpoint.startswith("ipc://")]
        return f"ipc://{Path(ipc[0][len('ipc://') :]).with_suffix('.admin')}" if ipc else None


class Limits(wire.Limits, frozen=True, forbid_unknown_fields=True):
    """As the wire has them, with bounds; there newer fields are passed over, here they are
    mistakes.
    """

    max_message_bytes: _FrameBytes = _WIRE.max_message_bytes
    max_header_bytes: _FrameBytes = _WIRE.max_header_bytes
    # Of the smallest request: operation, header, payload.
    max_frames: Annotated[int, Meta(ge=3, le=65_536)] = _WIRE.max_frames
    max_rows: Rows = _WIRE.max_rows
    max_pixels: Annotated[int, Meta(ge=1, le=2**30)] = _WIRE.max_pixels
    max_inputs: _Items = _WIRE.max_inputs
    max_outputs: _Items = _WIRE.max_outputs
    max_classification: Count = _WIRE.max_classification
    max_priority: Levels = _WIRE.max_priority
    max_timeout_us: Annotated[int, Meta(ge=1_000, le=86_400_000_000)] = _WIRE.max_timeout_us
    max_in_flight: Count = _WIRE.max_in_flight
    max_shared_bytes: Bytes = _WIRE.max_shared_bytes


class OlderSmooth(_Section, frozen=True):
    """The table of older files, which are still read. Its first three keys are without effect: the
    policies take these times from the device. The others now stand in the name of the policy."""

    prepare_workers: Count | None = None
    prepare_s: RowSeconds | None = None
    head_s: RowSeconds | None = None
    window_s: Seconds | None = None
    beat_s: Seconds | None = None


class Scheduler(SchedulerSettings, frozen=True, forbid_unknown_fields=True):
    """As the scheduler has them, with bounds; a simulation may go beyond them."""

    queue_rows: Annotated[int, Meta(ge=1, le=2**20)] = _SCHEDULER.queue_rows
    queue_bytes: Bytes = _SCHEDULER.queue_bytes
    staging_rows: Rows = _SCHEDULER.staging_rows
    staging_bytes: Bytes = _SCHEDULER.staging_bytes
    max_batch_rows: Rows = _SCHEDULER.max_batch_rows
    levels: Levels = _SCHEDULER.levels
    lanes: Threads = _SCHEDULER.lanes
    max_attempts: Annotated[int, Meta(ge=1, le=100)] = _SCHEDULER.max_attempts
    policy: Annotated[str, Meta(max_length=64)] = _SCHEDULER.policy
    smooth: OlderSmooth | msgspec.UnsetType = msgspec.UNSET

    @property
    def choice(self) -> SchedulerSettings:
        """The scheduler's part, with the older keys in the place where they stand today."""
        policy = self.policy
        if self.smooth is not msgspec.UNSET and policy.startswith("smooth") and ":" not in policy:
            older = {"window_s": self.smooth.window_s, "beat_s": self.smooth.beat_s}
            given = [f"{key}={value}" for key, value in older.items() if value is not None]
            policy += ":" + ",".join(given) if given else ""
        names = SchedulerSettings.__struct_fields__
        return SchedulerSettings(**{n: getattr(self, n) for n in names} | {"policy": policy})


class Device(_Section, frozen=True):
    """The worker process."""

    backend: BackendName = "onnxruntime"
    options: dict[str, Any] = {}  # of the backend
    threads: Threads = 0  # of one batch; 0: as many as the daemon may use
    prepare_threads: Threads = 0  # that decode images; 0: likewise
    cache_dir: PathText = "/var/cache/edged"  # blocks prepared for this host
    profile: PathText | None = None  # of `edged profile`; None: measure at the start
    # While there is work processors enter no idle state that takes longer to leave; None: any.
    idle_latency_us: Annotated[int, Meta(ge=0, le=1_000_000_000)] | None = None
    # For loading and warming up.
    start_timeout_s: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 300.0
    # That a batch may take at least; then the worker is restarted.
    hang_timeout_s: Annotated[float, Meta(ge=0.1, le=86_400.0)] = 10.0


class Memory(MemorySettings, frozen=True, forbid_unknown_fields=True):
    """What front and worker may take together, and which models are there when not all fit."""

    pinned: Annotated[tuple[ModelName, ...], Meta(max_length=4096)] = ()
    max_wait_s: Seconds = 10.0
    budget_bytes: BytesOrNone = 0  # 0: what the control group and the machine allow
    reserve_bytes: BytesOrNone = 67_108_864  # of these two, left free

    @property
    def choice(self) -> MemorySettings:
        """The scheduler's part."""
        return MemorySettings(self.policy, self.pinned, self.max_wait_s)


class Log(_Section, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(_Section, frozen=True):
    """All of it. Times in seconds, memory in bytes, batches and queues in rows."""

    store: PathText = "/var/lib/edged/store"
    # None: every model of the store.
    models: Annotated[tuple[ModelName, ...], Meta(min_length=1, max_length=4096)] | None = None
    server: Server = Server()
    limits: Limits = Limits()
    scheduler: Scheduler = Scheduler()
    uplink: Uplink = Uplink()
    device: Device = Device()
    memory: Memory = Memory()
    log: Log = Log()

    def published_limits(self) -> Limits:
        """The limits of one request, as the scheduler's settings narrow them."""
        return msgspec.structs.replace(
            self.limits,
            max_rows=min(self.limits.max_rows, self.scheduler.max_batch_rows),
            max_priority=self.scheduler.levels,
        )


def cores() -> int:
    """Processors that this process may use."""
    return processors()


def read(path: Path) -> Config:
    """The configuration in `path`. Raises ConfigError that names the file and the key."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a configuration that exists") from error
    if len(text) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path} has more than {MAX_CONFIG_BYTES} bytes: name a configuration")
    try:
        return decode(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def decode(text: bytes) -> Config:
    """The configuration in a TOML text. Relative paths are left as they are. Raises ConfigError.

    The machine is not looked at: that is for `edged.daemon.preflight`.
    """
    try:
        config = msgspec.toml.decode(text, type=Config)
    except msgspec.ValidationError as error:
        raise ConfigError(explained(error, Config, _SAYS)) from error
    except RecursionError as error:
        raise ConfigError("brackets are nested too deep: no key needs that") from error
    except ValueError as error:  # no TOML, no UTF-8, or a number of thousands of digits
        raise ConfigError(str(error)) from error
    _check(config)
    return config


def _check(config: Config) -> None:
    """How keys have to go together. What one of them may be is in its type."""
    server, scheduler = config.server, config.scheduler
    parse_options(config.device.backend, config.device.options)
    _check_uplink(config)
    if config.memory.policy == "independent":
        raise ConfigError(
            "memory.policy: independent is a baseline of `edged simulate`; a device holds a block "
            "once: take partial, greedy or lru"
        )
    if 0 < config.memory.budget_bytes < LEAST_BUDGET_BYTES:
        raise ConfigError(
            f"memory.budget_bytes is {config.memory.budget_bytes}: it must be 0 (what the control "
            f"group and the machine leave), or {LEAST_BUDGET_BYTES} at least"
        )
    try:
        find_policy(scheduler.choice.policy)
    except InvalidArgument as error:
        raise ConfigError(f"scheduler.policy: {error}") from error
    if server.default_level >= scheduler.levels:
        raise ConfigError(
            f"server.default_level is {server.default_level}: with scheduler.levels = "
            f"{scheduler.levels} it must be 0 to {scheduler.levels - 1}"
        )
    if scheduler.staging_rows < scheduler.max_batch_rows:
        raise ConfigError(
            f"scheduler.staging_rows is {scheduler.staging_rows}: it must hold at least one batch "
            f"of scheduler.max_batch_rows = {scheduler.max_batch_rows}"
        )
    if scheduler.queue_bytes < config.limits.max_message_bytes:
        raise ConfigError(
            f"scheduler.queue_bytes is {scheduler.queue_bytes}: it must hold at least one message "
            f"of limits.max_message_bytes = {config.limits.max_message_bytes}"
        )
    _check_endpoints(server)


def _check_uplink(config: Config) -> None:
    uplink = config.uplink
    if uplink.gather_s >= uplink.max_lease_s:
        raise ConfigError(
            f"uplink.gather_s is {uplink.gather_s}: it must be below uplink.max_lease_s = "
            f"{uplink.max_lease_s}"
        )
    shares_out = uplink.rate_bytes_s > 0
    if (
        shares_out
        and not config.limits.max_message_bytes <= uplink.max_client_bytes <= uplink.max_bytes
    ):
        raise ConfigError(
            f"uplink.max_client_bytes is {uplink.max_client_bytes}: it must be at least "
            f"limits.max_message_bytes = {config.limits.max_message_bytes}, and at most "
            f"uplink.max_bytes = {uplink.max_bytes}"
        )


def _check_endpoints(server: Server) -> None:
    if not server.endpoints:
        raise ConfigError("server.endpoints is empty: name at least one, as ipc:///run/edged.sock")
    endpoints = server.parsed_endpoints
    if both := clash(endpoints):
        raise ConfigError(f"server.endpoints: two of them would take {both}: name each once")
    if server.admin and not server.admin.startswith("ipc://"):
        raise ConfigError(
            f"server.admin is {server.admin!r}: it must begin with ipc://, where the file system "
            "says who may connect"
        )
    admin = server.parsed_admin
    if admin is not None and (both := clash((*endpoints, admin))):
        where = "is one" if server.admin is None else f"is {server.admin!r}, as one"
        raise ConfigError(
            f"server.admin {where} of server.endpoints, or would take the same file ({both}): "
            "name two"
        )
    for text, endpoint in zip(server.endpoints, endpoints, strict=True):
        if isinstance(endpoint, Tcp) and not (endpoint.is_loopback or server.allow_plain_tcp):
            raise ConfigError(
                f"server.endpoints: {text!r} is open to the network without encryption; "
                "set server.allow_plain_tcp = true if that network is trusted"
            )


def _parsed(key: str, text: str) -> Endpoint:
    try:
        return parse(text)
    except InvalidArgument as error:
        raise ConfigError(f"{key}: {error}") from error


describe(Config)
