"""The check of a GPU, without one: its judgement, its page, and a dry run on a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch

from edged.manifest import Manifest
from tests.backends.blocks import Block, dense
from tests.device.rig import Model as PathModel
from tests.device.rig import make_store
from tools.gpucheck import __main__ as runner
from tools.gpucheck import plan, skeleton, steps
from tools.gpucheck.findings import (
    Facts,
    Faults,
    Findings,
    Fixed,
    Loads,
    Model,
    Parity,
    Pipeline,
    Point,
    Served,
    Serving,
    Suite,
    Whole,
    all_held,
    checks,
)
from tools.gpucheck.page import page
from tools.gpucheck.plan import Step
from tools.gpucheck.skeleton import fill, strip

CHECKOUT = Path(__file__).resolve().parents[2]
MB = 1_000_000
BARE = Whole((Point(1, 20.0, 10.0), Point(16, 100.0, None)), 90.0, Point(16, 90.0, 40.0), 2000 * MB)
SERVING = Serving(
    Served(156.0, 15.9, 0.98, 0, {}),
    Served(52.0, 1.0, 0.0, 0, {}),
    lone_ms=12.0,
    used_bytes=1300 * MB,
    half=Served(384.0, 15.9, 0.98, 0, {}),
)
GOOD = Findings(
    label="measured",
    date="2026-11-21",
    command="python -m tools.gpucheck",
    errors={},
    facts=Facts("A GPU", {"torch": "3.0"}, "a processor"),
    suite=Suite(300, 0, 2),
    store=Model("swinv2-base", 256, 5, 355 * MB),
    bare=BARE,
    daemon=SERVING,
    memory=Fixed(600 * MB),
    pipeline=Pipeline(103.0, 100.5),
    parity=Parity({"fp32": 1e-6, "fp16": 4e-3}, {"fp32": 1.0, "fp16": 1.0}),
    loads=Loads(350 * MB, 0.05, 0.01, 0),
    faults=Faults(40, 40, True, True),
)


def changed(part: Any, **fields: Any) -> Any:
    return msgspec.structs.replace(part, **fields)


def test_the_ratios_are_those_that_are_asked_for():
    assert [(c.found, c.least) for c in checks(GOOD)] == [
        (3.0, 3.0),
        (pytest.approx(0.975), 0.95),  # 156 by 16 rows in 100 ms
        (pytest.approx(0.96), 0.95),  # 384 by 16 rows in 40 ms
        (0.5, 0.45),  # 700 by 1400, above the fixed part; 0.35 of all
        (1.0, 1.0),
    ]
    assert all_held(GOOD)


@pytest.mark.parametrize(
    "change",
    [
        {"daemon": changed(SERVING, alone=Served(53.0, 1.0, 0.0, 0, {}))},
        {"bare": changed(BARE, curve=(Point(16, 100.0, 95.0),))},  # the graph is the better way
        {"bare": changed(BARE, half=Point(16, 90.0, 39.0))},
        {"daemon": changed(SERVING, used_bytes=1400 * MB)},
        {"faults": Faults(39, 40, True, True)},
        {"faults": Faults(40, 40, True, False)},
        {"suite": Suite(299, 1, 2)},
        {"suite": Suite(0, 0, 302)},
    ],
)
def test_one_miss_is_a_miss(change):
    findings = changed(GOOD, **change)
    assert not all_held(findings)
    assert "NOT everything held" in page(findings)


@pytest.mark.parametrize(
    "step", ["suite", "bare", "daemon", "memory", "faults", "pipeline", "parity", "loads", "facts"]
)
def test_what_was_not_measured_is_a_miss_and_no_figure(step):
    findings = changed(GOOD, errors={step: "not done in 60 s"}, **{step: None})
    assert not all_held(findings)
    text = page(findings)
    assert f"Steps that failed: {step}, not done in 60 s" in text
    assert "nan" not in text


def test_the_page_says_first_what_it_cannot_verify():
    text = page(GOOD)
    assert text.index("What this page cannot verify") < text.index("Label: measured")
    assert text.count("| held |") == 5
    assert "300 passed, 0 failed, 2 skipped" in text
    assert "| 1 | 20.00 | 10.00 | 100.0 |" in text
    assert "| 16 | 100.00 | - | 160.0 |" in text
    assert "35% less. A process that" in text
    assert "above that the daemon takes 50% less" in " ".join(text.split())
    assert all(len(line) <= 120 or line.startswith("|") for line in text.splitlines())


def test_every_step_of_the_plan_is_there_and_has_a_place_on_the_page():
    assert [step.name for step in plan.STEPS] == list(steps.STEPS)
    assert {step.name for step in plan.STEPS} < set(Findings.__struct_fields__)


def test_a_skeleton_is_filled_with_weights_of_the_same_size(tmp_path):
    """Masks and what is small stay, so the models are the same but for their weights."""
    block, head, mask = dense(64, 100), dense(100, 9), np.repeat(np.float32([0, -100]), 200)
    model = onnx.load_from_string(block.data)
    model.graph.initializer.append(onnx.numpy_helper.from_array(mask, "mask"))
    whole = Block(model.SerializeToString(deterministic=True), block.use, block.twin)
    store, small = make_store(tmp_path / "a", [PathModel("cat", whole, head)]), tmp_path / "b.zip"
    strip(store, small)
    assert small.stat().st_size < 4000
    filled = fill(small, tmp_path / "filled", seed=1, tasks=2)
    one, other = ([step.block for step in of.steps] for of in filled.models().values())
    assert one[0] == other[0]
    assert one[1] != other[1]
    assert [filled.block_size(b) for b in one] == [store.block_size(b.id) for b in (whole, head)]
    found = onnx.load(str(filled.block_path(one[0])))
    weights = {each.name: onnx.numpy_helper.to_array(each) for each in found.graph.initializer}
    assert np.array_equal(weights["mask"], mask)
    assert len(np.unique(weights["w"])) > 6000
    again = fill(small, tmp_path / "filled", seed=2, tasks=2)
    assert again.models() == filled.models()


def test_the_skeleton_of_the_checkout_is_of_the_whole_network():
    """87 million weights in three blocks, the last of which is a head."""
    left_out = {}
    with zipfile.ZipFile(steps.SKELETONS / "swinv2-base.zip") as file:
        manifest = msgspec.json.decode(file.read("model.json"), type=Manifest)
        for step in manifest.steps:
            graph = onnx.load_from_string(file.read(step.block))
            left_out[step.block] = sum(np.prod(w.dims) for w in skeleton.left_out(graph))
    first, body, head = left_out.values()
    assert 86e6 < first + body + head < 91e6  # with tables that were folded
    assert head == 1024 * 10


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Have the steps of a check be this program."""
    package = folder / "tools" / "gpucheck"
    package.mkdir(parents=True)
    for each in (folder / "tools", package):
        (each / "__init__.py").touch()
    (package / "steps.py").write_text(f"import sys, os, time, subprocess\n{text}\n")
    monkeypatch.setattr(runner, "CHECKOUT", folder)


