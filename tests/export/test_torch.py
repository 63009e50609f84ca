"""Torch modules are added to a store by torch.onnx.export."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edged.errors import InvalidArgument, NotFound, Unsupported
from edged.store import Store
from export.add import add_models
from export.check import feeds, run_chain
from export.cli import main
from export.source import Source
from export.torch_model import export_module, load_module
from tests.export import modules

HERE = "tests.export.modules"


@pytest.mark.parametrize("rows", [1, 2])
def test_a_module_computes_in_blocks_what_it_does_in_torch(tmp_path: Path, rows: int) -> None:
    module, example = modules.tiny(rows)
    export_module(module, (example,), tmp_path / "m.onnx")
    store = Store(tmp_path / "store").create()
    (added,) = add_models(store, [Source("t", tmp_path / "m.onnx")]).added
    assert added.manifest.max_rows is None
    feed = feeds(added.manifest)[-1]
    (found,) = run_chain(added.manifest, store.block_bytes, [feed])
    with torch.no_grad():
        expected = module(torch.from_numpy(feed["input"])).numpy()
    assert np.allclose(found["output"], expected, atol=1e-5)


def test_the_command_names_inputs_and_outputs_as_the_module_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = str(tmp_path / "store")
    monkeypatch.setattr(sys, "path", [*sys.path])  # the command adds to it
    assert main(["torch", f"a:small={HERE}:two", "--store", store]) == 0
    model = Store(store).model("small")
    assert (model.inputs, model.outputs) == (("left", "right"), ("sum", "best"))
    assert [model.value(name).datatype for name in model.outputs] == ["FP32", "INT64"]


@pytest.mark.parametrize(
    ("target", "error", "says"),
    [
        ("tests.export.nowhere:tiny", NotFound, "module tests.export.nowhere cannot be imported"),
        (f"{HERE}:small", NotFound, "has no 'small'"),
        (f"{HERE}", InvalidArgument, "is no package.module:function"),
        (f"{HERE}:nothing", InvalidArgument, "must return a torch.nn.Module and an example"),
    ],
)
def test_what_is_no_callable(target: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        load_module(target)


class Choosy(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum().item() > 0 else x


def test_a_module_that_torch_cannot_export(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"torch cannot export Choosy: .* in another way"):
        export_module(Choosy(), (torch.ones(2, 3),), tmp_path / "m.onnx")
