"""Samples of the user: faults that show only on them are found, unreadable files are named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx import helper, numpy_helper

from edged.errors import InvalidArgument, NotFound
from edged.store import Store
from export import check, forms, probe
from export.batch import set_free
from export.cli import main
from export.graph import OnnxGraph
from export.samples import SAMPLES_MAX, read
from export.source import ModelDraft, Source, draft
from tests.export.nets import Net, classifier, segmenter, transformer
from tests.export.test_heads import SPEC, draw

TOML = "height = 16\nwidth = 16\nmean = [0.5, 0.5, 0.5]\nstd = [0.25, 0.25, 0.25]\n"


def gated(path: Path, shape: tuple[int, ...], gate: Callable[[Net], str]) -> Path:
    """A net that adds to each row what the gate lets through of the batch in reverse order.

    The reversal is a slice of all rows, backwards, which keeps the axis of rows.
    """
    net = Net(shape)
    opened = net.add("Reshape", gate(net), net.integers(-1, *(1 for _ in shape)))
    zero, last, before_all = (net.integers(n) for n in (0, -1, -(2**31)))
    turned = net.add("Slice", opened, last, before_all, zero, last)
    return net.save(path, net.add("Add", net.x, turned))


def above(net: Net) -> str:
    """A gate that opens above a value that no element of random rows reaches."""
    most = net.add("ReduceMax", net.x, axes=[1], keepdims=0)
    return net.add("Relu", net.add("Sub", most, net.constant(np.float32(1e5))))


def white(net: Net) -> str:
    """A gate that opens if every channel of every pixel of a picture is bright."""
    least = net.add("ReduceMin", net.x, axes=[1, 2, 3], keepdims=0)
    return net.add("Relu", net.add("Sub", least, net.constant(np.float32(0.9))))


def rows_like(shape: tuple[int, ...], count: int = 7) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(5).standard_normal((count, *shape)).astype(np.float32)


@pytest.mark.parametrize("place", [0, 1, 6])
@pytest.mark.parametrize("count", [7, 1])
def test_rows_that_are_coupled_on_a_sample_alone_run_one_at_a_time(
    tmp_path: Path, place: int, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    file = gated(tmp_path / "m.onnx", (6,), above)
    assert draft(Source("t", file)).manifest.max_rows is None, "made-up rows do not show it"
    rows = rows_like((6,), count)
    rows[place % count, 3] = 2e5
    np.save(tmp_path / "rows.npy", rows)
    args = ["onnx", f"t={file}", "--store", str(tmp_path / "store")]
    assert main([*args, "--samples", str(tmp_path / "rows.npy")]) == 0
    text = capsys.readouterr().out
    assert "t: runs one row at a time: a row of" in text
    assert f"t: also checked on {count} samples" in text
    assert Store(tmp_path / "store").model("t").max_rows == 1


@pytest.mark.parametrize("count", [7, 1])
def test_a_sample_that_is_another_one_by_its_place_runs_alone(tmp_path: Path, count: int) -> None:
    """If the gate is open, the row at place i of a batch adds its element i, in any company."""
    net = Net((6,))
    zero, one = (net.constant(np.array(n, np.int64)) for n in (0, 1))
    numbers = net.add("Range", zero, net.add("Squeeze", net.rows(), net.integers(0)), one)
    own = net.add("GatherElements", net.x, net.add("Reshape", numbers, net.integers(-1, 1)), axis=1)
    opened = net.add("Reshape", above(net), net.integers(-1, 1))
    out = net.add("Add", net.x, net.add("Mul", opened, own))
    file = net.save(tmp_path / "m.onnx", out)
    rows = rows_like((6,), count)
    rows[0, 5] = 2e5
    np.save(tmp_path / "m.npy", rows)
    assert draft(Source("t", file)).manifest.max_rows is None, "made-up rows do not show it"
    found = draft(Source("t", file, samples=tmp_path / "m.npy"))
    assert (found.manifest.max_rows, "alone" in (found.coupled or "")) == (1, True)


def test_a_picture_shows_what_random_pictures_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = gated(tmp_path / "m.onnx", (3, 16, 16), white)
    (tmp_path / "p.toml").write_text(TOML)
    pictures = draw(tmp_path / "pictures", count=2)
    args = ["onnx", f"t={file}", "--preprocess", str(tmp_path / "p.toml"), "--json"]
    args += ["--samples", f"t={pictures}", "--store", str(tmp_path / "store"), "--replace"]
    found = []
    for _ in range(2):
        assert main(args) == 0
        (model,) = json.loads(capsys.readouterr().out)["models"]
        found.append((model["max_rows"], model["samples"]))
        cv2.imwrite(str(pictures / "red" / "white.png"), np.full((20, 24, 3), 255, np.uint8))
    assert found == [(None, 6), (1, 7)]


@pytest.mark.parametrize("rows", ["rows", 1])
@pytest.mark.parametrize("make", [classifier, transformer, segmenter])
def test_plain_models_stay_in_batches(
    tmp_path: Path, make: Callable[..., Path], rows: int | str
) -> None:
    """The samples include flat pictures, in which all elements are equal."""
    pictures = draw(tmp_path / "pictures", count=1)
    (pictures / ".cache").mkdir()
    (pictures / ".cache" / "a.png").write_bytes(b"no picture")
    for value in (0, 128, 255):
        cv2.imwrite(str(pictures / f"{value}.png"), np.full((16, 16, 3), value, np.uint8))
    file = make(tmp_path / "m.onnx", "ab", rows=rows)
    found = draft(Source("t", file, preprocess=SPEC, samples=pictures))
    assert (found.manifest.max_rows, found.coupled) == (None, None)
    assert sum(len(given["x"]) for given, _ in found.sampled) == 6


def test_samples_of_several_inputs_and_of_several_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = Net((6,))
    shift = net.input("shift", (6,))
    two = net.save(tmp_path / "two.onnx", net.add("Add", net.x, shift))
    one = classifier(tmp_path / "one.onnx", "a")
    values = {"x": rows_like((6,), 30), "shift": rows_like((6,), 30)}
    np.savez(tmp_path / "two.npz", **values)
    np.save(tmp_path / "one.npy", rows_like((3, 16, 16)))
    args = ["onnx", f"a={two}", f"b={one}", "--store", str(tmp_path / "store"), "--json"]
    assert main([*args, "--samples", str(tmp_path / "two.npz")]) == 2, "they are not those of b"
    assert "say whose samples they are (--samples TASK=PATH)" in capsys.readouterr().err
    args += ["--samples", f"a={tmp_path / 'two.npz'}", "--samples", f"b={tmp_path / 'one.npy'}"]
    assert main(args) == 0
    found = json.loads(capsys.readouterr().out)["models"]
    assert [(model["samples"], model["max_rows"]) for model in found] == [
        (SAMPLES_MAX, None),
        (7, None),
    ]


def test_the_rows_taken_reach_from_the_first_to_the_last(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.arange(100, dtype=np.float32)[:, np.newaxis])
    taken = read(tmp_path / "m.npy", {"x": rows_like((1,))}, None)["x"][:, 0]
    assert (len(taken), taken[0], taken[-1]) == (SAMPLES_MAX, 0, 99)
    assert np.diff(taken).min() >= 99 // (SAMPLES_MAX - 1)


def test_blocks_are_compared_with_the_uncut_model_on_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cut is wrong on large values only: nothing is written."""
    net = Net((6,))
    file = net.save(tmp_path / "m.onnx", net.gemm(net.x, 6, 3, seed=1))
    np.save(tmp_path / "m.npy", 1e6 * rows_like((6,)))

    def wrong(runner: object, outputs: list[str], given: probe.Arrays) -> list[probe.Array]:
        right = probe.run(runner, outputs, given)  # type: ignore[arg-type]
        return [np.minimum(array, 1e5) for array in right] if "x0" in given else right

    monkeypatch.setattr(check, "run", wrong)
    store = tmp_path / "store"
    args = ["onnx", f"t={file}", "--store", str(store)]
    assert main([*args, "--samples", str(tmp_path / "m.npy")]) == 1
    assert "its blocks differ from the uncut model by" in capsys.readouterr().err
    assert Store(store).names() == ()
    assert main(args) == 0, "random input does not show it"