def test_a_step_prints_what_it_likes_before_its_figures(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, "print('a warning'); print('{\"used_bytes\": 7}')")
    line = runner._step(Step("memory", 20), {}, 60.0)
    assert (line["step"], line["found"]) == ("memory", {"used_bytes": 7})


@pytest.mark.parametrize("text", ["sys.exit(3)", "print('{'); sys.exit(3)", "os.abort()"])
def test_a_step_that_fails_costs_only_itself(text, tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, text)
    line = runner._step(Step("memory", 20), {}, 60.0)
    assert "without figures" in line["error"]


def test_a_step_says_what_went_wrong(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, "print('\"no room\"'); sys.exit(1)")
    assert runner._step(Step("memory", 20), {}, 60.0)["error"] == "no room"


def test_a_step_that_hangs_is_ended_with_what_it_has_started(tmp_path, monkeypatch):
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])"
    program(tmp_path, monkeypatch, f"p = {child}; open('child', 'w').write(str(p.pid)); p.wait()")
    line = runner._step(Step("memory", 60), {}, 8.0)
    assert line["error"] == "not done in 8 s"
    state = Path(f"/proc/{(tmp_path / 'child').read_text()}/stat")
    assert not state.exists() or state.read_text().split()[2] in "ZX"


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
def test_a_dry_run_goes_through_every_step(tmp_path):
    pytest.importorskip("transformers", reason="the model comes from transformers")
    done = check(
        "--dry-run", "--seconds", "0.5", "--rows", "2", "--out", str(tmp_path),
        "--only", "new_rows_in_old_places and recorded",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [line["step"] for line in lines if "found" in line] == [s.name for s in plan.STEPS]
    (written,) = tmp_path.iterdir()
    assert written.name.startswith("gpu-no-gpu-")
    text = written.read_text()
    assert "**Label: dry run, cpu.**" in text
    assert "1 passed, 0 failed, 0 skipped" in text
    assert text.count(" at least ") == 5
    for row in ("| 1 |", "| 2 |", "| all tasks together", "| one model per task, one request"):
        assert text.count(row) == 1, row
