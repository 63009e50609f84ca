"""The parts that lie in staging memory and wait for the device, by group and level.

Small by construction: staging memory bounds it, so looking through it is cheap.
"""

from __future__ import annotations

from bisect import insort

from msgspec import Struct

from edged.core.events import Part
from edged.core.requests.job import Job
from edged.core.requests.turns import Turns


class ReadyPart(Struct, frozen=True, eq=False):
    turn: int  # of its client; inside a level the lower goes first
    order: int  # of becoming ready; inside a turn the lower goes first
    ready_s: float
    job: Job
    part: Part
    rows: int

    @property
    def alone(self) -> bool:
        return self.job.solo or self.part.alone


def _place(ready: ReadyPart) -> tuple[int, int]:
    return ready.turn, ready.order


class ReadyGroup:
    """Ready parts of one group: strict levels, turns of the clients inside a level, first come
    first served for each client."""

    def __init__(self, turns: list[Turns]) -> None:
        self._turns = turns  # by level, of all groups
        self._queues: list[list[ReadyPart]] = [[] for _ in turns]  # ascending places
        self.rows = 0

    def put(self, ready: ReadyPart) -> None:
        """The newest of all, so it goes behind those of its turn."""
        queue = self._queues[ready.job.request.level]
        if not queue or queue[-1].turn <= ready.turn:
            queue.append(ready)
            self.rows += ready.rows
        else:
            self.put_back(ready)

    def put_back(self, ready: ReadyPart) -> None:
        insort(self._queues[ready.job.request.level], ready, key=_place)
        self.rows += ready.rows

    def remove(self, job: Job) -> None:
        queue = self._queues[job.request.level]
        for ready in [r for r in queue if r.job is job]:
            queue.remove(ready)
            self.rows -= ready.rows

    def head(self) -> ReadyPart:
        """The one to go first; only asked while there is one."""
        return next(filter(None, self._queues))[0]

    def take(self, limit_rows: int) -> list[ReadyPart]:
        """Whole parts: at least one, at most `limit_rows` rows; what must run alone does."""
        taken: list[ReadyPart] = []
        rows = 0
        is_full = False
        for level, queue in enumerate(self._queues):
            if not queue or is_full:
                continue
            before = len(taken)
            for ready in queue:
                is_full = bool(taken) and (ready.alone or rows + ready.rows > limit_rows)
                if is_full:
                    break
                taken.append(ready)
                rows += ready.rows
                if ready.alone:
                    is_full = True
                    break
            if len(taken) > before:
                self._turns[level].take(taken[-1].turn)
                del queue[: len(taken) - before]
        self.rows -= rows
        return taken

    def take_beside(self, others: list[ReadyPart], limit_rows: int) -> list[ReadyPart]:
        """As `take`, but only what fits; it may be nothing."""
        if not self.rows:
            return []
        head = self.head()
        if head.rows > limit_rows or (others and head.alone):
            return []
        return self.take(limit_rows)

    def oldest_s(self) -> float:
        """When the longest waiting part became ready; only asked while there is one."""
        return min([ready.ready_s for queue in self._queues for ready in queue])


class ReadyQueues:
    """Ready parts of all groups. The clients take turns over all of them."""

    def __init__(self, levels: int) -> None:
        self._levels = levels
        self._groups: dict[str, ReadyGroup] = {}
        self._order = 0
        self._turns = [Turns() for _ in range(levels)]

    def put(self, job: Job, part: Part, now: float) -> None:
        request = job.request
        self._order += 1
        group = self._groups.get(part.group)
        if group is None:
            group = self._groups[part.group] = ReadyGroup(self._turns)
        turn = self._turns[request.level].enter(request.client, request.rows)
        group.put(ReadyPart(turn, self._order, now, job, part, request.rows))

    def put_back(self, ready: ReadyPart) -> None:
        """Return a part whose batch did not run, to where it was."""
        self._groups[ready.part.group].put_back(ready)

    def remove(self, job: Job) -> None:
        for part in job.request.parts:
            if part.group in self._groups:
                self._groups[part.group].remove(job)

    def clear(self) -> None:
        self._groups.clear()
        self._turns = [Turns() for _ in range(self._levels)]

    def by_urgency(self) -> list[tuple[str, ReadyGroup]]:
        """Groups that have ready parts, the most urgent head first: by level, turn and order."""
        groups = [item for item in self._groups.items() if item[1].rows]
        if len(groups) > 1:
            groups.sort(key=_urgency)
        return groups


def _urgency(item: tuple[str, ReadyGroup]) -> tuple[int, int, int]:
    head = item[1].head()
    return head.job.request.level, head.turn, head.order
