"""Admission: the bounded queue of requests that the device has not heard of yet.

Counted in rows. Priority levels are strict; inside a level the clients take turns, by rows, so a
flood of one client delays only itself. When the queue is full, room is made at the expense of the
lowest level and of the client that holds most of it (longest queue drop), and never at the
expense of a client that holds less than the newcomer's. Every operation is O(clients) at most,
whatever the number of requests.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from edged.core.events import Request
from edged.core.job import Job
from edged.core.settings import Streams, WhenFull


class Admission(NamedTuple):
    """What became of an arrival: who had to leave for it, and whether it is in."""

    admitted: bool
    superseded: list[Job]  # older frames of the same stream
    pushed_out: list[Job]  # requests of others, or older ones of the same client


@dataclass(slots=True, eq=False)
class _Line:
    """The waiting jobs of one client at one level, oldest first."""

    jobs: OrderedDict[int, Job] = field(default_factory=OrderedDict)
    rows: int = 0
    debt: int = 0  # rows served beyond one a turn; turns are skipped until it is paid


class WaitingQueue:
    """Owns the waiting jobs. Does not know time, deadlines or the device."""

    def __init__(
        self,
        capacity_rows: int,
        levels: int,
        *,
        when_full: WhenFull = "reject",
        streams: Streams = "latest-frame",
    ) -> None:
        self._capacity_rows = capacity_rows
        self._when_full = when_full
        self._streams = streams
        self._levels: list[dict[int, _Line]] = [{} for _ in range(levels)]
        self._turns: list[deque[int]] = [deque() for _ in range(levels)]  # clients with a line
        self._level_rows = [0] * levels
        self._latest: dict[tuple[int, str], Job] = {}
        self.rows = 0

    def __bool__(self) -> bool:
        return self.rows > 0

    def __iter__(self) -> Iterator[Job]:
        for lines in self._levels:
            for line in lines.values():
                yield from line.jobs.values()

    def push(self, job: Job) -> Admission:
        """Admit `job` if there is, or can fairly be made, room for it."""
        request = job.request
        superseded: list[Job] = []
        if request.stream is not None and self._streams == "latest-frame":
            older = self._latest.get((request.client, request.stream))
            if older is not None:
                self.remove(older)
                superseded.append(older)
        pushed_out: list[Job] = []
        while self.rows + request.rows > self._capacity_rows:
            victim = self._victim(job)
            if victim is None:
                return Admission(False, superseded, pushed_out)
            self.remove(victim)
            pushed_out.append(victim)
        self._append(job)
        return Admission(True, superseded, pushed_out)

    def rows_ahead_of(self, request: Request) -> int:
        """At most how many rows go before a newcomer's: all of higher levels, and of its own
        level no more of each client than of its own, since the clients take turns."""
        level = request.level
        higher = sum(self._level_rows[:level])
        turns = (self._rows_of(request) + request.rows) * len(self._turns[level])
        return higher + min(self._level_rows[level], turns)

    def put_back(self, job: Job) -> None:
        """Return a job that was admitted before, ahead of its client's others."""
        self._append(job)
        self._levels[job.request.level][job.request.client].jobs.move_to_end(
            job.request.rid, last=False
        )

    def remove(self, job: Job) -> None:
        request = job.request
        lines = self._levels[request.level]
        line = lines[request.client]
        del line.jobs[request.rid]
        line.rows -= request.rows
        self._level_rows[request.level] -= request.rows
        self.rows -= request.rows
        if request.stream is not None and self._latest.get((request.client, request.stream)) is job:
            del self._latest[request.client, request.stream]
        if not line.jobs:
            del lines[request.client]
            self._turns[request.level].remove(request.client)

    def peek(self) -> Job | None:
        """The job whose turn it is."""
        for lines, turns in zip(self._levels, self._turns, strict=True):
            if not turns:
                continue
            while (line := lines[turns[0]]).debt > 0 and len(turns) > 1:
                line.debt -= 1
                turns.rotate(-1)
            return next(iter(line.jobs.values()))
        return None

    def pop(self) -> Job:
        """Take the job that `peek` showed and pass the turn on."""
        job = self.peek()
        if job is None:
            raise IndexError("pop from an empty queue: this is a bug")
        turns = self._turns[job.request.level]
        self._levels[job.request.level][job.request.client].debt += job.request.rows - 1
        turns.rotate(-1)
        self.remove(job)
        return job

    def _append(self, job: Job) -> None:
        request = job.request
        lines = self._levels[request.level]
        line = lines.get(request.client)
        if line is None:
            line = lines[request.client] = _Line()
            self._turns[request.level].append(request.client)
        line.jobs[request.rid] = job
        line.rows += request.rows
        self._level_rows[request.level] += request.rows
        self.rows += request.rows
        if request.stream is not None:
            self._latest[request.client, request.stream] = job

    def _victim(self, job: Job) -> Job | None:
        """Who leaves for `job`: the newest of the longest line of the lowest level, if that is
        fair; else, under `drop-oldest`, the oldest of the same client; else nobody."""
        request = job.request
        for level in range(len(self._levels) - 1, request.level - 1, -1):
            lines = self._levels[level]
            if not lines:
                continue
            client = max(lines, key=lambda c: lines[c].rows)
            if level > request.level or lines[client].rows > self._rows_of(request) + request.rows:
                return next(reversed(lines[client].jobs.values()))
        if self._when_full == "drop-oldest" and self._rows_of(request) >= request.rows:
            return next(iter(self._levels[request.level][request.client].jobs.values()))
        return None

    def _rows_of(self, request: Request) -> int:
        line = self._levels[request.level].get(request.client)
        return line.rows if line is not None else 0
