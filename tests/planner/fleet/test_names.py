"""The names on the command line are those of the planners, and do not import them."""

from __future__ import annotations

import subprocess
import sys

from edged.planner.fleet import generate, methods, names, price, problem


def test_the_names_are_those_of_the_planners() -> None:
    assert list(names.METHODS) == list(methods.METHODS)
    assert list(names.EFFORTS) == list(price.EFFORTS)
    assert list(names.FAMILIES) == list(generate.FAMILIES)
    assert list(names.MODES) == [mode.value for mode in problem.Mode]


def test_help_imports_no_arrays_and_no_solver() -> None:
    code = "import sys; from edged.cli import parser; parser().format_help(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "edged.planner.fleet.cli" in done.stdout
    assert not {"numpy", "highspy", "scipy"} & set(done.stdout.split())
