"""The parts that lie in staging memory and wait for the device, by group and level.

Small by construction: staging memory bounds it, so looking through it is cheap.
"""

from __future__ import annotations

from collections import deque

from msgspec import Struct

from edged.core.events import Part
from edged.core.job import Job


class ReadyPart(Struct, frozen=True, eq=False):
    order: int  # of becoming ready; inside a level the lower goes first
    ready_s: float
    job: Job
    part: Part
    rows: int

    @property
    def alone(self) -> bool:
        return self.job.solo or self.part.alone


class ReadyGroup:
    """Ready parts of one group: strict levels, first come first served inside a level."""

    def __init__(self, levels: int) -> None:
        self._queues: list[deque[ReadyPart]] = [deque() for _ in range(levels)]
        self.rows = 0

    def put(self, ready: ReadyPart) -> None:
        self._queues[ready.job.request.level].append(ready)
        self.rows += ready.rows

    def put_back(self, ready: ReadyPart) -> None:
        self._queues[ready.job.request.level].appendleft(ready)
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
        for queue in self._queues:
            while queue:
                head = queue[0]
                if taken and (head.alone or rows + head.rows > limit_rows):
                    return taken
                taken.append(queue.popleft())
                rows += head.rows
                self.rows -= head.rows
                if head.alone:
                    return taken
        return taken

    def oldest_s(self) -> float:
        """When the longest waiting part became ready; only asked while there is one."""
        return min([queue[0].ready_s for queue in self._queues if queue])


class ReadyQueues:
    """Ready parts of all groups."""

    def __init__(self, levels: int) -> None:
        self._levels = levels
        self._groups: dict[str, ReadyGroup] = {}
        self._order = 0

    def put(self, job: Job, part: Part, now: float) -> None:
        self._order += 1
        group = self._groups.get(part.group)
        if group is None:
            group = self._groups[part.group] = ReadyGroup(self._levels)
        group.put(ReadyPart(self._order, now, job, part, job.request.rows))

    def put_back(self, ready: ReadyPart) -> None:
        """Return a part whose batch did not run."""
        self._groups[ready.part.group].put_back(ready)

    def remove(self, job: Job) -> None:
        for part in job.request.parts:
            if part.group in self._groups:
                self._groups[part.group].remove(job)

    def clear(self) -> None:
        self._groups.clear()

    def by_urgency(self) -> list[tuple[str, ReadyGroup]]:
        """Groups that have ready parts, the most urgent head first: by level, then by order."""
        groups = [item for item in self._groups.items() if item[1].rows]
        if len(groups) > 1:
            groups.sort(key=_urgency)
        return groups


def _urgency(item: tuple[str, ReadyGroup]) -> tuple[int, int]:
    head = item[1].head()
    return head.job.request.level, head.order
