"""docs/incidents.md is true: the real daemon in both incidents says what the page quotes."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edged.cli import main
from edged.client import Client, Retry
from tests.backends.blocks import dense
from tests.daemon.live import Daemon, until
from tests.device.rig import Model, make_store
from tests.observe.scrapes import Scrape, get

PAGE = (Path(__file__).parents[2] / "docs" / "incidents.md").read_text()
NAMES = ["ant", "bee", "cat", "dog", "eel", "fox"]
X = {"x": np.random.default_rng(0).standard_normal((2, 1448)).astype(np.float32)}
EACH = 10  # requests for each model while the worker is killed
MIB = 1 << 20


@dataclass
class Evidence:
    """All that the page looks at."""

    status: str
    metrics: str
    log: str

    @property
    def numbers(self) -> Scrape:
        return Scrape(self.metrics)

    def has(self, where: str, line: str) -> bool:
        """`N` in a line of the page stands for a number above 0."""
        pattern = re.sub(r"\bN\b", lambda _: r"(?!0\.0)\d[\d.e+]*", re.escape(line))
        return re.search(pattern + "$", getattr(self, where), re.MULTILINE) is not None


def quoted(title: str) -> Iterator[tuple[str, str]]:
    """The lines of a section's quotations, each with the place that it was found in."""
    section = PAGE.split(f"## {title}")[1].split("\n## ")[0]
    for where, text in re.findall(r"```text (\w+)\n(.*?)```", section, re.DOTALL):
        for line in text.splitlines():
            yield where, line


@dataclass
class Story:
    """What was seen before, after the worker was killed, and under the lower budget."""

    before: Evidence
    killed: Evidence
    lowered: Evidence
    budget_bytes: int  # the lower one


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Both incidents, one after the other, with six models on a common block; each is of 8 MiB."""
    folder = tmp_path_factory.mktemp("incidents")
    base = dense(1448, 1448, seed=1, relu=False)
    models = [
        Model(name, base, dense(1448, 1448, seed=seed, relu=False))
        for seed, name in enumerate(NAMES, 2)
    ]
    store = make_store(folder / "store", models).path
    metrics = f'[metrics]\nbind = "{folder}/metrics.sock"\n'
    with contextlib.ExitStack() as stack:
        daemon = Daemon(folder, store, settings=metrics)
        stack.callback(daemon.close)
        before, killed, memory = kill_under_load(daemon)
        assert daemon.stop() == 0
        besides_bytes = sum(memory[f"{line}_bytes"] for line in ("fixed", "staging", "workspace"))
        budget_bytes = besides_bytes + 2 * 8 * MIB + 2 * MIB  # the common block and one or two more
        tight = f"[memory]\nbudget_bytes = {budget_bytes}\n"
        daemon = Daemon(folder, store, settings=metrics + tight)
        stack.callback(daemon.close)
        lowered = ask_in_turns(daemon)
        assert daemon.stop() == 0
        yield Story(before, killed, lowered, budget_bytes)


def kill_under_load(daemon: Daemon) -> tuple[Evidence, Evidence, dict[str, int]]:
    daemon.wait_for("ready: 6 models")
    before = look(daemon)
    with Client(daemon.endpoint, timeout_s=60, retry=Retry(attempts=1)) as client:
        pending = [client.submit(X, name) for name in NAMES * EACH]
        daemon.worker().kill()
        for one in pending:
            one.result()
        until(lambda: daemon.log().count("ready: 6 models") == 2)
        killed = look(daemon)
        until(lambda: daemon.log().count("is measured") == len(NAMES))
        return before, killed, client.statistics().memory


def ask_in_turns(daemon: Daemon) -> Evidence:
    daemon.wait_for("ready: 6 models")
    with Client(daemon.endpoint, timeout_s=60) as client:
        for name in NAMES * 3:
            client.infer(X, name)
    until(lambda: "edged_memory_budget_bytes " in look(daemon).metrics)  # it has been measured
    return look(daemon)


def look(daemon: Daemon) -> Evidence:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["status", "--endpoint", daemon.endpoint]) == 0
    return Evidence(out.getvalue(), get(daemon.folder / "metrics.sock"), daemon.log())


def test_a_worker_that_was_killed_under_load(story: Story) -> None:
    before, after = story.before, story.killed
    for where, line in quoted("The worker was killed under load"):
        assert after.has(where, line), f"{line!r} is not in the {where}: {getattr(after, where)}"
        if not line.startswith("INFO"):
            assert not before.has(where, line), f"{line!r} is in the {where} of any daemon"
    answered = after.numbers.by("edged_inference_request_success_total", "task")
    assert answered == dict.fromkeys(NAMES, EACH)
    assert "edged_inference_request_failure_total{" not in after.metrics
    assert slower_than(after, "queue", 0.1) > slower_than(after, "compute_infer", 0.1)


def slower_than(found: Evidence, phase: str, seconds: float) -> float:
    """The number of requests for which a phase took longer than that."""
    name = f"edged_inference_{phase}_duration_seconds"
    below = found.numbers.total(f"{name}_bucket", le=str(seconds))
    return found.numbers.total(f"{name}_count") - below


def test_a_budget_that_was_lowered(story: Story) -> None:
    before, after = story.before, story.lowered
    for where, line in quoted("The budget was lowered"):
        assert after.has(where, line), f"{line!r} is not in the {where}: {getattr(after, where)}"
        assert not before.has(where, line), f"{line!r} is in the {where} of any daemon"
    missed, found = (after.numbers.total(f"edged_model_{of}_total") for of in ("misses", "hits"))
    assert missed / (missed + found) >= 0.5
    assert after.numbers.total("edged_memory_budget_bytes") == story.budget_bytes
    assert after.numbers.total("edged_ready") == 1
    assert "ERROR" not in after.log
