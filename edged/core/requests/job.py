"""The scheduler's record of one request between its arrival and its one answer."""

from __future__ import annotations

from enum import Enum, auto

from msgspec import Struct

from edged.core.events import Request
from edged.core.residency.needs import Need


class Stage(Enum):
    WAITING = auto()  # in the bounded queue; the device has not heard of it
    PREPARING = auto()  # the device is decoding it into staging rows
    STAGED = auto()  # its rows are in staging memory; parts are ready, running or done


class Job(Struct, eq=False):
    """Mutable, owned by the scheduler alone."""

    request: Request
    arrived_s: float
    need: Need | None = None  # None: all that it needs is on the device for good
    place: int = 0  # in its client's line
    stage: Stage = Stage.WAITING
    answered: bool = False  # refused while the device still holds its rows
    open_parts: int = 0  # parts that have not run yet, running ones included
    running_parts: int = 0
    attempts: int = 0  # times that the device died with it
    solo: bool = False  # was in a batch that failed or killed the device: runs alone from now on
    prepare_s: float = 0.0
    infer_s: float = 0.0
    output_s: float = 0.0
    batch_rows: int = 0

    def restart(self) -> None:
        """Forget what a lost device had done for it."""
        self.stage = Stage.WAITING
        self.open_parts = len(self.request.parts)
        self.running_parts = 0
        self.prepare_s = self.infer_s = self.output_s = 0.0
        self.batch_rows = 0
