"""Models of older opsets compute in the store what ONNX Runtime makes of their files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from edged.errors import Unsupported
from edged.store import Store
from export.add import add_models
from export.check import compare, run_chain
from export.source import Source, draft
from tests.export.helpers import onnx_run
from tests.export.nets import Net, classifier


def softmax(net: Net) -> str:
    """Before opset 13 over all axes from the named one on."""
    return net.add("Softmax", net.x, axis=1)


def log_softmax(net: Net) -> str:
    return net.add("LogSoftmax", net.x, axis=2)


def upsampled(net: Net) -> str:
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    return net.add("Upsample", net.x, scales, mode="nearest")


def resized(net: Net) -> str:
    scales = net.constant(np.array([1, 1, 2, 3], np.float32))
    return net.add("Resize", net.x, scales, mode="nearest")


def clipped(net: Net) -> str:
    return net.add("Clip", net.x, min=-0.5, max=0.25)


def padded_and_sliced(net: Net) -> str:
    wide = net.add("Pad", net.x, pads=[0, 0, 1, 1, 0, 0, 1, 1], value=2.0)
    return net.add("Slice", wide, starts=[0, 1], ends=[5, 6], axes=[2, 3])


def squeezed(net: Net) -> str:
    mean = net.add("ReduceMean", net.x, axes=[2, 3], keepdims=1)
    flat = net.add("Squeeze", mean, axes=[2, 3])
    return net.add("Unsqueeze", net.add("ReduceSum", flat, axes=[1], keepdims=0), axes=[1])


def split_and_dropped(net: Net) -> str:
    parts = net.add_all("Split", 3, net.x, axis=1)
    return net.add("Dropout", net.add("Concat", parts[2], parts[0], axis=1), ratio=0.5)


def best(net: Net) -> str:
    flat = net.add("Flatten", net.x)
    return net.add_all("TopK", 2, flat, net.integers(3), axis=1)[0]


def normalised(net: Net) -> str:
    scales = [net.constant(np.array(v, np.float32)) for v in ([1, 2, 3], [0, 1, 2], [1, 0, 1])]
    return net.add("BatchNormalization", net.x, *scales, net.constant(np.ones(3, np.float32)))


MADE: list[tuple[Callable[[Net], str], tuple[int, ...]]] = [
    (softmax, (7, 11, 12)),
    (log_softmax, (7, 11, 12)),
    (upsampled, (9,)),
    (resized, (10,)),
    (clipped, (7, 10)),
    (padded_and_sliced, (7, 9)),
    (squeezed, (7, 11, 12)),
    (split_and_dropped, (7, 11)),
    (best, (10, 11)),
    (normalised, (7, 9, 12)),
]


@pytest.mark.parametrize(
    ("make", "opset"),
    [(make, opset) for make, opsets in MADE for opset in opsets],
    ids=lambda value: value if isinstance(value, int) else value.__name__,
)
def test_blocks_of_an_old_model_compute_what_its_file_does(
    tmp_path: Path, make: Callable[[Net], str], opset: int
) -> None:
    net = Net((3, 6, 6), opset=opset)
    file = net.save(tmp_path / "m.onnx", make(net))
    store = Store(tmp_path / "store").create()
    (added,) = add_models(store, [Source("t", file)]).added
    assert added.manifest.max_rows is None
    x = np.random.default_rng(1).standard_normal((3, 3, 6, 6)).astype(np.float32)
    (found,) = run_chain(added.manifest, store.block_bytes, [{"x": x}])
    (expected,) = onnx_run(onnx.load(str(file)), {"x": x})
    (name,) = added.manifest.outputs
    assert found[name].shape == expected.shape
    assert compare({name: expected}, found).relative < 1e-5


def test_an_old_model_shares_with_a_new_one(tmp_path: Path) -> None:
    """Their operators mean the same, so their layers are the same."""
    old, new = (
        draft(Source("t", classifier(tmp_path / f"{opset}.onnx", "ab", opset=opset)))
        for opset in (11, 17)
    )
    assert old.path.uses == new.path.uses


def test_an_opset_that_is_too_old_or_lacks_an_operator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"opset 6 is too old: .* opset 7 or later"):
        draft(Source("t", classifier(tmp_path / "m.onnx", "a", opset=6)))
