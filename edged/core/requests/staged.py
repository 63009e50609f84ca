"""The parts that are in staging memory and wait for a batch, by group and level.

There are few of them, since staging memory is bounded, so looking through them is cheap.
"""

from __future__ import annotations

from bisect import insort
from operator import attrgetter

from msgspec import Struct

from edged.core.events import Part
from edged.core.requests.fairness import Turns
from edged.core.requests.job import Job


class StagedPart(Struct, frozen=True, eq=False):
    """A part of a request, and its place among the others: the lowest goes first."""

    place: tuple[int, int, int]  # level, turn of its client, and number in the order of staging
    staged_s: float
    job: Job
    part: Part
    rows: int

    @property
    def alone(self) -> bool:
        """Whether no other request may be in its batch."""
        return self.job.solo or self.part.alone


_place = attrgetter("place")


class StagedGroup:
    """The staged parts of one group: strict levels, turns of the clients inside a level, and first
    come, first served for each client."""

    def __init__(self, turns: list[Turns]) -> None:
        self._turns = turns  # those of each level, shared by all groups
        self._queue: list[StagedPart] = []  # ascending places
        self.rows = 0

    def put(self, staged: StagedPart) -> None:
        """Add a part, or return one, at its place."""
        queue = self._queue
        if not queue or queue[-1].place < staged.place:
            queue.append(staged)
        else:
            insort(queue, staged, key=_place)
        self.rows += staged.rows

    def remove(self, job: Job) -> None:
        """Take out all parts of a request."""
        self._queue = [staged for staged in self._queue if staged.job is not job]
        self.rows = sum([staged.rows for staged in self._queue])

    def head(self) -> StagedPart:
        """The part that goes first; only asked while there is one."""
        return self._queue[0]

    def take(self, limit_rows: int) -> list[StagedPart]:
        """Whole parts: one at least, and no more than `limit_rows` rows after the first part. One
        that must run alone does."""
        taken: list[StagedPart] = []
        rows = 0
        for staged in self._queue:
            alone = staged.alone
            if taken and (alone or rows + staged.rows > limit_rows):
                break
            taken.append(staged)
            rows += staged.rows
            if alone:
                break
        del self._queue[: len(taken)]
        self.rows -= rows
        for level, turn in {staged.place[0]: staged.place[1] for staged in taken}.items():
            self._turns[level].take(turn)
        return taken

    def take_beside(self, others: list[StagedPart], limit_rows: int) -> list[StagedPart]:
        """As `take`, but only what fits; it may be nothing."""
        if not self.rows:
            return []
        head = self.head()
        if head.rows > limit_rows or (others and head.alone):
            return []
        return self.take(limit_rows)

    def oldest_s(self) -> float:
        """When the part that waits longest was staged; only asked while there is one."""
        return min([staged.staged_s for staged in self._queue])

    def validate(self) -> None:
        """Check counts and order. Raises AssertionError."""
        assert self.rows == sum(staged.rows for staged in self._queue), "staged rows"
        assert all(staged.job.is_open for staged in self._queue), "a refused request is staged"
        assert self._queue == sorted(self._queue, key=_place), "staged parts out of order"


class StagedParts:
    """The staged parts of all groups. The clients take turns over all of them."""

    def __init__(self, levels: int) -> None:
        self._levels = levels
        self._order = 0
        self.clear()

    def clear(self) -> None:
        """Forget everything: the device is gone."""
        self._groups: dict[str, StagedGroup] = {}
        self._turns = [Turns() for _ in range(self._levels)]

    def put(self, job: Job, part: Part, now: float) -> None:
        """Add a part of a request whose rows have just been staged."""
        request = job.request
        self._order += 1
        group = self._groups.get(part.group)
        if group is None:
            group = self._groups[part.group] = StagedGroup(self._turns)
        turn = self._turns[request.level].enter(request.client, request.rows)
        place = (request.level, turn, self._order)
        group.put(StagedPart(place, now, job, part, request.rows))

    def put_back(self, staged: StagedPart) -> None:
        """Return a part whose batch did not run to where it was."""
        self._groups[staged.part.group].put(staged)

    def remove(self, job: Job) -> None:
        """Take out all parts of a request."""
        for part in job.request.parts:
            if part.group in self._groups:
                self._groups[part.group].remove(job)

    def by_urgency(self) -> list[tuple[str, StagedGroup]]:
        """Groups that have staged parts, the most urgent head first: by level, turn and order."""
        groups = [item for item in self._groups.items() if item[1].rows]
        if len(groups) > 1:
            groups.sort(key=lambda item: item[1].head().place)
        return groups

    def validate(self) -> None:
        """Check counts and order. Raises AssertionError."""
        for group in self._groups.values():
            group.validate()