def test_a_model_that_is_set_free_is_compared_on_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The free model is wrong on large values only: the model stays as it was exported."""
    net = Net((6,), rows=1)
    file = net.save(tmp_path / "m.onnx", net.gemm(net.x, 6, 3, seed=1))
    np.save(tmp_path / "m.npy", 1e6 * rows_like((6,)))

    def wrong(graph: OnnxGraph, facts: probe.Facts, fixed: int) -> OnnxGraph:
        freed = set_free(graph, facts, fixed)
        freed.nodes[-1].output[0] = "before"
        most = numpy_helper.from_array(np.float32(1e4), "most")
        end = helper.make_node("Min", ["before", "most"], [freed.outputs[0]])
        return replace(freed, nodes=(*freed.nodes, end), weights=freed.weights | {"most": most})

    monkeypatch.setattr(forms, "set_free", wrong)
    assert draft(Source("t", file)).coupled is None, "random input does not show it"
    found = draft(Source("t", file, samples=tmp_path / "m.npy"))
    assert found.coupled == "set free for more, it computes something else"
    assert found.manifest.max_rows == 1


@pytest.mark.parametrize(
    ("name", "write", "says"),
    [
        ("none", lambda p: None, "there are no samples"),
        ("empty", lambda p: p.mkdir(), "have no JPEG, PNG, WebP or BMP files"),
        ("x.npy", lambda p: p.write_bytes(b""), "cannot be read as .npz or .npy"),
        ("x.npy", lambda p: p.write_bytes(b"\x93NUMPY\1\0garbage"), "cannot be read as"),
        ("x.npz", lambda p: p.write_bytes(b"PK\3\4garbage"), "cannot be read as .npz or .npy"),
        ("x.npy", lambda p: np.save(p, np.array([{}, {}]), allow_pickle=True), "cannot be read as"),
        ("x.npz", lambda p: np.savez(p, x=np.array([{}])), "cannot be read as"),
        ("x.npz", lambda p: np.savez(p), "have no arrays, and the model takes x float32"),
        ("x.npz", lambda p: np.savez(p, y=rows_like((3, 16, 16))), "have y float32 [7, 3, 16, 16]"),
        ("x.npz", lambda p: np.savez(p, x=rows_like((3, 16, 16)), y=rows_like((2,))),
         "have x float32 [7, 3, 16, 16], y float32 [7, 2], and the model takes x float32 [rows, 3"),
        ("x.npy", lambda p: np.save(p, rows_like((3, 16, 16)).astype(float)), "have x float64"),
        ("x.npy", lambda p: np.save(p, rows_like((3, 16, 16)).astype(">f4")), "have x >f4"),
        ("x.npy", lambda p: np.save(p, rows_like((16, 16, 3))), "have x float32 [7, 16, 16, 3]"),
        ("x.npy", lambda p: np.save(p, np.float32(1)), "have x float32 []"),
        ("x.npy", lambda p: np.save(p, rows_like((3, 16, 16), 0)), "at least one"),
        ("x.txt", lambda p: p.write_text("1, 2, 3"), "x.txt cannot be read as .npz or .npy"),
        ("pictures", lambda p: (draw(p, count=1) / "red" / "0.png").write_bytes(b"\x89PNG\r\n"),
         "0.png: "),
    ],
)  # fmt: skip
def test_samples_that_do_not_fit_are_one_line_and_nothing_is_written(
    tmp_path: Path,
    name: str,
    write: Callable[[Path], object],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store, file = tmp_path / "store", classifier(tmp_path / "m.onnx", "a")
    (tmp_path / "p.toml").write_text(TOML)
    write(tmp_path / name)
    args = ["onnx", f"t={file}", "--store", str(store), "--preprocess", str(tmp_path / "p.toml")]
    assert main([*args, "--samples", str(tmp_path / name)]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert str(tmp_path / name) in line
    assert Store(store).names() == ()
    assert not Store(store).blocks()


def test_pictures_for_a_model_that_takes_none(tmp_path: Path) -> None:
    pictures = draw(tmp_path / "pictures")
    net = Net((6,))
    other = net.save(tmp_path / "m.onnx", net.gemm(net.x, 6, 3, seed=1))
    with pytest.raises(InvalidArgument, match="nothing says how an image becomes the input"):
        draft(Source("t", other, samples=pictures))
    with pytest.raises(InvalidArgument, match=r"one float32 image of shape \[3, 16, 16\]"):
        draft(Source("t", other, preprocess=SPEC, samples=pictures))


def test_a_sample_that_the_model_cannot_run_is_not_blamed_on_its_batches(tmp_path: Path) -> None:
    """The sample has the number of a token that does not exist."""
    net = Net((6,))
    token = net.input("token", (1,), kind=7)
    known = net.add("Squeeze", net.add("Gather", net.weight(1, 10, 6), token), net.integers(1))
    file = net.save(tmp_path / "m.onnx", net.add("Add", net.x, known))
    tokens = np.arange(7, dtype=np.int64)[:, np.newaxis]
    np.savez(tmp_path / "good.npz", x=rows_like((6,)), token=tokens)
    np.savez(tmp_path / "bad.npz", x=rows_like((6,)), token=tokens + 8)

    def drafted(name: str) -> ModelDraft:
        return draft(Source("t", file, samples=tmp_path / name))

    assert drafted("good.npz").manifest.max_rows is None
    with pytest.raises(InvalidArgument, match=r"bad\.npz are no input of the model"):
        drafted("bad.npz")


@pytest.mark.parametrize("option", ["--samples", "--labels"])
def test_an_option_for_a_task_that_is_not_there(
    tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--store", str(tmp_path / "store"), option, "flower=x"]
    assert main(["onnx", "flowers=m.onnx", *args]) == 2
    assert f"{option} flower=x: no model here is for the task 'flower'" in capsys.readouterr().err


def test_torch_modules_are_checked_on_samples_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["torch", "t=tests.export.modules:two", "--store", str(tmp_path / "store"), "--json"]
    np.savez(tmp_path / "m.npz", left=rows_like((4,)), right=rows_like((5,)))
    assert main([*args, "--samples", str(tmp_path / "m.npz")]) == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    assert (model["samples"], model["max_rows"]) == (7, None)


def test_a_fifo_is_no_file_of_samples(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f.npy")
    with pytest.raises(NotFound, match="there are no samples"):
        read(tmp_path / "f.npy", {"x": rows_like((1,))}, None)
