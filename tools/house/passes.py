"""Which functions a lone request passes in the scheduler and in the front, by tracing a run.

A function counts once, however often it is called. Only functions of `edged` count; comprehensions
and generator expressions do not, since newer Pythons run them within the function around them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from edged.core.events import (
    Answer,
    Arrived,
    BatchDone,
    DeviceUp,
    Event,
    GroupCost,
    Part,
    Prepare,
    Prepared,
    Request,
    Run,
)
from edged.core.scheduler import Scheduler
from edged.core.settings import SchedulerSettings
from tests.daemon.samples import Bench, infer
from tools.house import ROOT

EDGED = str(ROOT / "edged") + "/"
DAEMON = EDGED + "daemon/"

Passed = set[tuple[str, str, int]]
"""File relative to the root, qualified name and first line of each function."""


def passed(run: Callable[[], object], *, entered_in: str = EDGED) -> Passed:
    """The functions that `run` passes.

    `entered_in`: only those count that were called, directly or not, by a function below this
    directory that the driver called. What the driver itself uses of `edged` can so be left out.
    """
    found: set[CodeType] = set()

    def note(frame: FrameType, happening: str, _: Any) -> None:
        code = frame.f_code
        if happening != "call" or code in found or not code.co_filename.startswith(EDGED):
            return
        if _entry(frame).startswith(entered_in):
            found.add(code)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(before)
    return {
        (Path(code.co_filename).relative_to(ROOT).as_posix(), _name(code), code.co_firstlineno)
        for code in found
        if not code.co_name.endswith(("comp>", "genexpr>"))
    }


def _entry(frame: FrameType) -> str:
    """The file of the outermost function that was called before the driver is met again."""
    while (above := frame.f_back) is not None and not _is_driver(above.f_code.co_filename):
        frame = above
    return frame.f_code.co_filename


def _is_driver(filename: str) -> bool:
    return filename.startswith((str(ROOT / "tests") + "/", str(ROOT / "tools") + "/"))


def _name(code: CodeType) -> str:
    return getattr(code, "co_qualname", code.co_name)  # since Python 3.11


def through_the_scheduler() -> Passed:
    """What one request passes that finds the device idle; no Library, so no partial loading."""
    scheduler = Scheduler(SchedulerSettings())
    scheduler.handle(DeviceUp((GroupCost("backbone", (1, 2, 4), (0.01, 0.015, 0.02)),)), 0.0)
    _serve(scheduler, 1, 1.0)  # what happens only once happens here
    return passed(lambda: _serve(scheduler, 2, 2.0))


def _serve(scheduler: Scheduler, rid: int, now: float) -> None:
    """From the arrival to the answer."""
    reports: list[Event] = [Arrived(Request(rid, client=1, parts=(Part("backbone", ("a",)),)))]
    answers = 0
    for step, event in enumerate(reports):  # which grows on the way
        for command in scheduler.handle(event, now + 0.01 * step):
            answers += isinstance(command, Answer)
            if isinstance(command, Prepare):
                reports.append(Prepared(command.rid, 0.01))
            elif isinstance(command, Run):
                reports.append(BatchDone(command.batch, 0.01, 0.0))
    if answers != 1:
        raise AssertionError(f"{answers} answers to one request")


def through_the_front() -> Passed:
    """What one INFER passes in the front, from the client's frames to the reply's, with the
    scheduler's part. Sockets and the worker are the driver's."""
    bench = Bench()
    bench.worker_is_ready()
    _ask(bench)
    return passed(lambda: _ask(bench), entered_in=DAEMON)


def _ask(bench: Bench) -> None:
    bench.ask(infer())
    bench.finish()
    bench.reply()
