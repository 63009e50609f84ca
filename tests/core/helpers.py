"""Builders and a checked scheduler for transcripts in virtual time."""

from __future__ import annotations

from edged.core.events import Arrived, Command, Event, Part, Request
from edged.core.requests.job import Stage
from edged.core.scheduler import Scheduler
from edged.core.settings import Memory, Settings

BACKBONE = "backbone"


def request(
    rid: int,
    *models: str,
    client: int = 1,
    rows: int = 1,
    level: int = 0,
    deadline_s: float | None = None,
    stream: str | None = None,
    ordered: bool = False,
    light: bool = False,
    payload_bytes: int = 0,
    group: str = BACKBONE,
) -> Request:
    part = Part(group, models or ("a",))
    return Request(
        rid, client, (part,), rows, rows, level, deadline_s, stream, ordered, light, payload_bytes
    )


def arrived(rid: int, *models: str, **fields: object) -> Arrived:
    return Arrived(request(rid, *models, **fields))  # type: ignore[arg-type]


class Checked:
    """A scheduler whose invariants are checked after every event."""

    def __init__(self, memory: Memory | None = None, **settings: object) -> None:
        self.scheduler = Scheduler(Settings(**settings), memory)  # type: ignore[arg-type]

    def __call__(self, event: Event, now: float = 0.0) -> list[Command]:
        commands = self.scheduler.handle(event, now)
        check(self.scheduler)
        return commands


def check(scheduler: Scheduler) -> None:
    """Every count equals what it counts."""
    jobs = scheduler._jobs.values()
    waiting = [job for job in jobs if job.stage is Stage.WAITING]
    staged = [job for job in jobs if job.stage is not Stage.WAITING]
    assert {j.request.rid for j in scheduler._waiting} == {j.request.rid for j in waiting}
    assert scheduler.waiting_rows == sum(job.request.rows for job in waiting)
    assert scheduler._waiting.bytes == sum(job.request.payload_bytes for job in waiting)
    lines = [line for level in scheduler._waiting._levels for line in level.values()]
    assert sum(line.bytes for line in lines) == scheduler._waiting.bytes
    assert scheduler.staged_rows == sum(job.request.staging_rows for job in staged)
    assert scheduler.staged_rows <= scheduler.settings.staging_rows
    staged_bytes = sum(job.request.payload_bytes for job in staged)
    assert scheduler._staging.bytes == staged_bytes
    held = {client: held.rows for client, held in scheduler._staging._held.items()}
    for client, rows in held.items():
        own = [job.request for job in staged if job.request.client == client]
        assert rows == sum(request.staging_rows for request in own) > 0
    assert sum(scheduler._staging._level_rows) == sum(held.values()) == scheduler.staged_rows
    assert staged_bytes <= scheduler.settings.staging_bytes or len(staged) == 1
    ended = [p.request.rid for p in scheduler._order._places.values() if p.ending is not None]
    assert scheduler.open_requests == sum(not job.answered for job in jobs) + len(ended)
    for sequence in scheduler._order._sequences.values():
        first = next(iter(sequence.values()))
        assert first.ending is None
        assert not scheduler._jobs[first.request.rid].answered
    assert scheduler.running_batches <= 2 * scheduler._lanes
    running = [ready.job for batch in scheduler._running.batches for ready in batch.parts]
    for job in jobs:
        assert job.running_parts == sum(other is job for other in running)
        assert 0 <= job.running_parts <= job.open_parts
        assert not (job.answered and job.stage is Stage.WAITING)
    for _, group in scheduler._ready.by_urgency():
        ready = [part for queue in group._queues for part in queue]
        assert group.rows == sum(part.rows for part in ready)
        for queue in group._queues:
            assert queue == sorted(queue, key=lambda part: (part.turn, part.order))
        assert not any(part.job.answered for part in ready)
