"""The daemon's configuration: TOML into frozen typed values. Unknown keys are refused.

Every key has a default and its unit in its name; configs/edged.toml lists them all with comments.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edged import wire
from edged.cgroups import processors
from edged.core.batching import policy
from edged.core.grants import Settings as Uplink
from edged.core.settings import Memory as MemorySettings
from edged.core.settings import Settings as SchedulerSettings
from edged.errors import ConfigError, InvalidArgument
from edged.wire import DEFAULT_ENDPOINT

_LOOPBACK = ("tcp://127.", "tcp://[::1]:", "tcp://localhost:")


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Server(_Section, frozen=True):
    """Sockets and the life of the daemon."""

    endpoints: tuple[str, ...] = (DEFAULT_ENDPOINT,)
    socket_mode: str = "0660"  # of ipc sockets, octal
    shared_memory: bool = True  # for payloads of clients on this host
    allow_plain_tcp: bool = False  # listen beyond loopback without encryption
    default_timeout_s: float = 30.0  # of requests that bring none
    default_level: int = 1  # priority of requests that bring none; 0 is the most urgent
    client_timeout_s: float = 10.0  # silence after which a client that pings counts as gone
    drain_timeout_s: float = 30.0  # for accepted requests, after SIGTERM
    admin: str | None = None  # None: beside the first ipc endpoint, named .admin; "": none

    @property
    def admin_endpoint(self) -> str | None:
        """Where administrators connect, if they can."""
        if self.admin is not None:
            return self.admin or None
        ipc = [endpoint for endpoint in self.endpoints if endpoint.startswith("ipc://")]
        return f"ipc://{Path(ipc[0][len('ipc://') :]).with_suffix('.admin')}" if ipc else None


class Limits(wire.Limits, frozen=True, forbid_unknown_fields=True):
    """As the wire has them; there newer fields are passed over, here they are mistakes."""


class Device(_Section, frozen=True):
    """The worker process."""

    backend: str = "onnxruntime"
    options: dict[str, Any] = {}  # of the backend
    threads: int = 0  # of one batch; 0: as many as the daemon may use
    prepare_threads: int = 0  # that decode images; 0: likewise
    cache_dir: str = "/var/cache/edged"  # blocks prepared for this host
    profile: str | None = None  # of `edged profile`; None: measure at the start
    # While there is work processors enter no idle state that takes longer to leave; None: any.
    idle_latency_us: Annotated[int, Meta(ge=0, le=1_000_000_000)] | None = None
    start_timeout_s: float = 300.0  # loading and warming up
    hang_timeout_s: float = 10.0  # that a batch may take at least; then the worker is restarted


class Memory(MemorySettings, frozen=True, forbid_unknown_fields=True):
    """What front and worker may take together, and which models are there when not all fit."""

    budget_bytes: int = 0  # 0: what the control group and the machine allow
    reserve_bytes: int = 67_108_864  # of these two, left free

    @property
    def choice(self) -> MemorySettings:
        """The scheduler's part."""
        return MemorySettings(self.policy, self.pinned, self.max_wait_s)


class Log(_Section, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(_Section, frozen=True):
    """All of it. Times in seconds, memory in bytes, batches and queues in rows."""

    store: str = "/var/lib/edged/store"
    models: tuple[str, ...] | None = None  # None: every model of the store
    server: Server = Server()
    limits: Limits = Limits()
    scheduler: SchedulerSettings = SchedulerSettings()
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
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a configuration that exists") from error
    try:
        return decode(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def decode(text: bytes) -> Config:
    """The configuration in a TOML text. Relative paths are left as they are. Raises ConfigError."""
    try:
        config = msgspec.toml.decode(text, type=Config)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(error)) from error
    _check(config)
    return config


def _check(config: Config) -> None:
    server, device, scheduler = config.server, config.device, config.scheduler
    positive: dict[str, float] = {
        "server.default_timeout_s": server.default_timeout_s,
        "server.client_timeout_s": server.client_timeout_s,
        "server.drain_timeout_s": server.drain_timeout_s,
        "device.start_timeout_s": device.start_timeout_s,
        "device.hang_timeout_s": device.hang_timeout_s,
        **{
            f"scheduler.{name}": getattr(scheduler, name)
            for name in (
                *("queue_rows", "queue_bytes", "staging_rows", "staging_bytes"),
                *("max_batch_rows", "levels", "max_attempts"),
            )
        },
        "memory.max_wait_s": config.memory.max_wait_s,
        "uplink.max_lease_s": config.uplink.max_lease_s,
        "uplink.stall_s": config.uplink.stall_s,
        **{
            f"limits.{name}": value for name, value in msgspec.structs.asdict(config.limits).items()
        },
    }
    for name, value in positive.items():
        if not 0 < value < float("inf"):
            raise ConfigError(f"{name} is {value}: it must be above 0 and finite")
    automatic = {
        "device.threads": device.threads,
        "device.prepare_threads": device.prepare_threads,
        "memory.budget_bytes": config.memory.budget_bytes,
        "memory.reserve_bytes": config.memory.reserve_bytes,
    }
    for name, count in automatic.items():
        if count < 0:
            raise ConfigError(f"{name} is {count}: it must be 0 or more")
    _check_uplink(config)
    if config.memory.policy == "independent":
        raise ConfigError(
            "memory.policy: independent is a baseline of `edged simulate`; a device holds a block "
            "once: take partial, greedy or lru"
        )
    try:
        policy(scheduler.policy)
    except InvalidArgument as error:
        raise ConfigError(f"scheduler.policy: {error}") from error
    if not 0 <= server.default_level < scheduler.levels:
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
    if uplink.rate_bytes_s < 0:
        raise ConfigError(
            f"uplink.rate_bytes_s is {uplink.rate_bytes_s}: it must be 0 (not shared out) or more"
        )
    if not 0 <= uplink.gather_s < uplink.max_lease_s:
        raise ConfigError(
            f"uplink.gather_s is {uplink.gather_s}: it must be 0 or more, and below "
            f"uplink.max_lease_s = {uplink.max_lease_s}"
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
    try:
        int(server.socket_mode, 8)
    except ValueError as error:
        raise ConfigError(
            f"server.socket_mode is {server.socket_mode!r}: write it in octal, as 0660"
        ) from error
    if server.admin and not server.admin.startswith("ipc://"):
        raise ConfigError(
            f"server.admin is {server.admin!r}: it must begin with ipc://, where the file system "
            "says who may connect"
        )
    if server.admin_endpoint in server.endpoints:
        raise ConfigError(f"server.admin is {server.admin!r}, as one of server.endpoints: name two")
    for endpoint in server.endpoints:
        if not endpoint.startswith(("ipc://", "tcp://")):
            raise ConfigError(f"server.endpoints: {endpoint!r} must begin with ipc:// or tcp://")
        if (
            endpoint.startswith("tcp://")
            and not endpoint.startswith(_LOOPBACK)
            and not server.allow_plain_tcp
        ):
            raise ConfigError(
                f"server.endpoints: {endpoint!r} is open to the network without encryption; "
                "set server.allow_plain_tcp = true if that network is trusted"
            )
