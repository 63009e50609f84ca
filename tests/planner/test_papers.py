"""The benchmarks that draw the papers' figures run, and their gains have the right sign."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from edged.planner.fleet.problem import FleetProblem
from tests.planner.fleet.helpers import family
from tools.bench.__main__ import main
from tools.bench.papers import j3o, j3o_loads, j3o_motivation, j3o_page


def test_the_figures_of_partial_loading(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["papers", "--only", "partial-loading", "--quick", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["tools.bench", *command])
    assert main(command) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["figure"] for line in lines] == ["6", "7", "8", "9"]
    for figure, method in ((0, "Gen"), (0, "Spec"), (0, "dp"), (1, "Gen"), (1, "greedy-plus")):
        assert all(
            points > 5 for points in lines[figure]["points_over_independent"][method].values()
        )
    assert lines[3]["bls"]["dp"]["served"] == lines[3]["bls"]["exact"]["served"]
    page = (tmp_path / "partial-loading.md").read_text(encoding="utf-8")
    assert page.count("\n| ---") == 7  # every table is filled in
    for n in (6, 7, 8, 9):
        assert f"(partial-loading-fig{n}.svg)" in page
        assert (tmp_path / f"partial-loading-fig{n}.svg").stat().st_size > 1000


def _small(name: str, seed: int, **scenario: Any) -> FleetProblem:
    return family(name, seed, **scenario | {"clients": 6})


@pytest.fixture
def less_to_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the figures from small fleets and few points."""
    monkeypatch.setattr(j3o, "instance", _small)
    monkeypatch.setattr(j3o_loads, "_instance", lambda seed: _small("hard", seed))
    few = {name: (label, values[::5]) for name, (label, values) in j3o_page.SWEEPS.items()}
    monkeypatch.setattr(j3o_page, "SWEEPS", few)
    monkeypatch.setattr(j3o_motivation, "PROPORTIONS", (0.5,))
    monkeypatch.setattr(j3o_motivation, "SETUP_COSTS_S", (0.0, 0.5))
    monkeypatch.setattr(j3o_loads, "SPREADS", (0.4,))
    monkeypatch.setattr(j3o_loads, "COSTS", (0.0, 0.1))
    monkeypatch.setattr(j3o_loads, "STEPS", 3)


@pytest.mark.slow
def test_the_figures_of_j3o(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    less_to_draw: None,
) -> None:
    keep = tmp_path / "keep"
    command = ["papers", "--only", "j3o", "--quick", "--out", str(tmp_path), "--keep", str(keep)]
    monkeypatch.setattr(sys, "argv", ["tools.bench", *command])
    assert main(command) == 0
    first = capsys.readouterr().out
    lines = {line["figure"]: line["ours"] for line in map(json.loads, first.splitlines())}
    assert set(lines) == {"IV", *"1234567", "intervals", "drift"}
    for methods in lines["IV"].values():
        assert all(found["ratio"] <= 1 + 2e-6 for found in methods.values())
        assert methods["price"]["ratio"] >= 0.99 > methods["full-local"]["ratio"]
    batches = lines["2"]["p_A = 0.6"]["batch A"]
    assert batches[1] < batches[0]  # the higher setup time
    assert lines["drift"]["never"]["mb_a_step"] == 0
    assert lines["drift"]["0.1"]["mb_a_step"] <= lines["drift"]["0"]["mb_a_step"]
    page = (tmp_path / "j3o.md").read_text(encoding="utf-8")
    assert page.count("\n| ---") == 12  # every table is filled in
    for name in ("fig1", "fig2", "fig3-5", "fig6-7", "drift"):
        assert f"(j3o-{name}.svg)" in page
        assert (tmp_path / f"j3o-{name}.svg").stat().st_size > 1000

    monkeypatch.setattr(j3o, "solve", None)  # a second run finds every piece in its file
    assert main(command) == 0
    assert capsys.readouterr().out == first


def test_an_unknown_paper_is_told_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["papers", "--only", "smooth2"]) == 2
    assert "--only: must be of partial-loading, j3o, got 'smooth2'" in capsys.readouterr().err
