"""Between the scheduler's words and the worker's, where one says all that the other needs. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edged.core.events import (
    BatchDone,
    BatchFailed,
    BlockLoaded,
    BlockLoadFailed,
    BlockUnloaded,
    Calibrate,
    Discard,
    Event,
    Load,
    Prepared,
    PrepareFailed,
    Run,
    Unload,
)
from edged.link import messages as link


def _prepared(message: link.Prepared) -> Event:
    return Prepared(message.rid, message.prepare_us / 1e6)


def _prepare_failed(message: link.PrepareFailed) -> Event:
    return PrepareFailed(message.rid, message.code, message.message)


def _batch_done(message: link.BatchDone) -> Event:
    return BatchDone(
        message.batch,
        message.infer_us / 1e6,
        message.output_us / 1e6,
        message.prepare_us / 1e6,
    )


def _batch_failed(message: link.BatchFailed) -> Event:
    return BatchFailed(message.batch, message.code, message.message)


def _loaded(message: link.Loaded) -> Event:
    return BlockLoaded(message.block, message.bytes_used, message.load_us / 1e6)


def _load_failed(message: link.LoadFailed) -> Event:
    return BlockLoadFailed(message.block, message.code, message.message)


def _unloaded(message: link.Unloaded) -> Event:
    return BlockUnloaded(message.block)


def _calibrate(command: Calibrate) -> link.ToWorker:
    return link.Calibrate(command.model, command.rows)


def _run(command: Run) -> link.ToWorker:
    members = tuple([link.Member(m.rid, m.models) for m in command.members])
    return link.Run(command.batch, members, command.wide)


def _load(command: Load) -> link.ToWorker:
    return link.Load(command.block)


def _unload(command: Unload) -> link.ToWorker:
    return link.Unload(command.block)


def _discard(command: Discard) -> link.ToWorker:
    return link.Discard(command.rid)


# What the scheduler is told of a message of the worker.
EVENTS: dict[type, Callable[[Any], Event]] = {
    link.Prepared: _prepared,
    link.PrepareFailed: _prepare_failed,
    link.BatchDone: _batch_done,
    link.BatchFailed: _batch_failed,
    link.Loaded: _loaded,
    link.LoadFailed: _load_failed,
    link.Unloaded: _unloaded,
}

# What the worker is told of a command.
ORDERS: dict[type, Callable[[Any], link.ToWorker]] = {
    Run: _run,
    Load: _load,
    Unload: _unload,
    Discard: _discard,
    Calibrate: _calibrate,
}
