"""The bounded queue of requests for which the device has no room yet: who goes next, who leaves.

The queue is counted in rows, and in bytes of what the front keeps for them. Priority levels are
strict; inside a level the clients take turns, by rows, so a flood of one client delays only itself.
When the queue is full, a newcomer may push others out: requests of a lower level always, and within
its own level those of the client that holds most (longest queue drop), if that client holds more
than the newcomer's would. What a client holds is its share of the rows or of the bytes, whichever
is larger (dominant resource fairness: Ghodsi et al., NSDI 2011). Under `drop-oldest` a client may
push out its own oldest requests. A newcomer that still does not fit pushes nobody out.

A line holds its requests on shelves, one for each need. A shelf is parked while its need is not on
the device: its requests keep their places and count as waiting, but take no turns. Every operation
but the return of a job is O(clients + shelves of one client) at most, however many requests wait.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator
from operator import attrgetter
from typing import NamedTuple

from msgspec import Struct, field

from edged.core.events import Request
from edged.core.requests.fairness import rows_ahead
from edged.core.requests.job import Job
from edged.core.residency.needs import Need
from edged.core.settings import SchedulerSettings

_place = attrgetter("place")


class Admitted(NamedTuple):
    """Whether an arrival is in the queue, and who had to leave for it; nobody if it is not."""

    admitted: bool
    superseded: list[Job]  # older frames of the same stream
    pushed_out: list[Job]  # requests of others, or older ones of the same client


class _Shelf(Struct, eq=False):
    """The waiting jobs of one client, level and need, oldest first."""

    jobs: OrderedDict[int, Job] = field(default_factory=OrderedDict[int, Job])
    rows: int = 0

    def oldest(self) -> Job:
        return next(iter(self.jobs.values()))

    def newest(self) -> Job:
        return next(reversed(self.jobs.values()))


class _Line(Struct, eq=False):
    """The waiting jobs of one client at one level."""

    shelves: dict[Need | None, _Shelf] = {}
    runnable: dict[Need | None, _Shelf] = {}  # the shelves that take turns
    rows: int = 0
    bytes: int = 0
    debt: int = 0  # rows served beyond one a turn; turns are skipped until it is paid

    def newest(self) -> Job:
        return max((shelf.newest() for shelf in self.shelves.values()), key=_place)


def _oldest(shelves: dict[Need | None, _Shelf]) -> Job:
    if len(shelves) == 1:
        (shelf,) = shelves.values()
        return shelf.oldest()
    return min((shelf.oldest() for shelf in shelves.values()), key=_place)


class WaitingQueue:
    """Owns the waiting jobs. Knows no time, no deadlines and no device."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self._capacity_rows = settings.queue_rows
        self.capacity_bytes = settings.queue_bytes  # may change at any time
        self._when_full = settings.when_full
        self._streams = settings.streams
        self._levels: list[dict[int, _Line]] = [{} for _ in range(settings.levels)]
        # The clients of each level that have something to run, in the order of their turns.
        self._turns: list[deque[int]] = [deque() for _ in range(settings.levels)]
        self._level_rows = [0] * settings.levels  # rows that are not parked
        self._last_place = 0
        self._first_place = 0
        self._latest: dict[tuple[int, str], Job] = {}  # newest of each client and stream
        self.rows = 0
        self.bytes = 0
        self.parked_rows = 0

    def __iter__(self) -> Iterator[Job]:
        for lines in self._levels:
            for line in lines.values():
                for shelf in line.shelves.values():
                    yield from shelf.jobs.values()

    def push(self, job: Job) -> Admitted:
        """Admit `job` if there is, or can fairly be made, room for it."""
        request = job.request
        superseded: list[Job] = []
        if request.stream is not None and self._streams == "latest-frame":
            older = self._latest.get((request.client, request.stream))
            if older is not None:
                self.remove(older)
                superseded.append(older)
        pushed_out: list[Job] = []
        while not self.has_room(request):
            victim = self._victim(job)
            if victim is None:
                for gone in reversed([*superseded, *pushed_out]):
                    self._insert(gone, gone.place)
                return Admitted(False, [], [])
            self.remove(victim)
            pushed_out.append(victim)
        self._last_place += 1
        self._append(job, self._last_place)
        return Admitted(True, superseded, pushed_out)

    def has_room(self, request: Request) -> bool:
        """Whether it fits beside what waits; alone, any does."""
        return (
            not self.rows
            or self._share(self.rows + request.rows, self.bytes + request.payload_bytes) <= 1.0
        )

    def rows_ahead_of(self, request: Request) -> int:
        """The most rows that go before a newcomer's."""
        level = request.level
        line = self._levels[level].get(request.client)
        own = request.rows + (line.rows if line is not None else 0)
        return rows_ahead(self._level_rows, level, own, len(self._turns[level]))

    def put_back(self, job: Job) -> None:
        """Return a job that was admitted before, ahead of its client's others."""
        self._first_place -= 1
        self._insert(job, self._first_place)

    def remove(self, job: Job) -> None:
        """Take a job out of the queue."""
        request, need = job.request, job.need
        line = self._levels[request.level][request.client]
        del line.shelves[need].jobs[request.rid]
        self._count(line, job, -1)
        if need is not None:
            need.remove(request)
        if request.stream is not None and self._latest.get((request.client, request.stream)) is job:
            del self._latest[request.client, request.stream]
        if not line.shelves[need].jobs:
            self._take_down(line, need, request)

    def _count(self, line: _Line, job: Job, sign: int) -> None:
        """Count the rows and bytes of a job that comes (1) or leaves (-1)."""
        request = job.request
        rows, size = sign * request.rows, sign * request.payload_bytes
        line.shelves[job.need].rows += rows
        line.rows += rows
        line.bytes += size
        self.rows += rows
        self.bytes += size
        if job.need in line.runnable:
            self._level_rows[request.level] += rows
        else:
            self.parked_rows += rows

    def park(self, need: Need) -> None:
        """The need is not on the device any more: its requests take no turns until `unpark`."""
        for level, client, line in self._lines_with(need):
            shelf = line.runnable.pop(need, None)
            if shelf is not None:
                self._level_rows[level] -= shelf.rows
                self.parked_rows += shelf.rows
                if not line.runnable:
                    self._turns[level].remove(client)

    def unpark(self, need: Need) -> None:
        """The need is on the device."""
        for level, client, line in self._lines_with(need):
            if need not in line.runnable:
                shelf = line.shelves[need]
                self._level_rows[level] += shelf.rows
                self.parked_rows -= shelf.rows
                if not line.runnable:
                    self._turns[level].append(client)
                line.runnable[need] = shelf

    def shelve(self, job: Job, need: Need) -> None:
        """Give a job that waits a need; its place in the line stays."""
        place = job.place
        self.remove(job)
        job.need = need
        self._append(job, place)

    def peek(self, may_go: Callable[[Request], bool]) -> Job | None:
        """The job whose turn it is. A client whose oldest job may not go is passed over, for others
        of its level only."""
        if self.rows == self.parked_rows:
            return None
        for lines, turns in zip(self._levels, self._turns, strict=True):
            if not turns:
                continue
            for _ in range(len(turns)):
                while (line := lines[turns[0]]).debt > 0 and len(turns) > 1:
                    line.debt -= 1
                    turns.rotate(-1)
                job = _oldest(line.runnable)
                if may_go(job.request):
                    return job
                turns.rotate(-1)
            return None
        return None

    def take(self, job: Job) -> None:
        """Remove the job that `peek` showed and pass the turn on."""
        turns = self._turns[job.request.level]
        self._levels[job.request.level][job.request.client].debt += job.request.rows - 1
        turns.rotate(-1)
        self.remove(job)

    def _append(self, job: Job, place: int) -> None:
        request, need = job.request, job.need
        job.place = place
        line = self._levels[request.level].get(request.client)
        if line is None:
            line = self._levels[request.level][request.client] = _Line()
        shelf = line.shelves.get(need)
        if shelf is None:
            shelf = line.shelves[need] = _Shelf()
            if need is None or not need.missing:
                if not line.runnable:
                    self._turns[request.level].append(request.client)
                line.runnable[need] = shelf
        shelf.jobs[request.rid] = job
        self._count(line, job, 1)
        if need is not None:
            need.add(request, job.arrived_s)
        if request.stream is not None:
            self._latest[request.client, request.stream] = job

    def _insert(self, job: Job, place: int) -> None:
        """Return a job that was removed to its place in its line."""
        self._append(job, place)
        shelf = self._levels[job.request.level][job.request.client].shelves[job.need]
        shelf.jobs = OrderedDict(sorted(shelf.jobs.items(), key=lambda item: item[1].place))

    def _take_down(self, line: _Line, need: Need | None, request: Request) -> None:
        """Remove an empty shelf, and the client's turns and line with the last one."""
        del line.shelves[need]
        if line.runnable.pop(need, None) is not None and not line.runnable:
            self._turns[request.level].remove(request.client)
        if not line.shelves:
            del self._levels[request.level][request.client]

    def _lines_with(self, need: Need) -> list[tuple[int, int, _Line]]:
        return [
            (level, client, line)
            for level, lines in enumerate(self._levels)
            for client, line in lines.items()
            if need in line.shelves
        ]

    def _victim(self, job: Job) -> Job | None:
        """Who leaves for `job`: the newest of the longest line of the lowest level, if that is
        fair; else, under `drop-oldest`, the oldest of the same client; else nobody."""
        request = job.request
        own = self._levels[request.level].get(request.client, _Line())
        needed = self._share(request.rows, request.payload_bytes)
        held = self._share(own.rows, own.bytes)
        together = self._share(own.rows + request.rows, own.bytes + request.payload_bytes)
        for level in range(len(self._levels) - 1, request.level - 1, -1):
            lines = self._levels[level].values()
            longest = max(lines, key=lambda line: self._share(line.rows, line.bytes), default=None)
            if longest is None:
                continue
            if level > request.level or self._share(longest.rows, longest.bytes) > together:
                return longest.newest()
        if self._when_full == "drop-oldest" and held >= needed:
            return _oldest(own.shelves)
        return None

    def _share(self, rows: int, size: int) -> float:
        """Share of the queue: the larger of the shares of its rows and of its bytes."""
        return max(rows / self._capacity_rows, size / self.capacity_bytes)

    def validate(self, jobs: Collection[Job]) -> None:
        """Check the counts against the jobs that wait. Raises AssertionError."""
        assert {id(job) for job in self} == {id(job) for job in jobs}, "jobs in the queue"
        assert self.rows == sum(job.request.rows for job in jobs), "rows in the queue"
        assert self.bytes == sum(job.request.payload_bytes for job in jobs), "bytes in the queue"
        assert sum(self._level_rows) + self.parked_rows == self.rows, "rows by level"
        for level, turns in zip(self._levels, self._turns, strict=True):
            runnable = [client for client, line in level.items() if line.runnable]
            assert sorted(turns) == sorted(runnable), "clients that take turns"
        lines = [line for level in self._levels for line in level.values()]
        assert sum(line.rows for line in lines) == self.rows, "rows of all lines"
        assert sum(line.bytes for line in lines) == self.bytes, "bytes of all lines"
