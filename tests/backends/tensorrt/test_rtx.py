"""Small graphs build with TensorRT-RTX, where it is at hand: it needs no GPU to build.

`make rtx` brings it into .rtx, which EDGED_RTX may name elsewhere. The Jetson's TensorRT is another
one.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edged.backends.base import go_on
from edged.backends.tensorrt.child import Builds
from edged.backends.tensorrt.orders import PLAN, BuildOrder, HeadShape, Pools
from edged.errors import Cancelled, Unsupported
from edged.store import Store
from tests.backends.blocks import block, dense
from tests.export.nets import classifier, transformer
from tools.bench.backbones import store_of
from tools.rtx import MODULE

RTX = Path(os.environ.get("EDGED_RTX", ".rtx")).absolute()


@pytest.fixture(autouse=True)
def _rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RTX))
    if importlib.util.find_spec(MODULE) is None:
        pytest.skip(f"there is no TensorRT-RTX in {RTX}: make rtx")


@pytest.fixture
def order(tmp_path: Path) -> Callable[[object], BuildOrder]:
    def of(what: object) -> BuildOrder:
        target = tmp_path / "target"
        target.mkdir()
        pools = Pools(64 << 20, 512 << 20, 3)
        return BuildOrder(MODULE, what, str(target), "fp16", 16, pools, str(tmp_path / "timings"))

    return of


@pytest.mark.parametrize("net", [classifier, transformer])
def test_a_typed_graph_becomes_a_plan(net, order, tmp_path: Path) -> None:
    store = Store(store_of([net(tmp_path / "net.onnx", "ab")], tmp_path / "store"))
    (block,) = store.blocks()
    said: list[float] = []

    def progress(phase: str, done: float) -> bool:
        said.append(done)
        return True

    made = order(str(store.block_path(block)))
    about = Builds(tmp_path, timeout_s=100.0).make(made, progress)
    assert about.precision == "fp16", about.fallback
    assert (Path(made.target) / PLAN).stat().st_size > 1000
    assert said == sorted(said)


def test_the_engine_of_all_heads_becomes_a_plan(order, tmp_path: Path) -> None:
    made = order(HeadShape(64, "FP32", 1024))
    Builds(tmp_path, timeout_s=100.0).make(made, go_on)
    assert (Path(made.target) / PLAN).stat().st_size > 1000


def test_an_operator_that_tensorrt_does_not_know_is_named(order, tmp_path: Path) -> None:
    from onnx import helper

    nodes = [helper.make_node("Det", ["x0"], ["y0"])]
    unknown = block(nodes, [(3, 3)], [()], lambda x0: [x0])
    with pytest.raises(Unsupported, match=r"cannot read it: .*Det"):
        Builds(tmp_path, timeout_s=100.0).make(order(str(unknown.write(tmp_path))), go_on)


def test_a_build_ends_when_it_is_cancelled(order, tmp_path: Path) -> None:
    made = order(str(dense(64, 32).write(tmp_path)))
    with pytest.raises(Cancelled):
        Builds(tmp_path, timeout_s=100.0).make(made, lambda phase, done: False)
