"""What `backend = "auto"` takes, and what it says of the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from edged.device.choosing import CPU, ORT_CUDA, TENSORRT, TORCH, candidates, choose
from edged.errors import Unavailable


def root(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


@pytest.mark.parametrize(
    ("files", "order"),
    [
        (("etc/nv_tegra_release",), [TENSORRT, TORCH, ORT_CUDA, CPU]),
        (("dev/nvidiactl",), [TORCH, TENSORRT, ORT_CUDA, CPU]),
        ((), [CPU]),
    ],
)
def test_the_machine_decides_what_is_tried_first(tmp_path: Path, files, order) -> None:
    assert list(candidates(root(tmp_path, *files))) == order


def test_the_first_that_comes_up_is_taken_and_the_others_have_a_reason(tmp_path: Path) -> None:
    choice = choose(
        lambda one: "cuInit says 999" if one is TENSORRT else None,
        root(tmp_path, "etc/nv_tegra_release"),
    )
    assert choice.candidate is TORCH
    assert choice.line == "backend torch with CUDA (tensorrt: cuInit says 999)"


def test_where_nothing_comes_up_all_reasons_are_told(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="onnxruntime on the CPU: broken"):
        choose(lambda one: "broken", tmp_path)
