"""The demo's verdict: it fails if the daemon classifies a single image differently."""

from __future__ import annotations

from pathlib import Path

from edged.manifest import SCHEMA, Manifest, PathStep, Value
from edged.wire import BatchStatistics
from tools.demo import report
from tools.demo.data import HeldOut
from tools.demo.load import Answer


def model(task: str, *blocks: str) -> Manifest:
    names = tuple(f"v{i}" for i in range(len(blocks) + 1))
    return Manifest(
        schema=SCHEMA,
        name=task,
        task=task,
        precision="fp32",
        inputs=names[:1],
        outputs=names[-1:],
        values=tuple(Value(name, "FP32", (1,)) for name in names),
        steps=tuple(
            PathStep(block, (names[i],), (names[i + 1],), layers=())
            for i, block in enumerate(blocks)
        ),
        whole_bytes=100,
    )


MODELS = {"cats": model("cats", "trunk", "cats-head"), "dogs": model("dogs", "trunk", "dogs-head")}
BYTES = {"trunk": 90, "cats-head": 10, "dogs-head": 20}


def image(number: int) -> HeldOut:
    return HeldOut("cats", Path(f"{number}.png"), "tabby")


def answer(number: int, *classes: str, ms: float = 1.0, rows: int = 1) -> Answer:
    return Answer(image(number), classes, 1, ms / 1e3, rows)


def summary(answers: list[Answer], uncut: dict[HeldOut, tuple[str, ...]]) -> report.Summary:
    batches = [BatchStatistics(1, 1, 0), BatchStatistics(8, 2, 1)]
    return report.summarize(answers, uncut, batches, MODELS, BYTES, seconds=1.0)


def test_counts_what_is_right_and_shares_out_the_bytes() -> None:
    answers = [answer(0, "tabby", "lynx", ms=1, rows=2), answer(1, "lynx", "tabby", ms=9, rows=8)]
    found = summary(answers, {image(0): ("tabby", "lynx"), image(1): ("lynx", "tabby")})
    (task,) = found.tasks
    assert (task.right, task.right_uncut, task.unlike_uncut) == (1, 1, 0)
    assert (task.accuracy, task.requests) == (0.5, 2)
    assert (task.shared_bytes, task.own_bytes) == (90, 10)
    assert (task.p50_ms, task.p99_ms) == (9.0, 9.0)
    assert task.batch_rows == {2: 1, 8: 1}
    assert (found.batches, found.mixed_batches) == (3, 1)
    assert (found.block_bytes, found.whole_bytes) == (120, 200)
    assert found.agrees


def test_requests_for_all_tasks_count_for_each() -> None:
    dog = HeldOut("dogs", Path("dog.png"), "poodle")
    answers = [answer(0, "tabby"), Answer(dog, ("poodle",), 2, 1e-3, 1)]
    found = summary(answers, {image(0): ("tabby",), dog: ("poodle",)})
    assert {task.name: task.requests for task in found.tasks} == {"cats": 2, "dogs": 1}
    assert (found.requests, found.requests_for_all) == (2, 1)


def test_equal_accuracy_with_other_answers_does_not_pass() -> None:
    answers = [answer(0, "tabby", "lynx"), answer(1, "lynx", "tabby")]
    found = summary(answers, {image(0): ("lynx", "tabby"), image(1): ("tabby", "lynx")})
    assert found.tasks[0].right == found.tasks[0].right_uncut
    assert not found.agrees
    assert "FAILED: 2 of 2" in report.render(found)


def test_ranks_behind_the_best_may_swap() -> None:
    found = summary([answer(0, "tabby", "lynx", "civet")], {image(0): ("tabby", "civet", "lynx")})
    assert found.agrees
    assert "All 1 images" in report.render(found)
