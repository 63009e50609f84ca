"""What a daemon says on standard error where there is no journal."""

from __future__ import annotations

import re

from edged.client import Client
from tests.colors import picture

FORM = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z edged(\.device)?: (DEBUG|INFO|WARNING|ERROR): .+\n"
)


def test_front_and_worker_log_in_one_form_from_the_level_of_the_configuration(start):
    daemon = start(settings='backend = "fake"\n[log]\nlevel = "debug"')
    daemon.wait_for("ready: 2 models")
    assert daemon.stop() == 0
    assert all(map(FORM.fullmatch, daemon.lines)), daemon.log()
    assert any(" edged.device: DEBUG: block " in line for line in daemon.lines)
    assert any(" edged: INFO: ready: " in line for line in daemon.lines)


def test_a_level_above_keeps_both_silent(start):
    daemon = start(settings='backend = "fake"\n[log]\nlevel = "error"')
    with Client(daemon.endpoint) as client:
        client.infer(picture(200, 10, 10), ["color"])
    assert daemon.stop() == 0
    assert daemon.lines == []
