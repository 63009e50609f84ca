"""Sharing found in architectures that people use, exported by torch copy by copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edged import manifest as manifests
from edged.store import Store
from export.add import add_models
from export.cli import main
from export.listing import contents
from export.source import Source
from export.torch_model import export_module
from tests.export import modules
from tests.export.helpers import picture, same_as_file

pytestmark = pytest.mark.slow

Make = Callable[..., tuple[torch.nn.Module, torch.Tensor]]


def export(folder: Path, make: Make, copies: dict[str, tuple[int, ...]]) -> dict[str, Path]:
    files = {}
    for name, tuned in copies.items():
        module, example = make(*tuned)
        files[name] = folder / f"{name}.onnx"
        export_module(module, (example,), files[name])
    return files


@pytest.mark.parametrize(
    ("make", "copies", "paths", "at_least"),
    [
        # The bottom; stages 3 and 4 of a ResNet-18 have 94 % of its weights.
        (modules.resnet18, {"base": (), "tuned": (3, 4, 0)}, ["AB", "AC"], 0.06),
        # The middle of three, and the bottom, and a top of two.
        (
            modules.vit,
            {"base": (), "both": (1, 4, 0), "low": (1,)},
            ["ABCD", "AECF", "AGCD"],
            0.3,
        ),
        # All but one stage.
        (modules.swin, {"base": (), "stage": (2,)}, ["ABC", "ADC"], 0.7),
    ],
)
def test_copies_share_what_training_left_alone(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make: Make,
    copies: dict[str, tuple[int, ...]],
    paths: list[str],
    at_least: float,
) -> None:
    files = export(tmp_path, make, copies)
    store = Store(tmp_path / "store").create()
    report = add_models(store, [Source(name, file) for name, file in files.items()])
    assert picture(store, *files) == paths
    for added in report.added:
        assert added.difference.relative < 1e-5
        assert added.difference.largest > 1e-3
        assert same_as_file(store, added.manifest.name, files[added.manifest.name])
        layers = manifests.layers(added.manifest)
        assert all(len(layer.reads) == len(layer.writes) == 1 for layer in layers)
    whole = sum(model.whole_bytes for model in store.models().values())
    assert contents(store).block_bytes < whole - at_least * whole / len(files)
    assert main(["ls", "--store", str(store.path)]) == 0
    assert "as blocks" in capsys.readouterr().out
