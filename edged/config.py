"""The daemon's configuration: TOML into frozen typed values. Unknown keys are refused.

Every key has a default, its bounds in its type, and its unit in its name. configs/edged.toml has
the keys that most daemons set, configs/edged.full.toml has all of them.
"""

from __future__ import annotations

import re
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
    Seconds,
    Threads,
    explained,
)
from edged.cgroups import processors
from edged.core.settings import MemorySettings, SchedulerSettings
from edged.endpoints import Endpoint, Tcp, clash, parse
from edged.errors import ConfigError, InvalidArgument
from edged.options import Name as BackendName
from edged.options import parse as parse_options
from edged.policies import find as find_policy
from edged.typeinfo import describe
from edged.uplink.grants import UplinkSettings
from edged.wire import DEFAULT_ENDPOINT

MAX_CONFIG_BYTES = 2**20
LEAST_BUDGET_BYTES = 2**26  # with less, front and worker would not start
_WIRE, _SCHEDULER = wire.Limits(), SchedulerSettings()
_FrameBytes: TypeAlias = Annotated[int, Meta(ge=4_096, le=2**30)]
_Items: TypeAlias = Annotated[int, Meta(ge=1, le=256)]  # number of items in a request's header
_EndpointText: TypeAlias = Annotated[str, Meta(max_length=256)]
_Bind: TypeAlias = Annotated[
    str, Meta(max_length=256, pattern=r"^(/[^\x00]+|[^\x00/]+:[0-9]{1,5})\Z")
]

# What a key may be, where msgspec's message does not say it well.
_SAYS = {
    "$.server.socket_mode": "three octal digits, the owner's 6 or 7, as 0660",
    "$.server.endpoints": "name at least one, as ipc:///run/edged.sock",
    "$.server.admin": "it must begin with ipc://, where the file system says who may connect",
    "$.store": "a path",
    "$.device.cache_dir": "a path",
    "$.metrics.bind": "an address and a port, as 127.0.0.1:9464, or the path of a socket",
    "$.memory.policy": "take partial, greedy or lru; independent is a baseline of edged simulate, "
    "since a device holds a block once",
}

# Keys of earlier versions, and what they are called now.
_RENAMED = {
    "$.scheduler.lanes": "scheduler.max_lanes",
    "$.scheduler.smooth": 'scheduler.policy, as "smooth:window_s=1,beat_s=0.1"',
}


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class ServerConfig(_Section, frozen=True):
    """Sockets and the life of the daemon."""

    endpoints: Annotated[tuple[_EndpointText, ...], Meta(min_length=1, max_length=64)] = (
        DEFAULT_ENDPOINT,
    )
    socket_mode: Annotated[str, Meta(pattern=r"^0?[67][0-7]{2}\Z")] = "0660"  # mode of ipc sockets
    shared_memory: bool = True  # clients on this host may share memory for their payloads
    allow_plain_tcp: bool = False  # listen beyond loopback without encryption
    default_timeout_s: Seconds = 30.0  # time-out of requests that bring none
    # Priority of requests that bring none; 0 is the most urgent.
    default_level: Annotated[int, Meta(ge=0, le=99)] = 1
    client_timeout_s: Seconds = 10.0  # silence after which a client that pings counts as gone
    drain_timeout_s: Seconds = 30.0  # time to answer accepted requests after SIGTERM
    # Where administrators connect; None: beside the first ipc endpoint, as .admin; "": nowhere.
    admin: Annotated[str, Meta(max_length=256, pattern=r"^(ipc://[^\x00]*)?\Z")] | None = None

    # What administrators say of models is kept here over a restart; None: in the directory that
    # systemd gives the service (StateDirectory=), and without one nowhere.
    state_dir: PathText | None = None

    @property
    def socket_permissions(self) -> int:
        """`socket_mode` as a number."""
        return int(self.socket_mode, 8)

    @property
    def parsed_endpoints(self) -> tuple[Endpoint, ...]:
        """The endpoints, parsed. Raises ConfigError."""
        return tuple(_parsed("server.endpoints", endpoint) for endpoint in self.endpoints)

    @property
    def parsed_admin(self) -> Endpoint | None:
        """Where administrators connect, parsed; None: nowhere. Raises ConfigError."""
        admin = self.admin_endpoint
        return None if admin is None else _parsed("server.admin", admin)

    @property
    def admin_endpoint(self) -> str | None:
        """Where administrators connect; None: nowhere."""
        if self.admin is not None:
            return self.admin or None
        ipc = [endpoint for endpoint in self.endpoints if endpoint.startswith("ipc://")]
        return f"ipc://{Path(ipc[0][len('ipc://') :]).with_suffix('.admin')}" if ipc else None


