"""The thread that looks at the board: that it sees changes, and is not there for nothing."""

from __future__ import annotations

import threading

from edged.telemetry import watch
from edged.telemetry.files import FileTree
from edged.telemetry.watch import BoardWatch
from tests.jetson import trees


def test_a_machine_that_tells_nothing_is_not_watched(tmp_path):
    watched = BoardWatch(trees.plant(tmp_path, trees.PC))
    watched.start()
    assert watched.latest is None
    assert "board" not in {thread.name for thread in threading.enumerate()}
    watched.close()


def test_what_changes_is_seen_again(tmp_path, monkeypatch):
    seen = threading.Event()
    real = watch.look

    def look(tree):
        reading = real(tree)
        if reading.power_mode == "7W":
            seen.set()
        return reading

    monkeypatch.setattr(watch, "look", look)
    monkeypatch.setattr(watch, "LOOK_S", 1e-3)
    watched = BoardWatch(trees.plant(tmp_path, trees.files("orin-nano", "6.2")))
    watched.start()
    assert watched.latest is not None
    assert watched.latest.reading.power_mode == "25W"
    trees.plant(tmp_path, {"var/lib/nvpmodel/status": "pmode:0003\n"})
    assert seen.wait(30.0)
    watched.close()
    assert "board" not in {thread.name for thread in threading.enumerate()}


def test_a_sensor_whose_driver_comes_late_is_found(tmp_path, monkeypatch):
    files = trees.files("orin-nano", "6.2")
    late = {name: text for name, text in files.items() if "devfreq" in name}
    seen = threading.Event()
    real = watch.look

    def look(tree):
        reading = real(tree)
        if reading.gpu.hz is not None:
            seen.set()
        return reading

    monkeypatch.setattr(watch, "look", look)
    monkeypatch.setattr(watch, "LOOK_S", 1e-3)
    watched = BoardWatch(trees.plant(tmp_path, {n: t for n, t in files.items() if n not in late}))
    watched.start()
    trees.plant(tmp_path, late)
    assert seen.wait(30.0)
    watched.close()


def test_a_bug_leaves_nothing_old_behind(tmp_path, monkeypatch, caplog):
    watched = BoardWatch(trees.plant(tmp_path, trees.files("orin-nano", "6.2")))
    monkeypatch.setattr(watch, "LOOK_S", 1e-3)
    reading = watch.look(FileTree(tmp_path))
    answers = iter([reading])
    monkeypatch.setattr(watch, "look", lambda tree: next(answers))
    watched.start()
    watched._thread.join(30.0)
    assert watched.latest is None
    assert "this is a bug" in caplog.text
    watched.close()
