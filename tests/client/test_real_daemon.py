"""The clients and the commands against `edged serve` itself."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from edged.cli import main
from edged.client import Client
from edged.client.aio import AsyncClient
from edged.errors import InvalidArgument, NotFound
from tests.colors import picture, png
from tests.daemon.live import Daemon

RED, BLUE = picture(250, 20, 10), picture(10, 20, 250)


def test_concurrent_tasks_of_one_asyncio_client(real_daemon: Daemon) -> None:
    async def run() -> list[str]:
        async with AsyncClient(real_daemon.endpoint) as client:
            results = await asyncio.gather(
                *(client.infer(png(BLUE if n % 3 else RED), "color", top_k=1) for n in range(200))
            )
        return [result["color"].classes[0][0].label for result in results]

    assert asyncio.run(run()) == ["blue" if n % 3 else "red" for n in range(200)]


def test_a_bad_image_among_good_ones(real_daemon: Daemon) -> None:
    with Client(real_daemon.endpoint) as client:
        images = [png(RED), png(RED)[:-20], b"GIF89a", png(BLUE)]
        outcomes = list(client.infer_many(images, "color", top_k=1, return_exceptions=True))
    assert [type(o) for o in outcomes[1:3]] == [InvalidArgument, InvalidArgument]
    assert outcomes[0]["color"].classes[0][0].label == "red"
    assert outcomes[3]["color"].classes[0][0].label == "blue"


def test_what_is_served(real_daemon: Daemon) -> None:
    with Client(real_daemon.endpoint) as client:
        assert {model.task for model in client.models()} == {"color", "weakest"}
        assert client.model("color").labels == ("red", "green", "blue")
        with pytest.raises(NotFound, match="birds"):
            client.model("birds")


def test_the_commands(
    real_daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "blue.png"
    image.write_bytes(png(BLUE))
    endpoint = ["--endpoint", real_daemon.endpoint]
    assert main(["infer", *endpoint, "--task", "color", "--task", "weakest", str(image)]) == 0
    answers = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert answers[0][:3] == [str(image), "color", "blue"]
    assert answers[1][:2] == ["weakest", "red"]
    assert main(["status", "--json", *endpoint]) == 0
    status = json.loads(capsys.readouterr().out)
    assert {task["name"] for task in status["tasks"]} == {"color", "weakest"}
    assert all(task["success"]["count"] for task in status["tasks"])
    assert main(["status", *endpoint]) == 0
    assert "READY" in capsys.readouterr().out
    assert main(["models", *endpoint]) == 0
    assert "weakest" in capsys.readouterr().out
