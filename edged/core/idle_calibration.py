"""When the device measures what batches take: in idle moments, one run after the other.

A model is measured when its blocks are on the device. Knows no times of batches: the device says
when it has measured enough of a model.
"""

from __future__ import annotations

from math import inf

from edged.core.batches.device import Device
from edged.core.events import Calibrate, Calibrated, DeviceDown, DeviceUp, Library
from edged.core.residency.memory import DeviceMemory
from edged.core.residency.needs import Need

QUIET_S = 0.25  # without any request before the next run; whoever asks again soon is not held up


class IdleCalibration:
    """Owns the list of models that are still to be measured."""

    def __init__(self, memory: DeviceMemory, device: Device) -> None:
        self.open: dict[str, None] = {}  # models to be measured, in the order of the library
        self._memory = memory
        self._device = device
        self._groups: set[str] = set()  # first blocks of all models
        self._running: Need | None = None  # of the model that a run is made of: its blocks stay
        self._quiet_s = inf  # since when there is nothing else to do

    @property
    def wakeup_s(self) -> float:
        """When to ask for the next run though nothing happens."""
        return inf if self._running is not None or not self.open else self._quiet_s + QUIET_S

    def handle(self, event: Library | DeviceUp | DeviceDown | Calibrated) -> None:
        """Learn what is to be measured, and what has been; the device has learnt it before."""
        if isinstance(event, Library):
            self.open = {model.name: None for model in event.models if not model.measured}
            # What could not be measured is not known either: its batches begin small all the same.
            self._groups = {model.blocks[0] for model in event.models}
        elif self._running is not None:
            self._running.in_use -= 1
            self._running = None
            self._device.lanes.is_calibrating = False
        if isinstance(event, DeviceUp | DeviceDown):
            self._quiet_s = inf  # nothing is quiet before a device is there
        if isinstance(event, Calibrated):
            self._device.costs.know(event.costs)
            if event.done:
                self.open.pop(event.model, None)
        self._device.costs.learn(self._groups)

    def stop(self) -> None:
        """Measure nothing more: the daemon shuts down."""
        self.open.clear()

    def next(self, now: float, *, idle: bool) -> list[Calibrate]:
        """The run to make now, if there is one. `idle`: whether the device has no request."""
        if not idle or self._memory.loads.is_busy:
            self._quiet_s = inf
            return []
        self._quiet_s = min(self._quiet_s, now)
        if self._running is not None or now < self._quiet_s + QUIET_S:
            return []
        model = next((name for name in self.open if self._is_there(name)), None)
        if model is None:
            self._quiet_s = inf  # an event will say that one has been loaded
            return []
        self._running = self._memory.residency.models[model]
        self._running.in_use += 1
        self._device.lanes.is_calibrating = True
        return [Calibrate(model, self._memory.ledger.batch_rows)]

    def _is_there(self, model: str) -> bool:
        need = self._memory.residency.models.get(model)
        return need is not None and not need.missing and model in self._memory.wanted.served
