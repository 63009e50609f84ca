"""`edged plan loading` and `edged plan generate loading` as a user calls them."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from edged.cli import main
from edged.planner.loading.generate import FAMILIES
from edged.planner.loading.methods import METHODS
from edged.planner.loading.problem import read

DATA = Path(__file__).parent / "loading" / "data"


def test_the_table_says_what_one_asks_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "loading", str(DATA / "pl_bls_000.json"), "--method", "greedy"]) == 0
    out = capsys.readouterr().out
    assert "served    6 of 15 users" in out
    assert "makespan  48.30 ms of 80 ms" in out
    assert "bound     8 users (gap 25.0 %)" in out
    assert "method    greedy, " in out
    assert out.splitlines()[0].split()[:3] == ["batch", "model", "served"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_writes_the_result_format(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.json"
    instance = str(DATA / "pl_bls_070.json")
    assert main(["plan", "loading", instance, "--method", method, "--out", str(out), "--json"]) == 0
    plan = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == plan
    assert plan["method"] == method
    assert plan["served"] == sum(len(batch["users"]) for batch in plan["batches"])
    assert plan["bound"] == 10
    assert plan["solve_ms"] > 0
    assert set(plan["batches"][0]) == {"model", "users", "bandwidth"}


def test_the_default_for_nested_clusters_is_the_optimum(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "loading", str(DATA / "pl_bls_070.json")]) == 0
    out = capsys.readouterr().out
    assert "bound     10 users (optimal)" in out
    assert "method    dp, " in out


@pytest.mark.parametrize("family", FAMILIES)
def test_generated_instances_are_solved_from_a_pipe(
    family: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["plan", "generate", "loading", "--family", family, "--seed", "3", "--users", "12"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert len(read(text).users) == 12
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert main(["plan", "loading", "-"]) == 0
    assert "of 12 users" in capsys.readouterr().out


def test_every_figure_of_the_setting_can_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    options = (
        "--users 5 --models 4 --deadline-ms 90 --slot-ms 5 --bandwidth-mhz 20 --sharing 0.5 "
        "--upload-kbit 8 --load-mb-per-s 500"
    )
    assert main(["plan", "generate", "loading", *options.split()]) == 0
    problem = read(capsys.readouterr().out)
    assert (len(problem.users), len(problem.models)) == (5, 4)
    assert (problem.deadline_ms, problem.slot_ms, problem.bandwidth_hz) == (90, 5, 20e6)
    assert {user.upload_bits for user in problem.users} == {8000}
    assert problem.load.bytes_per_ms == 500e3


def test_an_empty_instance_is_an_empty_plan_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    instance = tmp_path / "empty.json"
    assert main(["plan", "generate", "loading", "--users", "0", "--out", str(instance)]) == 0
    assert main(["plan", "loading", str(instance)]) == 0
    out = capsys.readouterr().out
    assert "users: there are none, so the plan is empty" in out
    assert "served    0 of 0 users" in out


@pytest.mark.parametrize(
    ("command", "status", "line"),
    [
        (["loading", "/nowhere.json"], 1, "/nowhere.json: no such file"),
        (["loading", "/"], 2, "/: cannot be read: Is a directory"),
        (["generate", "loading", "--sharing", "1.5"], 2, "sharing: must be <= 1, got 1.5"),
        (["generate", "loading", "--models", "0"], 2, "models: must be >= 1, got 0"),
        (
            ["generate", "loading", "--out", "/nowhere/x.json"],
            2,
            "/nowhere/x.json: cannot be written: No such file or directory",
        ),
        (
            ["loading", str(DATA / "pl_gen_000.json"), "--method", "dp"],
            2,
            "models[0].blocks: what it shares is not nested with what models[3] shares, "
            "so method dp does not apply: take greedy-plus",
        ),
    ],
)
def test_what_goes_wrong_is_one_line(
    command: list[str], status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *command]) == status
    captured = capsys.readouterr()
    assert captured.err == f"edged: {line}\n"
    assert captured.out == ""


def test_a_negative_seed_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "generate", "loading", "--seed", "-1"])
    assert "must be an integer >= 0, got '-1'" in capsys.readouterr().err
