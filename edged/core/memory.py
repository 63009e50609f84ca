"""What is on the device: which models can be asked for, loaded, pinned and taken off again.

Where no Library was told, everything is on the device for good, and nothing here costs a thing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edged.core.events import (
    BlockLoaded,
    BlockLoadFailed,
    BlockUnloaded,
    Command,
    Library,
    LoadAsked,
    MemoryMeasured,
    PinAsked,
    Refuse,
    Request,
    Settled,
    UnloadAsked,
)
from edged.core.settings import Memory
from edged.errors import Code


class DeviceMemory:
    """Owns the account of the device's memory."""

    def __init__(self, settings: Memory) -> None:
        self._settings = settings
        self._models: dict[str, tuple[str, ...]] | None = None  # None: no library was told
        self._unloaded: set[str] = set()  # by an administrator

    def handle(self, event: Any, now: float, commands: list[Command]) -> None:
        """Take in an event of HANDLERS."""
        HANDLERS[type(event)](self, event, now, commands)

    def refusal(self, request: Request) -> Refuse | None:
        """Why the request's models cannot be served at present, if they cannot."""
        if not self._unloaded:
            return None
        for part in request.parts:
            for model in part.models:
                if model in self._unloaded:
                    text = f"model {model!r} is not loaded: edged load {model}"
                    return Refuse(request.rid, Code.UNAVAILABLE, text)
        return None

    def _on_library(self, event: Library, now: float, commands: list[Command]) -> None:
        self._models = {model.name: model.blocks for model in event.models}
        self._unloaded &= self._models.keys()

    def _on_load_asked(self, event: LoadAsked, now: float, commands: list[Command]) -> None:
        if self._knows(event.ask, event.model, commands):
            self._unloaded.discard(event.model)
            commands.append(Settled(event.ask))

    def _on_unload_asked(self, event: UnloadAsked, now: float, commands: list[Command]) -> None:
        if self._knows(event.ask, event.model, commands):
            self._unloaded.add(event.model)
            commands.append(Settled(event.ask))

    def _on_pin_asked(self, event: PinAsked, now: float, commands: list[Command]) -> None:
        if self._knows(event.ask, event.model, commands):
            commands.append(Settled(event.ask))

    def _on_change(self, event: Any, now: float, commands: list[Command]) -> None:
        pass

    def _knows(self, ask: int, model: str, commands: list[Command]) -> bool:
        known = self._models is not None and model in self._models
        if not known:
            commands.append(Settled(ask, Code.NOT_FOUND, f"there is no model {model!r}"))
        return known


HANDLERS: dict[type, Callable[[DeviceMemory, Any, float, list[Command]], None]] = {
    Library: DeviceMemory._on_library,
    BlockLoaded: DeviceMemory._on_change,
    BlockLoadFailed: DeviceMemory._on_change,
    BlockUnloaded: DeviceMemory._on_change,
    MemoryMeasured: DeviceMemory._on_change,
    LoadAsked: DeviceMemory._on_load_asked,
    UnloadAsked: DeviceMemory._on_unload_asked,
    PinAsked: DeviceMemory._on_pin_asked,
}
