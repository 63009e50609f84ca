"""The parts that are in staging memory and wait for a batch, by group and level.

There are few of them, since staging memory is bounded, so looking through them is cheap.
"""

from __future__ import annotations

from bisect import insort

from msgspec import Struct

from edged.core.events import Part
from edged.core.requests.fairness import Turns
from edged.core.requests.job import Job


class StagedPart(Struct, frozen=True, eq=False):
    """A part of a request, and its place among the others of its level."""

    turn: int  # turn of its client; inside a level the lower goes first
    order: int  # in which it was staged; inside a turn the lower goes first
    staged_s: float
    job: Job
    part: Part
    rows: int

    @property
    def alone(self) -> bool:
        """Whether no other request may be in its batch."""
        return self.job.solo or self.part.alone


def _place(staged: StagedPart) -> tuple[int, int]:
    return staged.turn, staged.order


class StagedGroup:
    """The staged parts of one group: strict levels, turns of the clients inside a level, and first
    come, first served for each client."""

    def __init__(self, turns: list[Turns]) -> None:
        self._turns = turns  # by level, shared by all groups
        self._queues: list[list[StagedPart]] = [[] for _ in turns]  # by level, ascending places
        self.rows = 0

    def put(self, staged: StagedPart) -> None:
        """Add a part that is newer than all others, so it goes behind those of its turn."""
        queue = self._queues[staged.job.request.level]
        if not queue or queue[-1].turn <= staged.turn:
            queue.append(staged)
            self.rows += staged.rows
        else:
            self.put_back(staged)

    def put_back(self, staged: StagedPart) -> None:
        """Return a part to its place."""
        insort(self._queues[staged.job.request.level], staged, key=_place)
        self.rows += staged.rows

    def remove(self, job: Job) -> None:
        """Take out all parts of a request."""
        queue = self._queues[job.request.level]
        for staged in [one for one in queue if one.job is job]:
            queue.remove(staged)
            self.rows -= staged.rows

    def head(self) -> StagedPart:
        """The part that goes first; only asked while there is one."""
        return next(filter(None, self._queues))[0]

    def take(self, limit_rows: int) -> list[StagedPart]:
        """Whole parts: one at least, and no more than `limit_rows` rows after the first part. One
        that must run alone does."""
        taken: list[StagedPart] = []
        rows = 0
        is_full = False
        for level, queue in enumerate(self._queues):
            if not queue or is_full:
                continue
            before = len(taken)
            for staged in queue:
                alone = staged.alone
                is_full = bool(taken) and (alone or rows + staged.rows > limit_rows)
                if is_full:
                    break
                taken.append(staged)
                rows += staged.rows
                if alone:
                    is_full = True
                    break
            if len(taken) > before:
                self._turns[level].take(taken[-1].turn)
                del queue[: len(taken) - before]
        self.rows -= rows
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
        return min([staged.staged_s for queue in self._queues for staged in queue])

    def validate(self) -> None:
        """Check counts and order. Raises AssertionError."""
        parts = [staged for queue in self._queues for staged in queue]
        assert self.rows == sum(staged.rows for staged in parts), "staged rows"
        assert all(staged.job.is_open for staged in parts), "a refused request is staged"
        for queue in self._queues:
            assert queue == sorted(queue, key=_place), "staged parts out of order"


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
        group.put(StagedPart(turn, self._order, now, job, part, request.rows))

    def put_back(self, staged: StagedPart) -> None:
        """Return a part whose batch did not run to where it was."""
        self._groups[staged.part.group].put_back(staged)

    def remove(self, job: Job) -> None:
        """Take out all parts of a request."""
        for part in job.request.parts:
            if part.group in self._groups:
                self._groups[part.group].remove(job)

    def by_urgency(self) -> list[tuple[str, StagedGroup]]:
        """Groups that have staged parts, the most urgent head first: by level, turn and order."""
        groups = [item for item in self._groups.items() if item[1].rows]
        if len(groups) > 1:
            groups.sort(key=_urgency)
        return groups

    def validate(self) -> None:
        """Check counts and order. Raises AssertionError."""
        for group in self._groups.values():
            group.validate()


def _urgency(item: tuple[str, StagedGroup]) -> tuple[int, int, int]:
    head = item[1].head()
    return head.job.request.level, head.turn, head.order
