"""`edged infer`, `status` and `models`: what people and programs get to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edged import wire
from edged.cli import main
from edged.errors import InvalidArgument, NotFound
from tests.client.fake_daemon import FakeDaemon, error, infer_reply, other_reply


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    return [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]


def test_infer_for_people(
    daemon: FakeDaemon, images: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = ["--task", "flowers", "--task", "food"]
    assert main(["infer", *tasks, "--top-k", "2", "--endpoint", daemon.endpoint, *images]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in lines[2::4]] == [
        [image, "flowers", "rose", "2"] for image in images
    ]
    assert [line.split() for line in lines[3:6]] == [
        ["flowers", "tulip", "1"],
        ["food", "rose", "2"],
        ["food", "tulip", "1"],
    ]


def test_infer_for_programs_is_one_object_a_line(
    daemon: FakeDaemon, images: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answer = lambda received: [
        infer_reply(received)
        if received.request.payload[0] == b"a.jpg"
        else error(received, InvalidArgument("the JPEG is damaged"))
    ]
    options = ["--task", "flowers", "--json", "--endpoint", daemon.endpoint]
    assert main(["infer", *options, *images]) == 1
    good, bad = map(json.loads, capsys.readouterr().out.splitlines())
    assert good["outputs"][0]["classification"] == [{"index": 1, "score": 2.0, "label": "rose"}]
    assert good["parameters"]["tier"] == "edge"
    assert bad == {"image": images[1], "error": "the JPEG is damaged", "code": "INVALID_ARG"}


def test_infer_raw(
    daemon: FakeDaemon, images: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--task", "flowers", "--raw", "--endpoint", daemon.endpoint]
    assert main(["infer", *options, "--json", images[0]]) == 0
    (output,) = json.loads(capsys.readouterr().out)["outputs"]
    assert output["tensors"] == {"logits": [0.0, 2.0, 1.0]}
    assert main(["infer", *options, images[0]]) == 0
    assert "logits: float32 [1, 3]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("shape", "classification"), [((-1, 3), 1), ((-1,), None), ((-1, 100, 6), None)]
)
def test_unless_told_infer_asks_for_classes_where_there_are_any(
    daemon: FakeDaemon, images: list[str], shape: tuple[int, ...], classification: int | None
) -> None:
    output = wire.TensorMetadata("y", "FP32", shape)
    daemon.answer_others = lambda received: [
        wire.encode_reply(
            wire.ModelMetadataReply(received.id, "net", "flowers", "onnx_onnxv1", (), (output,))
        )
        if isinstance(received.request.header, wire.ModelMetadata)
        else other_reply(received)
    ]
    main(["infer", "--task", "flowers", "--endpoint", daemon.endpoint, images[0]])
    (asked,) = daemon.infers[0].request.header.outputs
    assert asked.parameters.classification == classification


def test_infer_goes_on_after_a_bad_image(
    daemon: FakeDaemon, images: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(images[0]).write_bytes(b"")
    assert main(["infer", "--task", "flowers", "--endpoint", daemon.endpoint, *images]) == 1
    out, err = capsys.readouterr()
    assert images[1] in out
    assert err.startswith(f"edged: {images[0]}: ")
    assert "empty" in err


def test_a_missing_file_is_said_before_anything_is_sent(
    daemon: FakeDaemon, images: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--task", "flowers", "--endpoint", daemon.endpoint]
    assert main(["infer", *options, images[0], "none.jpg"]) == 1
    assert capsys.readouterr().err == "edged: none.jpg: no such file\n"
    assert daemon.infers == []


def test_status_for_people(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--endpoint", daemon.endpoint]) == 0
    out = capsys.readouterr().out
    assert "READY, up 1 h 2 min, pid 42" in out
    assert "open requests: 3, of these waiting: 1" in out
    row = next(line for line in out.splitlines() if line.startswith("flowers  "))
    assert " ".join(row.split()) == "flowers 80 2 3.00 11.0 ms 31.0 ms 2.0 ms 8.0 ms"
    assert "flowers failed: 2 INVALID_ARG" in out
    lately = [line for line in out.splitlines() if line.startswith("flowers  ")][1]
    assert " ".join(lately.split()) == "flowers 0.8/s 2 12.0 ms 32.0 ms"
    assert "30 batches, 3.00 rows each, 5 of several tasks: 10 of 1, 20 of 4" in out
    assert "12.9 MB" in out


def test_status_for_programs(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--json", "--endpoint", daemon.endpoint]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["ready"] is True
    assert status["tasks"][0]["fail"] == {"count": 2, "by_code": {"INVALID_ARG": 2}}
    assert "id" not in status


def test_status_of_a_daemon_that_has_just_started(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    replies: dict[type, Any] = {
        wire.ServerReady: wire.ReadyReply("", False, "STARTING", "loading"),
        wire.StatisticsQuery: wire.StatisticsReply(
            "", wire.ServerStatistics("STARTING", "loading")
        ),
    }

    def starting(received: Any) -> list[wire.Frames]:
        header = received.request.header
        if (reply := replies.get(type(header))) is None:
            return [other_reply(received)]
        return [wire.encode_reply(type(reply)(header.id, *_rest(reply)))]

    daemon.answer_others = starting
    assert main(["status", "--endpoint", daemon.endpoint]) == 1
    assert "STARTING (loading), up 0 s" in capsys.readouterr().out


def _rest(reply: Any) -> list[Any]:
    """The fields of a reply but its id."""
    return [getattr(reply, name) for name in reply.__struct_fields__ if name != "id"]


def test_models(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--endpoint", daemon.endpoint]) == 0
    out = capsys.readouterr().out
    assert "13.0 MB" in out
    assert "UNAVAILABLE: the worker is starting" in out
    assert main(["models", "--json", "--endpoint", daemon.endpoint]) == 0
    assert [m["name"] for m in json.loads(capsys.readouterr().out)] == ["flowers-net", "food-net"]


def test_one_model(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "flowers", "--endpoint", daemon.endpoint]) == 0
    out = capsys.readouterr().out
    assert "input image: FP32 [any, 3, 32, 32]" in out
    assert "labels: daisy, rose, tulip" in out
    assert main(["models", "flowers", "--json", "--endpoint", daemon.endpoint]) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == ["daisy", "rose", "tulip"]
    daemon.answer_others = lambda received: [
        error(received, NotFound("no task or model 'birds' is served here"))
        if isinstance(received.request.header, wire.ModelMetadata)
        else other_reply(received)
    ]
    assert main(["models", "birds", "--endpoint", daemon.endpoint]) == 1
    assert capsys.readouterr().err == "edged: no task or model 'birds' is served here\n"


@pytest.mark.parametrize("command", [["status"], ["models"], ["infer", "--task", "t", __file__]])
def test_nobody_there(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = f"ipc://{tmp_path}/none.sock"
    assert main([*command, "--endpoint", endpoint, "--timeout", "0.05"]) == 1
    assert capsys.readouterr().err == (
        f"edged: no daemon answers at {endpoint} within 0.05 s: is it running? "
        "systemctl status edged\n"
    )


@pytest.mark.parametrize(
    ("option", "says"),
    [(["--timeout", "nan"], "timeout_s"), (["--timeout", "-1"], "timeout_s"),
     (["--endpoint", "nowhere"], "ipc:///path")],
)  # fmt: skip
def test_wrong_options_have_status_2(
    option: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", *option]) == 2
    assert says in capsys.readouterr().err
