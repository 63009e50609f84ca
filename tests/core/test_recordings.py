"""Recorded runs are decided again as they were. `python -m tests.recordings.make` makes them."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from edged.core.events import Command, Event
from edged.observe.recording import replay, turns

RECORDINGS = sorted((Path(__file__).parents[1] / "recordings").glob("*.jsonl.gz"))


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name.partition(".")[0])
def test_a_recorded_run_is_decided_again_as_it_was(path):
    assert replay(path) > 100


def test_every_kind_of_event_and_command_is_in_a_recording():
    found = {
        type(each) for path in RECORDINGS for t in turns(path) for each in (t.event, *t.commands)
    }
    assert {*get_args(Event), *get_args(Command)} == found
