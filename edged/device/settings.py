"""What the front tells a device worker at its start, as JSON on the worker's standard input."""

from __future__ import annotations

from typing import Any

import msgspec

from edged.manifest import Manifest
from edged.typeinfo import describe


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that the worker needs to know; it reads no configuration and no environment."""

    store: str  # directory
    cache_dir: str  # of blocks prepared for this host
    models: tuple[str, ...] | None = None  # None: every model of the store
    manifests: dict[str, Manifest] = {}  # of these models, by key; empty: as the store says
    budget_bytes: int | None = None  # of this process, all of it; None: no limit
    backend: str = "onnxruntime"
    options: dict[str, Any] = {}  # of the backend
    threads: int = 1  # of one batch, within the backend
    prepare_threads: int = 1
    max_batch_rows: int = 8
    staging_rows: int = 64  # in each shape of input
    max_pixels: int = 50_000_000  # of an image, before it is decoded
    # Rows that blocks run at a time, where a profile says so; None: as was measured.
    microbatches: dict[str, int] | None = None
    report_block_runs: bool = False  # with each batch: what each block took
    log_level: str = "info"


class WorkerStart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole document: the settings, whose child the worker is, and what it talks by."""

    parent_pid: int
    # File descriptors that it inherits.
    orders: int  # to be read
    reports: int  # to be written
    settings: Settings


class Trial(msgspec.Struct, frozen=True):
    """What a process that only tries to open the backend has found; see edged.device.trial."""

    failure: tuple[str, str] | None = None  # code and message of the error; else:
    device: str = ""
    lanes: int = 1


describe(WorkerStart, Trial)
