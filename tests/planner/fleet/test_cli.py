"""`edged plan fleet` and `edged plan generate fleet` as a user calls them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from edged.cli import main
from edged.planner.fleet.generate import FAMILIES
from edged.planner.fleet.methods import METHODS
from edged.planner.fleet.problem import read
from tests.planner.fleet.helpers import DATA

HARD = str(DATA / "j3o_hard_0.json")


def test_the_table_says_what_one_asks_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "fleet", HARD, "--method", "milp"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split()[:3] == ["edge", "clients", "queries/s"]
    assert "accuracy  0.588376 of 1 (mode drop)" in out
    assert "bound     0.588376 (optimal)" in out
    assert "method    milp, 1 iterations, " in out


@pytest.mark.parametrize("method", METHODS)
def test_every_method_writes_the_result_format(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.json"
    instance = str(DATA / "baj3o_hard_0.json")
    assert main(["plan", "fleet", instance, "--method", method, "--out", str(out), "--json"]) == 0
    plan = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == plan
    assert (plan["method"], len(plan["x_c"]), len(plan["z_e"])) == (method, 9, 3)
    assert plan["status"] in ("optimal", "feasible")
    assert 0 < plan["obj"] <= 0.595889
    assert plan["obj"] <= plan["bound"]
    assert plan["bound"] >= 0.595888  # the optimum, whatever the method
    assert plan["gap"] == pytest.approx(1 - plan["obj"] / plan["bound"])
    assert plan["time_s"] > 0
    for o, oce, r in zip(plan["o"], plan["oce"], plan["r"], strict=True):
        assert all(0 <= c <= a and 0 <= b <= 1 for a, c, b in zip(o, oce, r, strict=True))


def test_an_infeasible_instance_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "fleet", str(DATA / "j3o_strict_0.json")]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "infeasible: no plan serves every query because of (9) compute of clients"
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_generated_instances_are_solved_from_a_pipe(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["plan", "generate", "fleet", "--family", name, "--seed", "3", "--clients", "9"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert read(text).n_clients == 9
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert main(["plan", "fleet", "-", "--effort", "quick"]) == 0
    assert "method    price, " in capsys.readouterr().out


def test_generator_options_reach_the_instance(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--edges", "2", "--load", "50", "--mode", "null", "--batching", "--window-s", "0.8"]
    assert main(["plan", "generate", "fleet", "--family", "hard", "--tasks", "3", *options]) == 0
    problem = read(capsys.readouterr().out)
    assert (problem.n_edges, problem.n_tasks, problem.mode.value) == (2, 3, "null")
    assert problem.total_load == pytest.approx(50.0)
    assert problem.window_s == 0.8


def test_plans_for_unknown_and_changing_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.json"
    assert main(["plan", "fleet", HARD, "--out", str(plan)]) == 0
    assert main(["plan", "fleet", HARD, "--previous", str(plan), "--switch-cost", "1"]) == 0
    assert "loaded_mb 0" in capsys.readouterr().out
    assert main(["plan", "fleet", HARD, "--spread", "0.2", "--samples", "2", "--json"]) == 0
    hedged = json.loads(capsys.readouterr().out)
    assert 0 < hedged["expected"] <= hedged["expected_bound"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--spread", "0.1", "--method", "milp"], "--method: milp plans neither"),
        (["--spread", "2"], "spread: must be from 0 to 1, got 2.0"),
        (["--spread", "0.1", "--previous", HARD], "--spread and --previous: take one"),
        (["--previous", HARD], "not a fleet plan"),
        (["--samples", "3"], "--samples: needs --spread"),
        (["--switch-cost", "1"], "--switch-cost: needs --previous"),
        (["--method", "milp", "--time-limit-s", "nan"], "time limit: must be >= 0 s, got nan"),
        (["--seed", "-1"], "--seed: must be >= 0, got -1"),
        (["--method", "baj3o"], "nu: null; method baj3o"),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "fleet", HARD, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clients", "0"], "clients: must be >= 1, got 0"),
        (["--load", "nan"], "load: must be >= 0, got NaN"),
        (["--client-alpha", "0"], "client_alpha: must be > 0, got 0.0"),
        (["--tasks", "40"], "tasks: must be <= 12, got 40"),
        (["--seed", "-3"], "--seed: must be >= 0, got -3"),
    ],
)
def test_a_scenario_that_cannot_be_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "generate", "fleet", "--family", "hard", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


GREETING = """
import ctypes, sys
import highspy

class Greeting(highspy._Highs):
    \"\"\"As highspy 1.16: it greets while it is made, unless its options forbid it by then.\"\"\"

    def __init__(self):
        super().__init__()
        self.enableCallbacks()

    def enableCallbacks(self):
        if self.getOptionValue("output_flag")[1]:
            ctypes.CDLL(None).puts(b"Running HiGHS")

highspy.Highs = Greeting
from edged.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_the_solver_greets_nobody() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GREETING, "plan", "fleet", HARD, "--method", "milp", "--json"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["method"] == "milp"
