"""Models of unusual form, served by the real daemon: their answers are those of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from edged.client import Client
from edged.errors import InvalidArgument, Unsupported
from edged.manifest import Preprocess
from edged.store import Store
from export.add import add_models
from export.source import Source
from tests.daemon.live import Daemon
from tests.export.helpers import onnx_run
from tests.export.nets import Net
from tests.export.test_one_row import detector
from tests.pictures.making import encoded, picture

HEIGHT, WIDTH = 12, 16


def means(path: Path, kind: int, shape: tuple[int, ...]) -> Source:
    """A model of the mean of each channel of a picture of this type and shape."""
    net = Net()
    channels_last = shape[-1] in (1, 3)
    net.only("picture", ("n", *shape), kind)
    floats = net.add("Cast", net.x, to=TensorProto.FLOAT)
    axes = [1, 2] if channels_last else [2, 3]
    file = net.save(path, net.add("ReduceMean", floats, axes=axes, keepdims=0))
    layout = "NHWC" if channels_last else "NCHW"
    spec = Preprocess(HEIGHT, WIDTH, scale=1.0, layout=layout)  # type: ignore[arg-type]
    return Source(path.stem, file, preprocess=spec)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    boxes = Net((40,), rows=1)
    rated = Net((4,))
    rate = rated.input("rate", (), TensorProto.INT64, whole=True)
    split = rated.add("Div", rate, rated.constant(np.array(2)))
    half = rated.add("Cast", split, to=TensorProto.FLOAT)
    divided = Net()
    divided.only("n", ("rows", 3), TensorProto.INT64)
    return {
        "boxes": boxes.save(folder / "boxes.onnx", *detector(boxes)),
        "rated": rated.save(folder / "rated.onnx", rated.add("Mul", rated.x, half)),
        "divided": divided.save(
            folder / "divided.onnx",
            divided.add("Div", divided.constant(np.array(1000)), divided.x),
        ),
    }


def letterboxed(folder: Path) -> Source:
    """A model of the mean of a square picture; others are put on a border."""
    source = means(folder / "square.onnx", TensorProto.FLOAT, (3, WIDTH, WIDTH))
    spec = Preprocess(WIDTH, WIDTH, "letterbox", scale=1.0, border=(10, 20, 30))
    return replace(source, preprocess=spec)


def counted(path: Path) -> Source:
    """A model of as many numbers as its input says; a sample shows 20."""
    net = Net((1,), rows=1)
    count = net.add("Cast", net.add("Squeeze", net.x), to=TensorProto.INT64)
    zero, one = (net.constant(np.array(n)) for n in (0, 1))
    file = net.save(path, net.add("Range", zero, count, one))
    np.save(path.with_suffix(".npy"), np.array([[20]], np.float32))
    return Source(path.stem, file, samples=path.with_suffix(".npy"))


@pytest.fixture(scope="module")
def daemon(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("daemon")
    store = Store(folder / "store").create()
    plane = (HEIGHT, WIDTH)
    pictures = [
        means(folder / "bytes.onnx", TensorProto.UINT8, (*plane, 3)),
        means(folder / "planes.onnx", TensorProto.UINT8, (3, *plane)),
        means(folder / "grey.onnx", TensorProto.FLOAT, (1, *plane)),
        means(folder / "half.onnx", TensorProto.FLOAT16, (3, *plane)),
        counted(folder / "counted.onnx"),
        letterboxed(folder),
    ]
    add_models(store, [*(Source(name, file) for name, file in files.items()), *pictures])
    made = Daemon(folder, store.path)
    yield made
    made.close()


def test_boxes_as_many_as_there_are(daemon: Daemon, files: dict[str, Path]) -> None:
    model = onnx.load(str(files["boxes"]))
    names = [value.name for value in model.graph.output]
    with Client(daemon.endpoint) as client:
        shapes = [output.shape for output in client.model("boxes").outputs]
        assert shapes == [(-1, -1, 4), (-1, -1), (-1, -1)]
        for count in (2, 0, 3, 1):
            row = np.full((10, 4), -1.0, np.float32)
            for i in range(count):
                row[i] = [3 * i, 0, 3 * i + 2, 2]
            x = row.reshape(1, 40)
            found = client.infer({"x": x}, "boxes")["boxes"].tensors
            expected = dict(zip(names, onnx_run(model, {"x": x}), strict=True))
            assert list(found) == names
            for name in names[:2]:
                assert found[name].shape == (1, *expected[name].shape)
            np.testing.assert_allclose(found[names[0]][0], expected[names[0]], rtol=1e-6)
            np.testing.assert_allclose(found[names[2]], expected[names[2]], rtol=1e-6)
        with pytest.raises(InvalidArgument, match="a request has one row, and this one has 2"):
            client.infer({"x": np.zeros((2, 40), np.float32)}, "boxes")
        with pytest.raises(InvalidArgument, match="classification takes"):
            client.infer({"x": np.zeros((1, 40), np.float32)}, "boxes", top_k=1)


def test_an_output_beyond_its_room_is_an_error_and_is_never_cut(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        for count in (80, 0, 7):
            found = client.infer({"x": np.array([[count]], np.float32)}, "counted")
            np.testing.assert_array_equal(found["counted"].tensor, np.arange(count)[np.newaxis])
        with pytest.raises(Unsupported, match="has 81 entries, and there is room for 80"):
            client.infer({"x": np.array([[81]], np.float32)}, "counted")


def test_a_setting_for_each_row(daemon: Daemon) -> None:
    x, rates = np.ones((3, 4), np.float32), np.array([2, 8, 6])
    with Client(daemon.endpoint) as client:
        assert client.model("rated").max_rows == 1
        found = client.infer({"x": x, "rate": rates}, "rated")["rated"].tensor
    np.testing.assert_array_equal(found, x * (rates // 2)[:, np.newaxis])


def test_a_divisor_that_is_never_tried_with_zero(daemon: Daemon) -> None:
    n = np.array([[1, 3, 7], [50, 9, 1000]])
    with Client(daemon.endpoint) as client:
        np.testing.assert_array_equal(
            client.infer({"n": n}, "divided")["divided"].tensor, 1000 // n
        )


@pytest.mark.parametrize("kind", [".png", ".bmp", ".webp", ".jpg"])
def test_pictures_for_inputs_of_all_types(daemon: Daemon, kind: str) -> None:
    image = picture(HEIGHT, WIDTH)
    options = (cv2.IMWRITE_WEBP_QUALITY, 101) if kind == ".webp" else ()
    data = encoded(image, kind, *options)
    near = 4.0 if kind == ".jpg" else 0.0
    colours = image.reshape(-1, 3).mean(axis=0)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean()
    with Client(daemon.endpoint) as client:
        found = client.infer(data, ["bytes", "planes", "half", "grey"])
        for task in ("bytes", "planes", "half"):
            np.testing.assert_allclose(found[task].tensor[0], colours, rtol=1e-3, atol=near)
        np.testing.assert_allclose(found["grey"].tensor[0], [grey], rtol=1e-5, atol=near)
        pixels = client.infer(image, ["bytes", "grey"])
        np.testing.assert_allclose(pixels["bytes"].tensor[0], colours, rtol=1e-5)
        np.testing.assert_allclose(pixels["grey"].tensor[0], [grey], rtol=1e-5)


def test_a_picture_on_a_border(daemon: Daemon) -> None:
    image = picture(HEIGHT, WIDTH)
    share = HEIGHT / WIDTH
    expected = share * image.reshape(-1, 3).mean(axis=0) + (1 - share) * np.array([10, 20, 30])
    with Client(daemon.endpoint) as client:
        for given in (encoded(image, ".png"), image):
            found = client.infer(given, "square")["square"].tensor[0]
            np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_model_s_own_input_of_bytes_is_no_picture(daemon: Daemon) -> None:
    image = picture(HEIGHT, WIDTH)
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))[np.newaxis]
    colours = image.reshape(-1, 3).mean(axis=0)
    with Client(daemon.endpoint) as client:
        for task, tensor in (("bytes", image[np.newaxis]), ("planes", planes)):
            found = client.infer({"picture": tensor}, task)[task].tensor
            np.testing.assert_allclose(found[0], colours, rtol=1e-5)
