"""Answers in the order of arrival: what ends early waits for what came before it.

A sequence has the requests of one client's stream, or those of a client without a stream. Only
requests that ask for the order are in one. Knows no queues and no device, only who came when and
what each is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from msgspec.structs import replace

from edged.core.events import Answer, Command, Refuse, Request
from edged.errors import Code

_Key: TypeAlias = "tuple[int, str | None]"  # client, stream


@dataclass(slots=True, eq=False)
class _Place:
    """One request in its sequence."""

    request: Request
    ending: Answer | Refuse | None = None  # None: it is still open
    ended_s: float = 0.0
    excused: bool = False  # its client has given it up: its answer need not wait

    def told(self, now: float) -> Answer | Refuse:
        """What to say now that its turn has come. The wait is queueing, and may be too long."""
        assert self.ending is not None, "an open request has no turn: this is a bug"
        if not isinstance(self.ending, Answer) or now == self.ended_s:
            return self.ending
        deadline_s = self.request.deadline_s
        if deadline_s is not None and deadline_s <= now:
            text = "the request's time-out has passed while its answer waited for its turn"
            return Refuse(self.request.rid, Code.DEADLINE_EXCEEDED, text)
        return replace(self.ending, queue_s=self.ending.queue_s + now - self.ended_s)


class AnswerOrder:
    """Owns the answers that wait for their turn. The first of a sequence never waits."""

    def __init__(self) -> None:
        self._sequences: dict[_Key, dict[int, _Place]] = {}  # their places, in the order of arrival
        self.places: dict[int, _Place] = {}  # empty while nobody asks for the order
        self.held = 0  # number of answers and refusals that wait

    def enter(self, request: Request) -> None:
        """Give an arrival its place at the end of its sequence."""
        place = self.places[request.rid] = _Place(request)
        self._sequences.setdefault(_key(request), {})[request.rid] = place

    def pass_on(self, commands: list[Command], now: float) -> list[Command]:
        """`commands` without the answers that have to wait, and with those whose turn it is."""
        passed: list[Command] = []
        for command in commands:
            if isinstance(command, Answer | Refuse) and command.rid in self.places:
                passed += self._end(command, now)
            else:
                passed.append(command)
        return passed

    def holds(self, rid: int) -> bool:
        """Whether the request has ended and its answer waits."""
        place = self.places.get(rid)
        return place is not None and place.ending is not None

    def excuse(self, rid: int) -> None:
        """Let the next answer to this request pass at once, in place of one that waits."""
        place = self.places.get(rid)
        if place is not None:
            place.excused = True

    def _end(self, ending: Answer | Refuse, now: float) -> Iterator[Command]:
        place = self.places[ending.rid]
        sequence = self._sequences[_key(place.request)]
        if place.excused:
            self._leave(place, sequence)
            yield ending
        else:
            place.ending, place.ended_s = ending, now
            self.held += 1
        while sequence and (first := next(iter(sequence.values()))).ending is not None:
            self._leave(first, sequence)
            yield first.told(now)
        if not sequence:
            del self._sequences[_key(place.request)]

    def validate(self, is_open: Callable[[int], bool]) -> None:
        """Check that the first of each sequence is owed its answer. Raises AssertionError."""
        assert self.held == sum(p.ending is not None for p in self.places.values()), "held answers"
        for sequence in self._sequences.values():
            first = next(iter(sequence.values()))
            assert first.ending is None, "an answer waits though it is its turn"
            assert is_open(first.request.rid), "a sequence waits for a request that has ended"

    def _leave(self, place: _Place, sequence: dict[int, _Place]) -> None:
        del sequence[place.request.rid], self.places[place.request.rid]
        self.held -= place.ending is not None


def _key(request: Request) -> _Key:
    return request.client, request.stream
