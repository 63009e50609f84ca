"""Finds work on a device that nothing orders: a checker of happens-before by vector clocks.

Streams and the host are actors. An event carries what its stream knew when it was recorded to
whoever waits for it. Two uses of the same bytes, one of which writes, must be ordered so; if they
are not, the second one is refused when it is asked for, whatever the timing was. All threads of the
host are one actor: what they do to each other is not the device's concern. Knows no CUDA.

Lamport, Time, Clocks, and the Ordering of Events (1978); Mattern, Virtual Time (1989).
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from edged.backends.base import DeviceLost

Clock: TypeAlias = dict[int, int]  # how much of each actor's work is known to be done

HOST = 0  # the actor that gives streams their work


class Hazard(DeviceLost):
    """Work on a device that may meet other work on the same bytes, or bytes that are not there.

    Nothing that such a device holds can be trusted any more.
    """


class Span(NamedTuple):
    """Bytes by their address."""

    start: int
    size: int


class _Use(NamedTuple):
    start: int
    end: int
    writes: bool
    actor: int
    tick: int
    what: str


class _Region:
    """Bytes that were allocated together."""

    def __init__(self, span: Span, name: str) -> None:
        self.span = span
        self.name = name
        self.uses: list[_Use] = []  # those that later work may still meet


class Order:
    """Owns the clocks of all actors, and the latest uses of all bytes. Not thread-safe."""

    def __init__(self) -> None:
        self._clocks: dict[int, Clock] = {HOST: {}}
        self._regions: dict[int, _Region] = {}  # by start
        self._starts: list[int] = []  # sorted

    # --- memory ---------------------------------------------------------------------------------

    def add(self, span: Span, name: str) -> None:
        """Bytes were allocated."""
        self._regions[span.start] = _Region(span, name)
        insort(self._starts, span.start)

    def remove(self, start: int) -> None:
        """Bytes were given back. Raises Hazard if they were not allocated."""
        if self._regions.pop(start, None) is None:
            raise Hazard(f"nothing was allocated at {start:#x}, or it was given back before")
        self._starts.remove(start)

    def name(self, span: Span) -> str:
        """What to call these bytes. Raises Hazard if nothing holds all of them."""
        region = self._region(span)
        begin = span.start - region.span.start
        return f"{region.name}[{begin}:{begin + span.size}]"

    def _region(self, span: Span) -> _Region:
        at = bisect_right(self._starts, span.start)
        if at:
            region = self._regions[self._starts[at - 1]]
            if span.start + span.size <= region.span.start + region.span.size:
                return region
        raise Hazard(f"{span.size} bytes at {span.start:#x} are not allocated")

    # --- what is ordered ------------------------------------------------------------------------

    def give(self, stream: int) -> None:
        """The host gives a stream its next work, after all that the host knows of."""
        _join(self._clocks.setdefault(stream, {}), self._clocks[HOST])

    def snapshot(self, stream: int) -> Clock:
        """What is done once a stream has come so far: an event records it."""
        return dict(self._clocks.setdefault(stream, {}))

    def wait(self, actor: int, known: Clock) -> None:
        """What the actor does from now on comes after all that an event has recorded."""
        _join(self._clocks.setdefault(actor, {}), known)

    def use(
        self, actor: int, what: str, reads: Sequence[Span] = (), writes: Sequence[Span] = ()
    ) -> None:
        """Work of an actor on some bytes. Raises Hazard unless it is ordered with all before."""
        clock = self._clocks.setdefault(actor, {})
        tick = clock[actor] = clock.get(actor, 0) + 1
        for spans, is_write in ((reads, False), (writes, True)):
            for span in spans:
                if span.size:
                    one = _Use(span.start, span.start + span.size, is_write, actor, tick, what)
                    self._note(one, span, clock)

    def _note(self, one: _Use, span: Span, clock: Clock) -> None:
        region = self._region(span)
        kept = []
        for other in region.uses:
            is_before = other.tick <= clock.get(other.actor, 0)
            if not is_before and _meet(one, other):
                raise Hazard(
                    f"{one.what} {_verb(one)} {self.name(span)}, which {other.what} may still "
                    f"{_verb(other).rstrip('s')}: an event is missing between them"
                )
            if not (is_before and _replaces(one, other)):
                kept.append(other)
        kept.append(one)
        region.uses = kept


def _meet(one: _Use, other: _Use) -> bool:
    """Whether they use the same bytes, and not both only read them."""
    return (one.writes or other.writes) and one.start < other.end and other.start < one.end


def _replaces(one: _Use, other: _Use) -> bool:
    """Whether whatever meets the other, which came before, meets this one as well."""
    covers = one.start <= other.start and other.end <= one.end
    return covers and (one.writes or not other.writes)


def _verb(use: _Use) -> str:
    return "writes" if use.writes else "reads"


def _join(clock: Clock, known: Clock) -> None:
    for actor, tick in known.items():
        if tick > clock.get(actor, 0):
            clock[actor] = tick
