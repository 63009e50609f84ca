"""`edged simulate`: policies beside each other, as a table, as JSON and as a figure."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from edged.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "simulator.md"
POLICIES = ("wc", "alg1", "alg1_max", "alg1_timeout", "greedy", "static:4", "unbatched", "mono")


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    """The scenario of the page, shorter."""
    (text,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    scenario = json.loads(text)
    scenario["arrivals"]["requests"] = 150
    path = tmp_path / "scenario.json"
    path.write_text(json.dumps(scenario))
    return path


def options(*policies: str) -> list[str]:
    return [word for policy in policies for word in ("--policy", policy)]


def test_policies_are_compared_on_the_same_arrivals(scenario, tmp_path, capsys):
    figure = tmp_path / "latencies.svg"
    assert main(["simulate", str(scenario), *options(*POLICIES), "--plot", str(figure)]) == 0
    shown = capsys.readouterr().out
    assert "simulated, 150 requests" in shown
    assert [line.split()[0] for line in shown.splitlines()[3:]] == list(POLICIES)
    assert "simulated" in figure.read_text()
    assert main(["simulate", str(scenario), *options("greedy"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["policy"], found["label"], found["refused"]) == ("greedy", "simulated", 0.0)
    assert found["mean_batch"] > 8


def test_figures_that_there_are_none_of_are_null(scenario, capsys):
    hopeless = {**json.loads(scenario.read_text()), "deadline_ms": 1}
    scenario.write_text(json.dumps(hopeless))
    assert main(["simulate", str(scenario), "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (found["refused"], found["p99"]) == (1.0, None)


def test_a_trace_is_replayed_by_other_policies(scenario, tmp_path, capsys):
    trace = tmp_path / "decisions.jsonl"
    assert main(["simulate", str(scenario), "--trace", str(trace)]) == 0
    assert main(["replay", str(trace)]) == 0
    assert main(["simulate", str(trace), *options("wc", "alg1_max")]) == 0
    assert "simulated, 150 requests" in capsys.readouterr().out
    several = [*options("wc", "greedy"), "--trace", str(trace)]
    assert main(["simulate", str(scenario), *several]) == 2
