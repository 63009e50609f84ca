"""The comparison of two revisions: which numbers are figures, the interval, and a whole run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from edged.errors import InvalidArgument
from tools.bench import versus
from tools.bench.__main__ import main

# A benchmark package that prints one figure; `{speed}` differs between two revisions.
FAKE = """
import json, os, sys
kept = sys.argv[sys.argv.index("--dir") + 1]
runs = len(os.listdir(kept)) + 1000 * ("--more" in sys.argv)
open(os.path.join(kept, str(runs)), "w").close()
print("a word that is no figure")
print(json.dumps({{"bench": "fake", "seed": 7, "rate": {speed} + runs % 3, "runs": runs}}))
"""


def git(root: Path, *words: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *who, *words], cwd=root, check=True, capture_output=True)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose last commit ran at 100 and whose work tree runs at 50."""
    root = tmp_path / "repo"
    bench = root / "tools" / "bench"
    bench.mkdir(parents=True)
    (root / "tools" / "__init__.py").touch()
    (bench / "__init__.py").touch()
    (bench / "__main__.py").write_text(FAKE.format(speed=100))
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "old")
    (bench / "__main__.py").write_text(FAKE.format(speed=50))
    monkeypatch.setattr(versus, "ROOT", root)
    return root


def test_both_sides_run_in_turns_and_the_line_has_the_ratio_of_their_medians(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["versus", "HEAD", "fake", "--dir", "{dir}"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["pairs"] == versus.LEAST_PAIRS
    rate = found["figures"]["rate"]
    assert (rate["old"], rate["new"]) == (101.0, 51.0)
    assert rate["ratio"] == round(51 / 101, 4)
    low, high = rate["interval"]
    assert 50 / 102 <= low <= rate["ratio"] <= high <= 52 / 100
    assert "seed" not in found["figures"]  # the same in every run: no figure


def test_the_new_side_may_have_options_of_its_own(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["versus", "--new=--more", "HEAD", "fake", "--dir", "{dir}"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["new_options"] == "--more"
    assert found["figures"]["runs"]["old"] < 1000 <= found["figures"]["runs"]["new"]


def test_a_benchmark_that_fails_is_told_with_its_last_words(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["versus", "HEAD", "fake"]) == 1
    assert "'--dir' is not in list" in capsys.readouterr().err


def test_an_unknown_revision_is_refused(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="git knows no revision 'nope'"):
        versus.check_out(tree, "nope", tmp_path / "old")


def test_figures_are_numbers_by_place_and_lists_count_by_their_medians() -> None:
    line = {
        "label": "measured",
        "rates": [[1, 10], [3, 30], [2, 20]],
        "alone": {"p50_ms": 4.5, "best": None, "met": True},
        "times": [5, 9, 7],
        "names": ["a", "b"],
        "uneven": [[1], [1, 2]],
    }
    assert versus.figures([line]) == {
        "rates.0": 2.0,
        "rates.1": 20.0,
        "alone.p50_ms": 4.5,
        "times": 7.0,
    }
    assert versus.figures([line, {"part": "cold", "s": 1}])["cold.s"] == 1.0


def test_the_interval_holds_the_true_ratio_and_narrows_with_the_noise() -> None:
    quiet = [({"x": 100.0 + n % 3}, {"x": 110.0 + n % 3}) for n in range(15)]
    noisy = [({"x": 100.0 + 9 * (n % 5)}, {"x": 110.0 + 9 * (n % 7)}) for n in range(15)]
    widths = []
    for pairs in (quiet, noisy):
        low, high = versus.compare(pairs, ["x"], seed=1)["x"]["interval"]
        assert low <= 1.1 <= high
        widths.append(high - low)
    assert widths[0] < widths[1]


def test_a_figure_that_is_not_printed_is_named_with_those_that_are() -> None:
    pairs = [({"x": 1.0}, {"x": 2.0, "y": 3.0})]
    with pytest.raises(InvalidArgument, match=r"no figure 'y'; it has: x$"):
        versus.compare(pairs, ["y"], seed=1)
