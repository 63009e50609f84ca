"""The check of a GPU, without one: its judgement, its page, and a dry run on a tiny model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch

from tools.gpucheck.findings import (
    Conformance,
    Findings,
    Memory,
    Point,
    Served,
    Whole,
    all_held,
    checks,
)
from tools.gpucheck.page import page

CHECKOUT = Path(__file__).resolve().parents[2]
GOOD = Findings(
    label="measured",
    device="A GPU",
    versions={"torch": "3.0"},
    machine="a processor",
    date="2026-11-21",
    command="python -m tools.gpucheck",
    seed=1,
    model="swinv2-base",
    side=256,
    tasks=3,
    rows=16,
    conformance=Conformance(300, 0, 2),
    whole=Whole((Point(1, 20.0, 10.0), Point(16, 100.0, None)), 90.0),
    cross_task=Served(150.0, 15.9, 0.98, 0, {}),
    alone=Served(50.0, 1.0, 0.0, 0, {}),
    lone_ms=12.0,
    memory=Memory(500_000_000, 2_000_000_000, 1_099_000_000),
)


def test_the_ratios_are_those_that_are_asked_for():
    assert [(round(c.found, 4), c.least) for c in checks(GOOD)] == [
        (3.0, 3.0),
        (0.9375, 0.9),  # 150 by 16 rows in 100 ms
        (0.4505, 0.45),
    ]
    assert all_held(GOOD)


@pytest.mark.parametrize(
    "change",
    [
        {"alone": Served(50.1, 1.0, 0.0, 0, {})},
        {"whole": Whole((Point(16, 100.0, 95.0),), 90.0)},  # the graph is the better way
        {"memory": Memory(500_000_000, 2_000_000_000, 1_101_000_000)},
        {"conformance": Conformance(299, 1, 2)},
        {"conformance": Conformance(0, 0, 302)},
    ],
)
def test_one_miss_is_a_miss(change):
    findings = msgspec.structs.replace(GOOD, **change)
    assert not all_held(findings)
    assert "NOT everything held" in page(findings)


def test_the_page_says_what_was_found():
    text = page(GOOD)
    assert text.count("| held |") == 3
    assert "300 passed, 0 failed, 2 skipped" in text
    assert "| 1 | 20.00 | 10.00 | 100.0 |" in text
    assert "| 16 | 100.00 | - | 160.0 |" in text
    assert "above that the daemon takes 60% less" in text


def check(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.gpucheck", *options]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)


def test_without_a_gpu_it_says_so_in_one_line():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = check()
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "nothing was checked" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_dry_run_goes_through_every_line(tmp_path):
    pytest.importorskip("transformers", reason="the model comes from transformers")
    done = check(
        "--dry-run", "--seconds", "0.5", "--rows", "2", "--out", str(tmp_path),
        "--only", "new_rows_in_old_places and torch",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (written,) = tmp_path.iterdir()
    assert written.name.startswith("gpu-no-gpu-")
    text = written.read_text()
    assert "**Label: dry run, cpu.**" in text
    assert "2 passed, 0 failed, 0 skipped" in text
    assert text.count(" at least ") == 3
    for row in ("| 1 |", "| 2 |", "| all tasks together", "| one model per task, one request"):
        assert text.count(row) == 1, row
