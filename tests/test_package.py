"""The wheel outside the checkout: its commands, what it installs, what importing it loads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
EXPORT_ONLY = ("onnx", "onnxscript", "sklearn", "torch")


def output(command: Sequence[str | Path], cwd: Path) -> str:
    """Standard output of a command that must succeed; its words are shown if it does not."""
    # pip builds the wheel with the pinned build backend too, by either variable (old pip, new pip)
    environment = os.environ | {
        "PIP_CONSTRAINT": str(CONSTRAINTS),
        "PIP_BUILD_CONSTRAINT": str(CONSTRAINTS),
    }
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def imported(python: Path, module: str, names: Sequence[str], cwd: Path) -> list[str]:
    """Which of `names` a fresh interpreter has loaded after importing `module`."""
    code = f"import sys, {module}; print(*sorted({set(names)!r} & sys.modules.keys()))"
    return output([python, "-c", code], cwd).split()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_wheel_gives_working_commands_outside_the_checkout(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    output([*pip, "wheel", "--no-deps", "--wheel-dir", wheels, ROOT], cwd=tmp_path)
    output([sys.executable, "-m", "venv", tmp_path / "venv"], cwd=tmp_path)
    bin_ = tmp_path / "venv" / "bin"
    output([bin_ / "pip", "install", "--quiet", *wheels.glob("*.whl")], cwd=tmp_path)

    assert output([bin_ / "edged", "--version"], cwd=tmp_path).startswith("edged 0.")
    assert "--config" in output([bin_ / "edged", "serve", "--help"], cwd=tmp_path)
    assert "tegra234" in output(
        [bin_ / "edged", "profile", "--show", "orin-nano-8gb"], cwd=tmp_path
    )
    table = "from edged.telemetry.board import jetpack; print(jetpack('36.4.3').name)"
    assert output([bin_ / "python", "-c", table], cwd=tmp_path) == "6.2\n"
    assert "usage: edged-export" in output([bin_ / "edged-export", "--help"], cwd=tmp_path)
    installed = output([bin_ / "pip", "list", "--format=freeze"], cwd=tmp_path)
    names = {line.partition("==")[0].lower() for line in installed.splitlines()}
    assert names & {"torch", "onnx", "onnxscript", "scikit-learn"} == set()
    assert "edged" in names
    for module in ("edged.daemon", "edged.device.worker", "edged.client"):
        assert imported(bin_ / "python", module, EXPORT_ONLY, cwd=tmp_path) == []


def test_client_and_front_start_light(tmp_path: Path) -> None:
    """A field device's client loads no runtime and no decoder, the front no runtime."""
    python = Path(sys.executable)
    heavy = ("cv2", "onnxruntime", *EXPORT_ONLY)
    assert imported(python, "edged.client", heavy, cwd=tmp_path) == []
    # What answers scrapes is a process of its own, for which the front must not pay.
    assert imported(python, "edged.daemon", (*heavy, "prometheus_client"), cwd=tmp_path) == []
