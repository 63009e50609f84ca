"""`make demo` and `make serve` as a newcomer runs them, from an empty folder."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from edged.client import Client
from edged.store import Store
from tools.demo.report import Summary

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True, slots=True)
class Run:
    folder: Path
    summary: Summary
    output: str


def demo(folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "tools.demo", "--dir", str(folder), *more]


def run(folder: Path) -> Run:
    figures = folder.parent / "figures.json"
    done = subprocess.run(
        demo(folder, "--json", str(figures)), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Run(folder, msgspec.json.decode(figures.read_bytes(), type=Summary), done.stdout)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tmp_path_factory.mktemp("demo") / "demo")


def test_five_tasks_are_as_good_as_promised(first: Run) -> None:
    accuracy = {task.name: task.accuracy for task in first.summary.tasks}
    assert accuracy.keys() == {"imagenet", "mnist", "digits", "faces", "textures"}
    assert accuracy["mnist"] >= 0.93
    assert accuracy["digits"] >= 0.93
    assert accuracy["faces"] >= 0.95
    assert accuracy["textures"] >= 0.95


def test_the_daemon_answers_as_the_uncut_models(first: Run) -> None:
    for task in first.summary.tasks:
        assert task.unlike_uncut == 0
        assert task.right == task.right_uncut
        assert task.images >= (6 if task.name == "imagenet" else 50)


def test_the_measured_accuracy_is_the_one_that_the_manifest_states(first: Run) -> None:
    models = Store(first.folder / "store").models()
    stated = {m.task: m.accuracy for m in models.values() if m.accuracy is not None}
    for task in first.summary.tasks:
        if task.name in stated:
            assert stated[task.name].images == task.images
            assert stated[task.name].value == pytest.approx(task.accuracy)
    assert len(stated) == 4


def test_one_backbone_is_stored_once_and_batched_for_all(first: Run) -> None:
    assert first.summary.mixed_batches > 0
    assert all(max(task.batch_rows) > 1 for task in first.summary.tasks)
    assert first.summary.block_bytes < first.summary.whole_bytes / 3
    (shared,) = {task.shared_bytes for task in first.summary.tasks}
    heads = {task.name: task.own_bytes for task in first.summary.tasks}
    assert all(heads[name] < shared / 100 for name in heads.keys() - {"imagenet"})


def test_a_second_run_builds_nothing(first: Run) -> None:
    store = first.folder / "store" / "store.json"
    before = store.stat()
    again = run(first.folder)
    assert store.stat() == before
    assert "head for" not in again.output
    assert again.summary.agrees


def test_make_serve_leaves_a_daemon_that_answers_and_ends_well(first: Run) -> None:
    """It says what to try; that works; SIGTERM drains it."""
    with subprocess.Popen(
        demo(first.folder, "--serve"), cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as serving:
        try:
            assert serving.stdout is not None
            said = [serving.stdout.readline() for _ in range(4)]
            # The client of the first suggestion waits no longer than 5 s for a daemon to start.
            with Client(f"ipc://{first.folder / 'edged.sock'}", connect_timeout_s=60) as client:
                photo = next((first.folder / "images/imagenet/test/espresso").iterdir())
                assert client.infer(photo, "imagenet", timeout_s=60, top_k=1)
            answers = [
                subprocess.run(line.split(), cwd=ROOT, capture_output=True, text=True, check=True)
                for line in said[1:]
            ]
            assert "espresso" in answers[0].stdout
            assert "mnist" in answers[1].stdout
            assert "mnist" in answers[2].stdout
        finally:
            serving.send_signal(signal.SIGTERM)
            assert serving.wait(60) == 0
