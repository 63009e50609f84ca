"""The benchmark that draws PartialLoading's figures runs, and its gains have the right sign."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tools.bench.__main__ import main


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


def test_an_unknown_paper_is_told_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["papers", "--only", "smooth2"]) == 2
    assert "--only: must be of partial-loading, j3o, got 'smooth2'" in capsys.readouterr().err
