"""Limits of the scheduler, and how it is to decide. Values only."""

from __future__ import annotations

from typing import Literal

import msgspec

from edged.typeinfo import describe

WhenFull = Literal["reject", "drop-oldest"]
Streams = Literal["latest-frame", "fifo"]
Loading = Literal["partial", "greedy", "lru"]


class SchedulerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of the scheduler; the daemon's configuration fills them."""

    queue_rows: int = 256  # rows that wait for the device
    queue_bytes: int = 2**28  # size of their payloads
    staging_rows: int = 48  # rows that are prepared, staged or running
    staging_bytes: int = 2**27  # size of their payloads; a single request may be larger
    max_batch_rows: int = 16
    levels: int = 3  # number of priorities
    lanes: int = 0  # batches that run side by side; 0: as many as the device can
    max_attempts: int = 2  # runs of a request whose runs kill the device
    policy: str = "work-conserving"
    useful_batches: bool = True  # form no larger batches than the measured times say is useful
    when_full: WhenFull = "reject"
    streams: Streams = "latest-frame"


class MemorySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which models are on the device when they do not all fit its budget (docs/memory.md)."""

    policy: Loading = "partial"
    pinned: tuple[str, ...] = ()  # models that are never evicted
    max_wait_s: float = 10.0  # a model that was requested longer ago is loaded before all others


describe(SchedulerSettings, MemorySettings)
