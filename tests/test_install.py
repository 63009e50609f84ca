"""tools/install.sh on machines that lack something: one line that says what to do, no half venv."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

INSTALL = Path(__file__).resolve().parents[1] / "tools" / "install.sh"


def refusal(python: str | Path, venv: Path) -> str:
    """The one line with which the script refuses; it must leave nothing behind."""
    done = subprocess.run([INSTALL, python, venv, "demo"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert not venv.exists()
    (line,) = done.stderr.splitlines()
    return line


def interpreter(folder: Path, version: str, can_make_venvs: bool) -> Path:
    """Something that answers the script's two questions as such a Python would."""
    path = folder / "python3"
    path.write_text(
        "#!/bin/sh\n"
        'case "$2" in\n'
        f"*version_info*) echo {version} ;;\n"
        f"*) exit {int(not can_make_venvs)} ;;\n"
        "esac\n"
    )
    path.chmod(0o755)
    return path


def test_no_such_interpreter(tmp_path: Path) -> None:
    line = refusal("python3.no", tmp_path / "venv")
    assert "there is no python3.no here" in line
    assert "PYTHON=" in line


@pytest.mark.parametrize("version", ["3.9", "3.14"])
def test_interpreter_too_old_or_too_new(tmp_path: Path, version: str) -> None:
    line = refusal(interpreter(tmp_path, version, can_make_venvs=True), tmp_path / "venv")
    assert f"is Python {version}, edged needs 3.10 to 3.13" in line


def test_debian_python_without_its_venv_package(tmp_path: Path) -> None:
    line = refusal(interpreter(tmp_path, "3.12", can_make_venvs=False), tmp_path / "venv")
    assert line.endswith("apt-get install python3.12-venv")