class LimitsConfig(wire.Limits, frozen=True, forbid_unknown_fields=True):
    """The limits of one request, with bounds. A client ignores a limit that it does not know; here
    an unknown one is a mistake.
    """

    max_message_bytes: _FrameBytes = _WIRE.max_message_bytes
    max_header_bytes: _FrameBytes = _WIRE.max_header_bytes
    # The smallest request has three frames: operation, header, payload.
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


class SchedulerConfig(
    SchedulerSettings, frozen=True, forbid_unknown_fields=True, rename={"lanes": "max_lanes"}
):
    """The scheduler's settings, with bounds; a simulation may go beyond them."""

    queue_rows: Annotated[int, Meta(ge=1, le=2**20)] = _SCHEDULER.queue_rows
    queue_bytes: Bytes = _SCHEDULER.queue_bytes
    staging_rows: Rows = _SCHEDULER.staging_rows
    staging_bytes: Bytes = _SCHEDULER.staging_bytes
    max_batch_rows: Rows = _SCHEDULER.max_batch_rows
    levels: Levels = _SCHEDULER.levels
    lanes: Threads = _SCHEDULER.lanes
    max_attempts: Annotated[int, Meta(ge=1, le=100)] = _SCHEDULER.max_attempts
    policy: Annotated[str, Meta(max_length=64)] = _SCHEDULER.policy

    @property
    def settings(self) -> SchedulerSettings:
        """The settings as the scheduler and a recording name them."""
        names = SchedulerSettings.__struct_fields__
        return SchedulerSettings(**{name: getattr(self, name) for name in names})


class DeviceConfig(_Section, frozen=True):
    """The worker process."""

    backend: BackendName = "onnxruntime"
    options: dict[str, Any] = {}  # the backend's own options: edged.options
    threads: Threads = 0  # threads that compute one batch; 0: as many as the daemon may use
    prepare_threads: Threads = 0  # threads that decode images; 0: as many as the daemon may use
    cache_dir: PathText = "/var/cache/edged"  # blocks prepared for this host
    profile: PathText | None = None  # a file of `edged profile`; None: measure in idle moments
    # While there is work processors enter no idle state that takes longer to leave; None: any.
    idle_latency_us: Annotated[int, Meta(ge=0, le=1_000_000_000)] | None = None
    # Time to start a worker, and to prepare and load a block for the first time.
    start_timeout_s: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 300.0
    # The worker is restarted when a batch takes longer than this and than its measured times allow.
    hang_timeout_s: Annotated[float, Meta(ge=0.1, le=86_400.0)] = 10.0


class MemoryConfig(MemorySettings, frozen=True, forbid_unknown_fields=True):
    """How much memory front and worker may take together, and which models are loaded when not all
    of them fit.
    """

    policy: Literal["partial", "greedy", "lru"] = "partial"
    pinned: Annotated[tuple[ModelName, ...], Meta(max_length=4096)] = ()
    max_wait_s: Seconds = 10.0
    budget_bytes: BytesOrNone = 0  # 0: what the control group and the machine allow
    reserve_bytes: BytesOrNone = 67_108_864  # memory of the group and the machine that stays free

    @property
    def choice(self) -> MemorySettings:
        """The scheduler's part."""
        return MemorySettings(self.policy, self.pinned, self.max_wait_s)


