"""Builders and a checked scheduler for transcripts in virtual time."""

from __future__ import annotations

from edged.core.events import Arrived, Command, Event, Part, Request
from edged.core.requests.job import State
from edged.core.scheduler import Scheduler
from edged.core.settings import MemorySettings, SchedulerSettings
from edged.policies import find

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
    inline: bool = False,
    payload_bytes: int = 0,
    group: str = BACKBONE,
) -> Request:
    part = Part(group, models or ("a",))
    return Request(
        rid, client, (part,), rows, rows, level, deadline_s, stream, ordered, inline, payload_bytes
    )


def arrived(rid: int, *models: str, **fields: object) -> Arrived:
    return Arrived(request(rid, *models, **fields))  # type: ignore[arg-type]


class Checked:
    """A scheduler whose invariants are checked after every event."""

    def __init__(self, memory: MemorySettings | None = None, **settings: object) -> None:
        limits = SchedulerSettings(**settings)  # type: ignore[arg-type]
        self.scheduler = Scheduler(limits, memory, find(limits.policy))

    def __call__(self, event: Event, now: float = 0.0) -> list[Command]:
        commands = self.scheduler.handle(event, now)
        check(self.scheduler)
        return commands


def check(scheduler: Scheduler) -> None:
    """Every count equals what it counts, and the driver is told the same figures."""
    scheduler.validate()
    jobs, limits = list(scheduler._jobs.by_rid.values()), scheduler.settings
    waiting = [job for job in jobs if job.state is State.WAITING]
    staged = [job for job in jobs if job.state is not State.WAITING]
    assert scheduler.waiting_requests == len(waiting)
    assert scheduler.staged_rows == sum(job.request.staging_rows for job in staged)
    assert scheduler.staged_rows <= limits.staging_rows
    staged_bytes = sum(job.request.payload_bytes for job in staged)
    assert staged_bytes <= limits.staging_bytes or len(staged) == 1
    ended = [p.request.rid for p in scheduler._answers.places.values() if p.ending is not None]
    assert scheduler.open_requests == sum(job.is_open for job in jobs) + len(ended)
    assert not any(job.state is State.GONE for job in jobs)
