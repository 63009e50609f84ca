"""A client in another language, written from docs/protocol.md alone, does an inference."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from edged import wire
from edged.errors import NotFound
from tests.client.fake_daemon import FakeDaemon, Received, error, infer_reply
from tests.colors import picture, png, write_store
from tests.daemon.live import Daemon

LIMITED = "[limits]\nmax_in_flight = 2\n"


def run(program: list[str], *args: str) -> dict[str, Any]:
    done = subprocess.run([*program, *args], capture_output=True, text=True, timeout=30)
    assert not done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def test_inference_from_javascript(program: list[str], daemon: FakeDaemon, tmp_path: Path) -> None:
    def answer(received: Received) -> list[wire.Frames]:
        if received.request.header.outputs[0].name == "no-such-task":
            return [error(received, NotFound("no task 'no-such-task' is served here"))]
        return [infer_reply(received)] * 2  # the second one is to be dropped

    daemon.answer = answer
    files = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    for file in files:
        file.write_bytes(file.name.encode())
    answers = run(program, daemon.endpoint, "flowers,food", *map(str, files))

    flowers, food = answers["together"]["outputs"]
    assert [[c["label"] for c in row] for row in flowers["classification"]] == [
        ["rose", "tulip"],
        ["rose", "tulip"],
    ]
    assert (food["shape"], food["data"]) == ([2, 3], [0, 2, 1, 1, 3, 2])
    assert answers["together"]["parameters"]["tier"] == "edge"
    assert answers["alone"]["outputs"][1]["data"] == [0, 2, 1]
    assert answers["limits"]["max_rows"] == 8
    assert answers["refused"] == {
        "code": "NOT_FOUND",
        "message": "no task 'no-such-task' is served here",
    }
    both, alone, _ = (received.request for received in daemon.infers)
    assert both.payload == (b"a.jpg", b"b.jpg")
    assert alone.header.parameters.priority == 1
    assert both.header.parameters.timeout == 30_000_000
    assert len({received.client for received in daemon.received}) == 1


def test_the_limits_are_respected(program: list[str], daemon: FakeDaemon, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    answers = run(program, daemon.endpoint, "flowers", *[str(tmp_path / "a.jpg")] * 9)
    assert answers["failed"]["code"] == "RESOURCE_EXHAUSTED"
    assert all(len(received.request.payload) == 1 for received in daemon.infers)


def test_the_real_daemon_answers_javascript(
    program: list[str], real_daemon: Daemon, tmp_path: Path
) -> None:
    files = [tmp_path / "red.png", tmp_path / "blue.png"]
    for file, pixels in zip(files, (picture(250, 20, 10), picture(10, 20, 250)), strict=True):
        file.write_bytes(png(pixels))
    answers = run(program, real_daemon.endpoint, "color,weakest", *map(str, files))
    color, weakest = answers["together"]["outputs"]
    assert [row[0]["label"] for row in color["classification"]] == ["red", "blue"]
    assert weakest["shape"] == [2, 3]
    assert [round(255 * -score) for score in weakest["data"]] == [250, 20, 10, 10, 20, 250]
    assert answers["refused"]["code"] == "NOT_FOUND"


def test_its_window_keeps_to_the_limit_of_a_real_daemon(program: list[str], tmp_path: Path) -> None:
    """Twenty at once, where a third that is unanswered would be refused."""
    image = tmp_path / "red.png"
    image.write_bytes(png(picture(250, 20, 10)))
    daemon = Daemon(tmp_path, write_store(tmp_path / "store"), settings=LIMITED)
    try:
        daemon.wait_for("ready: ")
        node, infer = program
        many = [node, infer.replace("infer.mjs", "many.mjs")]
        assert run(many, daemon.endpoint, "color", "20", str(image)) == {"answered": 20}
    finally:
        daemon.close()