class MetricsConfig(_Section, frozen=True):
    """Where Prometheus finds metrics."""

    bind: _Bind | None = None  # ADDRESS:PORT, or the path of a socket; None: nowhere

    @property
    def parsed_bind(self) -> Endpoint | None:
        """Where metrics are served, parsed; None: nowhere. Raises ConfigError."""
        if self.bind is None:
            return None
        scheme = "ipc" if self.bind.startswith("/") else "tcp"
        return _parsed("metrics.bind", f"{scheme}://{self.bind}")


class LogConfig(_Section, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(_Section, frozen=True):
    """The whole configuration. Times in seconds, memory in bytes, batches and queues in rows."""

    store: PathText = "/var/lib/edged/store"
    # None: every model of the store.
    models: Annotated[tuple[ModelName, ...], Meta(min_length=1, max_length=4096)] | None = None
    server: ServerConfig = ServerConfig()
    limits: LimitsConfig = LimitsConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    uplink: UplinkSettings = UplinkSettings()
    device: DeviceConfig = DeviceConfig()
    memory: MemoryConfig = MemoryConfig()
    metrics: MetricsConfig = MetricsConfig()
    log: LogConfig = LogConfig()

    def published_limits(self) -> LimitsConfig:
        """The limits of one request, which the scheduler's settings narrow."""
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

    `edged.daemon.preflight` checks it against the machine.
    """
    try:
        config = msgspec.toml.decode(text, type=Config)
    except msgspec.ValidationError as error:
        raise ConfigError(_renamed(error) or explained(error, Config, _SAYS)) from error
    except RecursionError as error:
        raise ConfigError("brackets are nested too deep: no key needs that") from error
    except ValueError as error:  # no TOML, no UTF-8, or a number of thousands of digits
        raise ConfigError(str(error)) from error
    _check(config)
    return config


def _renamed(error: msgspec.ValidationError) -> str | None:
    """What to say of a key that is called otherwise now; None: the error is another one."""
    found = re.fullmatch(r"Object contains unknown field `(\w+)` - at `(.+)`", str(error))
    new = found and _RENAMED.get(f"{found[2]}.{found[1]}")
    return f"{found[2][2:]}.{found[1]} is called {new} now: write that" if found and new else None


def _check(config: Config) -> None:
    """Check how keys go together. What one key may be is in its type, but for two: a budget may be
    0 or large, and only the policies know the names of policies.
    """
    server, scheduler = config.server, config.scheduler
    parse_options(config.device.backend, config.device.options)
    _check_uplink(config)
    if 0 < config.memory.budget_bytes < LEAST_BUDGET_BYTES:
        raise ConfigError(
            f"memory.budget_bytes is {config.memory.budget_bytes}: it must be 0 (what the control "
            f"group and the machine leave), or {LEAST_BUDGET_BYTES} at least"
        )
    try:
        find_policy(scheduler.policy)
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
    _check_metrics(config)


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


def _check_endpoints(server: ServerConfig) -> None:
    endpoints = server.parsed_endpoints
    if both := clash(endpoints):
        raise ConfigError(f"server.endpoints: two of them would take {both}: name each once")
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


def _check_metrics(config: Config) -> None:
    bind, server = config.metrics.parsed_bind, config.server
    if bind is None:
        return
    admin = server.parsed_admin
    if both := clash((*server.parsed_endpoints, *([admin] if admin else []), bind)):
        raise ConfigError(
            f"metrics.bind is {config.metrics.bind!r}, and {both} is taken by server.endpoints or "
            "server.admin: name another"
        )
    if not isinstance(bind, Tcp) or bind.is_loopback:
        return
    if not server.allow_plain_tcp:
        raise ConfigError(
            f"metrics.bind: {config.metrics.bind!r} is open to the network, and whoever connects "
            "may read all metrics; set server.allow_plain_tcp = true if that network is trusted"
        )
    if not bind.is_address:
        raise ConfigError(
            f"metrics.bind: {bind.host!r} is the name of an interface: write its address, or *"
        )


def _parsed(key: str, text: str) -> Endpoint:
    try:
        return parse(text)
    except InvalidArgument as error:
        raise ConfigError(f"{key}: {error}") from error


describe(Config)
