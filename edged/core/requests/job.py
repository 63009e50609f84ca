"""One request from its arrival to its answer: the states that it can be in, and what it remembers.

`Jobs.move` is the only place that changes a job's state. The diagram in docs/architecture.md is
made from TRANSITIONS.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Literal, NamedTuple

from msgspec import Struct

from edged.core.events import Request
from edged.core.residency.needs import Need


class State(IntEnum):
    """Where a request is. The values count up from 0, so that a list can be indexed by them."""

    WAITING = 0  # it is in the bounded queue; the device has not been told of it
    PREPARING = 1  # the device decodes it into staging rows
    STAGED = 2  # its rows are in staging memory (if inline: soon), none of its parts in a batch
    RUNNING = 3  # some of its parts are in batches that were ordered
    DISCARDED = 4  # it was refused while the device prepared it; a Discard was ordered
    LEAVING = 5  # it was refused while some of its parts were in batches
    GONE = 6  # it is answered, and nothing is held for it


class Transition(NamedTuple):
    """A change of state, and what brings it about."""

    before: State
    after: State
    reason: str


TRANSITIONS = (
    Transition(State.WAITING, State.PREPARING, "there is room and its blocks are resident"),
    Transition(State.WAITING, State.STAGED, "the same, for an inline request"),
    Transition(State.WAITING, State.GONE, "refused"),
    Transition(State.PREPARING, State.STAGED, "Prepared"),
    Transition(State.PREPARING, State.DISCARDED, "refused"),
    Transition(State.PREPARING, State.GONE, "PrepareFailed"),
    Transition(State.PREPARING, State.WAITING, "DeviceDown"),
    Transition(State.STAGED, State.RUNNING, "Run"),
    Transition(State.STAGED, State.GONE, "refused"),
    Transition(State.STAGED, State.WAITING, "DeviceDown"),
    Transition(State.RUNNING, State.STAGED, "BatchFailed, or parts are left"),
    Transition(State.RUNNING, State.LEAVING, "refused"),
    Transition(State.RUNNING, State.GONE, "BatchDone of the last part, or BatchFailed alone"),
    Transition(State.RUNNING, State.WAITING, "DeviceDown"),
    Transition(State.DISCARDED, State.GONE, "Prepared, PrepareFailed or DeviceDown"),
    Transition(State.LEAVING, State.GONE, "the batches have ended, or DeviceDown"),
)

ON_DEVICE = [State.WAITING < state < State.GONE for state in State]


def _effect(before: State, after: State) -> Literal["forbidden", "none", "enters", "leaves"]:
    """What a change of state does to what the request holds on the device."""
    if not any((t.before, t.after) == (before, after) for t in TRANSITIONS):
        return "forbidden"
    if ON_DEVICE[before] is ON_DEVICE[after]:
        return "none"
    return "enters" if ON_DEVICE[after] else "leaves"


EFFECTS = [[_effect(before, after) for after in State] for before in State]


class Job(Struct, eq=False):
    """The scheduler's record of one request. `Jobs` owns it."""

    request: Request
    arrived_s: float
    need: Need | None = None  # None: all that it needs is on the device for good
    state: State = State.WAITING
    place: int = 0  # position in its client's line
    open_parts: int = 0  # number of parts that have not run to their end
    running_parts: int = 0  # number of parts that are in batches
    attempts: int = 0  # number of times that it was suspected when the device was lost
    solo: bool = False  # runs alone, since a batch with it has failed or killed the device
    unusable: bool = False  # its preparation has failed, so a batch that has it runs without it
    prepare_s: float = 0.0
    infer_s: float = 0.0
    output_s: float = 0.0
    batch_rows: int = 0  # rows of the largest batch that it was in

    @property
    def is_open(self) -> bool:
        """Whether it is owed an answer."""
        return self.state <= State.RUNNING

    def restart(self) -> None:
        """Forget what a lost device had done for it."""
        self.open_parts = len(self.request.parts)
        self.running_parts = 0
        self.prepare_s = self.infer_s = self.output_s = 0.0
        self.batch_rows = 0
