"""Models that were exported for a fixed number of rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from edged.errors import Unsupported
from edged.store import Store
from export.add import add_models
from export.check import feeds, run_chain
from export.source import Source, draft
from tests.export.helpers import digests, onnx_run
from tests.export.nets import Net, classifier, segmenter, transformer


def written_down(net: Net, x: str) -> str:
    """Constants that exporters write for a fixed number of rows: targets, tokens and sizes."""
    patches = net.add("Conv", x, net.weight(2, 8, 3, 8, 8), strides=[8, 8])
    flat = net.add("Reshape", patches, net.integers(1, 8, 4))
    tokens = net.add("Concat", net.weight(3, 1, 8, 1), flat, axis=2)
    norm = net.add("ReduceL2", tokens, axes=[1], keepdims=1)
    scaled = net.add("Div", tokens, net.add("Expand", norm, net.integers(1, 8, 5)))
    heads = net.add("Reshape", scaled, net.integers(2, 4, 5))  # (2 * rows, 4, 5)
    mixed = net.add("MatMul", heads, net.weight(4, 5, 5))
    image = net.add("Reshape", mixed, net.integers(1, 8, 1, 5))
    return net.add("Resize", image, "", "", net.integers(1, 8, 2, 10), mode="nearest")


def row_by_row(file: Path, feed: dict[str, np.ndarray]) -> np.ndarray:  # type: ignore[type-arg]
    model = onnx.load(str(file))
    rows = [onnx_run(model, {n: a[i : i + 1] for n, a in feed.items()})[0] for i in range(3)]
    return np.concatenate(rows)


def test_what_is_written_down_is_set_free(tmp_path: Path) -> None:
    net = Net(rows=1)
    file = net.save(tmp_path / "m.onnx", written_down(net, net.x))
    store = Store(tmp_path / "store").create()
    (added,) = add_models(store, [Source("t", file)]).added
    assert added.manifest.max_rows is None
    feed = feeds(added.manifest)[-1]
    (found,) = run_chain(added.manifest, store.block_bytes, [feed])
    assert np.allclose(next(iter(found.values())), row_by_row(file, feed), atol=1e-5)


def repeated(net: Net, rows: int) -> str:
    """A token, a bias and numbers of rows, each written down once for every row of a batch."""
    token = np.repeat(np.random.default_rng(0).standard_normal((1, 1, 6)), rows, 0)
    tokens = net.add("Concat", net.constant(token.astype(np.float32)), net.x, axis=1)
    bias = np.repeat(np.random.default_rng(1).standard_normal((1, 5, 6)), rows, 0)
    places = np.stack([np.arange(rows), np.full(rows, 3)], axis=1)
    third = net.add("GatherND", net.add("Add", tokens, net.constant(bias.astype(np.float32))),
                    net.constant(places))  # fmt: skip
    return net.add("MatMul", third, net.weight(1, 6, 2))


@pytest.mark.parametrize("rows", [2, 4])
def test_what_is_written_down_for_each_row_of_a_batch_is_set_free(
    tmp_path: Path, rows: int
) -> None:
    net = Net((4, 6), rows=rows)
    file = net.save(tmp_path / "m.onnx", repeated(net, rows))
    found = draft(Source("t", file))
    assert (found.manifest.max_rows, found.coupled) == (None, None)
    single = Net((4, 6), rows=1)
    alone = draft(Source("t", single.save(tmp_path / "one.onnx", repeated(single, 1))))
    assert alone.manifest.max_rows is None
    x = np.random.default_rng(2).standard_normal((1, 4, 6)).astype(np.float32)
    filled = np.repeat(x, rows, 0)
    expected = onnx_run(onnx.load(str(file)), {"x": filled})[0][0]
    once = onnx_run(onnx.load(str(tmp_path / "one.onnx")), {"x": x})[0][0]
    assert np.allclose(expected, once, atol=1e-6)


@pytest.mark.parametrize("make", [classifier, transformer, segmenter])
@pytest.mark.parametrize("rows", [1, 4])
def test_a_model_for_fixed_rows_shares_all_with_one_for_any(
    tmp_path: Path, make: Callable[..., Path], rows: int
) -> None:
    free = digests(make(tmp_path / "free.onnx", "ab"))
    fixed = draft(Source("t", make(tmp_path / "fixed.onnx", "ab", rows=rows)))
    assert fixed.manifest.max_rows is None
    assert [use.digest for use in fixed.path.uses] == free


def mixed_axes(net: Net) -> str:
    """Rows move behind another axis, so the constants do not mean what they seem to."""
    turned = net.add("Transpose", net.x, perm=[1, 0, 2])  # (4, rows, 6)
    split = net.add("Reshape", turned, net.integers(4, 3, 2 * net.fixed))
    back = net.add("Reshape", split, net.integers(net.fixed, 24))
    return net.add("MatMul", back, net.weight(1, 24, 2))


def test_a_model_that_cannot_be_set_free_runs_one_row_at_a_time(tmp_path: Path) -> None:
    net = Net((4, 6), rows=1)
    net.fixed = 1  # type: ignore[attr-defined]
    file = net.save(tmp_path / "m.onnx", mixed_axes(net))
    store = Store(tmp_path / "store").create()
    (added,) = add_models(store, [Source("t", file)]).added
    assert added.manifest.max_rows == 1
    feed = feeds(added.manifest)[-1]
    (found,) = run_chain(added.manifest, store.block_bytes, [feed])
    assert np.array_equal(next(iter(found.values())), onnx_run(onnx.load(str(file)), feed)[0])


def test_a_fixed_batch_that_cannot_be_set_free_is_refused(tmp_path: Path) -> None:
    net = Net((4, 6), rows=4)
    net.fixed = 4  # type: ignore[attr-defined]
    file = net.save(tmp_path / "m.onnx", mixed_axes(net))
    with pytest.raises(Unsupported, match="batches of exactly 4, and could not be set free"):
        draft(Source("t", file))
