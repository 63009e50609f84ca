"""`edged-export engines` names what would be built, without TensorRT."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from export.cli import main
from tests.backends.blocks import dense
from tests.device.rig import Model, make_store


def test_it_names_engines_and_what_heads_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = dense(8, 16)
    heads = [dense(16, 2 + n, seed=n, relu=False) for n in range(3)]
    make_store(tmp_path, [Model(f"m{n}", backbone, head) for n, head in enumerate(heads)])
    assert main(["engines", "--store", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "head-16-fp32-1024" in shown
    assert shown.endswith("2 engines for 4 blocks\n")
    assert main(["engines", "--store", str(tmp_path), "--json", "m1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(line["engine"], line["float_operators"]) for line in found] == [
        (backbone.id, 0),
        ("head-16-fp32-1024", 1),
    ]
