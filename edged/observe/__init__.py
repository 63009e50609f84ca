"""Observers of the scheduler: they see its events and commands, and change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edged.core.events import Command, Event


class Observer(Protocol):
    """Is told of each turn of the scheduler, when its commands have been carried out."""

    def turn(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        """`commands` are those that the event has led to. Never raises, and is quick."""
