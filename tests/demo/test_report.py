"""The demo's verdict: one image that the daemon classifies otherwise is enough to fail."""

from __future__ import annotations

from pathlib import Path

from edged.manifest import SCHEMA, Manifest, Step, Value
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
            Step(block, (names[i],), (names[i + 1],), layers=()) for i, block in enumerate(blocks)
        ),
        whole_bytes=100,
    )


MODELS = {"cats": model("cats", "trunk", "cats-head"), "dogs": model("dogs", "trunk", "dogs-head")}
BYTES = {"trunk": 90, "cats-head": 10, "dogs-head": 20}


def image(number: int) -> HeldOut:
    return HeldOut("cats", Path(f"{number}.png"), "tabby")


def answer(number: int, *classes: str, ms: float = 1.0, rows: int = 1) -> Answer:
    return Answer(image(number), classes, 1, ms / 1e3, rows)


def summary(*tasks: report.Task) -> report.Summary:
    return report.Summary(
        tasks=tasks,
        seconds=1.0,
        requests=4,
        requests_for_all=1,
        batches=3,
        mixed_batches=1,
        block_bytes=120,
        whole_bytes=200,
    )


def test_counts_what_is_right_and_shares_out_the_bytes() -> None:
    answers = [answer(0, "tabby", "lynx", ms=1, rows=2), answer(1, "lynx", "tabby", ms=9, rows=8)]
    uncut = {image(0): ("tabby", "lynx"), image(1): ("lynx", "tabby")}
    task = report.summarize_task(answers, uncut, MODELS, BYTES, requests=5)
    assert (task.right, task.right_uncut, task.unlike_uncut) == (1, 1, 0)
    assert (task.accuracy, task.requests) == (0.5, 5)
    assert (task.shared_bytes, task.own_bytes) == (90, 10)
    assert (task.p50_ms, task.p99_ms) == (9.0, 9.0)
    assert task.batch_rows == {2: 1, 8: 1}
    assert summary(task).agrees


def test_equal_accuracy_with_other_answers_does_not_pass() -> None:
    answers = [answer(0, "tabby", "lynx"), answer(1, "lynx", "tabby")]
    uncut = {image(0): ("lynx", "tabby"), image(1): ("tabby", "lynx")}
    task = report.summarize_task(answers, uncut, MODELS, BYTES, requests=2)
    assert task.right == task.right_uncut
    assert task.unlike_uncut == 2
    assert not summary(task).agrees
    assert "FAILED: 2 of 2" in report.render(summary(task))


def test_ranks_behind_the_best_may_swap() -> None:
    uncut = {image(0): ("tabby", "civet", "lynx")}
    answers = [answer(0, "tabby", "lynx", "civet")]
    task = report.summarize_task(answers, uncut, MODELS, BYTES, requests=1)
    assert summary(task).agrees
    assert "All 1 images" in report.render(summary(task))
