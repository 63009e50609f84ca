"""`edged-export` as people and programs call it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from onnx import TensorProto

from edged.errors import InvalidArgument
from edged.manifest import Preprocess
from edged.store import Store
from export.cli import main
from export.cli_add import read_preprocess
from tests.export.helpers import picture
from tests.export.nets import Net, classifier
from tests.export.test_heads import draw

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """A store of two models that share their first blocks."""
    store = str(tmp_path / "store")
    one, two = (
        classifier(tmp_path / "1.onnx", "abc"),
        classifier(tmp_path / "2.onnx", "abx", head=1),
    )
    spec = tmp_path / "spec.toml"
    spec.write_text("height = 16\nwidth = 16\nmean = [0.5, 0.5, 0.5]\nstd = [0.25, 0.25, 0.25]\n")
    args = ["--store", store, "--preprocess", str(spec)]
    assert main(["onnx", f"first={one}", f"second:small={two}", *args]) == 0
    text = capsys.readouterr().out
    assert "first" in text
    assert "2 models, 3 blocks" in text
    return store


def told(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(args) == 0
    return capsys.readouterr().out


def test_ls(there: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "ls", "--store", there)
    header, _, first, small, summary = text.splitlines()
    assert header.split()[:3] == ["model", "task", "precision"]
    assert first.split()[:4] == ["first", "first", "fp32", "2"]
    assert small.split()[:4] == ["small", "second", "fp32", "2"]
    found = json.loads(told(capsys, "ls", "--store", there, "--json"))
    assert [model["name"] for model in found["models"]] == ["first", "small"]
    shared = {model["shared_bytes"] for model in found["models"]}
    assert len(shared) == 1
    alone = sum(model["block_bytes"] for model in found["models"]) - shared.pop()
    stored = [*Store(there).blocks().values(), *Store(there).tensors().values()]
    assert found["block_bytes"] == alone == sum(stored)
    assert (found["schema"], found["blocks"], found["tensors"]) == (2, 3, len(stored) - 3)
    assert found["block_bytes"] < 0.8 * found["whole_bytes"]
    assert f"{found['block_bytes'] / 1000:.1f} kB as blocks" in summary
    assert f"{found['whole_bytes'] / 1000:.1f} kB as whole models" in summary


def test_inputs_that_stay_outputs_that_go_and_the_reason_for_one_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = Net((4,))
    rate = net.input("rate", (), TensorProto.INT64, whole=True)
    y = net.add("Mul", net.x, net.add("Cast", rate, to=TensorProto.FLOAT))
    z = net.add("NonZero", net.x)
    file, store = net.save(tmp_path / "m.onnx", y, z), str(tmp_path / "store")
    one_row = "runs one row at a time: input 'rate' has no axes, so no batch"
    assert one_row in told(capsys, "onnx", f"t={file}", "--store", store)
    shown = told(capsys, "show", "t", "--store", store)
    assert f"output {z} is as long as the data say" in shown
    assert "output edged.length" not in shown
    args = ["onnx", f"t={file}", "--store", store, "--replace", "--outputs", y]
    text = told(capsys, *args, "--input", "rate=2")
    assert "one row" not in text
    (model,) = json.loads(told(capsys, *args, "--input", "rate=2", "--rows", "1", "--json"))[
        "models"
    ]
    assert (model["max_rows"], model["coupled"]) == (1, "that was asked for (--rows 1)")
    assert main([*args, "--input", "rate"]) == 2
    assert "'rate' is no value: write INPUT=16000" in capsys.readouterr().err


def test_show_and_diff(there: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "show", "small", "--store", there)
    assert text.splitlines()[0] == "small, a model for second (fp32)"
    assert "input x FP32 [3, 16, 16]" in text
    shared = Store(there).model("small").steps[0].block
    (line,) = [line for line in text.splitlines() if shared[:12] in line]
    assert line.split()[-1] == "first"
    layers = told(capsys, "show", "small", "--layers", "--store", there)
    assert len(layers.splitlines()) == len(text.splitlines()) - 2 + 6
    found = json.loads(told(capsys, "show", "small", "--store", there, "--json"))
    assert found["blocks"][0]["sharers"] == ["first"]
    diff = json.loads(told(capsys, "diff", "first", "small", "--store", there, "--json"))
    assert diff["blocks"] == [shared]
    assert diff["block_bytes"] == Store(there).block_size(shared)
    assert (diff["first_only"], diff["second_only"], diff["layers"]) == (1, 1, 4)
    assert "only in small" in told(capsys, "diff", "first", "small", "--store", there)


def test_verify_finds_a_flipped_bit(there: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "all is well: 2 models" in told(capsys, "verify", "--store", there)
    store = Store(there)
    path = store.block_path(store.model("first").steps[0].block)
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    assert main(["verify", "--store", there]) == 1
    text = capsys.readouterr().out
    assert f"{path} hashes to" in text
    assert "(needed by first, small)" in text
    assert main(["verify", "--store", there, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[0]["models"] == ["first", "small"]


def test_rm_and_gc(there: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "1 models left" in told(capsys, "rm", "small", "--store", there)
    assert "1 unused blocks" in told(capsys, "ls", "--store", there)
    with Store(there).hold(Store(there).blocks()):
        assert "kept 1 unused blocks that a running daemon holds" in told(
            capsys, "gc", "--store", there
        )
    found = json.loads(told(capsys, "gc", "--store", there, "--json"))
    assert len(found["removed"]) == 1
    assert found["removed_bytes"] > 0
    assert Store(there).names() == ("first",)


def test_head(there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, head = str(draw(tmp_path / "images")), str(tmp_path / "head.onnx")
    common = ["--store", there, "--model", "first"]
    text = told(capsys, "head", *common, "--task", "colour", "--data", images, "--save", head)
    assert text.startswith("colour: top-1 accuracy 1.0000 on 12 images (30% held out, seed 0), ")
    assert "chance 0.3333; 3 classes" in text
    found = json.loads(told(capsys, "head", *common, "--task", "more", "--head", head, "--json"))
    assert found["labels"] == ["blue", "green", "red"]
    assert found["new_bytes"] == 0
    assert picture(Store(there), "colour", "more") == ["ABC", "ABC"]
    assert main(["head", *common, "--task", "none"]) == 2
    assert "give either --data FOLDER to train on, or --head FILE" in capsys.readouterr().err


def test_options_of_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = classifier(tmp_path / "m.onnx", "ab", shape=(3, "h", "w"))
    labels = {name: tmp_path / f"{name}.txt" for name in ("all", "special")}
    for name, path in labels.items():
        path.write_text("".join(f"{name} {i}\n" for i in range(4)))
    store = str(tmp_path / "store")
    text = told(
        capsys, "onnx", f"a={file}", f"b={file}", "--store", store, "--shape", "x=3,8,16",
        "--labels", str(labels["all"]), "--labels", f"b={labels['special']}",
        "--precision", "fp16", "--min-block", "0", "--json",
    )  # fmt: skip
    found = json.loads(text)["models"]
    assert [model["relative_difference"] < 1e-4 for model in found] == [True, True]
    models = Store(store).models()
    assert models["a"].labels == ("all 0", "all 1", "all 2", "all 3")
    assert models["b"].labels[0] == "special 0"
    assert models["a"].precision == "fp16"
    assert models["a"].value("x").shape == (3, 8, 16)


def test_notes_on_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = Net((4, 6), rows=1)
    turned = net.add("Reshape", net.add("Transpose", net.x, perm=[1, 0, 2]), net.integers(4, 3, 2))
    out = net.add("Reshape", turned, net.integers(1, 24))
    silent = net.add(
        "Mul", net.add("MatMul", out, net.weight(1, 24, 2)), net.weight(2, 1, scale=1e-9)
    )
    file = net.save(tmp_path / "m.onnx", silent)
    text = told(capsys, "onnx", f"t={file}", "--store", str(tmp_path / "store"))
    assert "t: runs one row at a time" in text
    assert "the comparison says little" in text


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["onnx", "model.onnx"], "'model.onnx' names no task: write TASK=model.onnx"),
        (["onnx", "t=nowhere.onnx"], "there is no file nowhere.onnx"),
        (["onnx", "t=nowhere.onnx", "--shape", "x=a"], "'x=a' is no shape: write INPUT=3,224,224"),
        (
            ["onnx", "t=nowhere.onnx", "--labels", "none.txt"],
            "none.txt cannot be read: No such file",
        ),
        (
            ["onnx", "t=nowhere.onnx", "--preprocess", "no.toml"],
            "no.toml cannot be read: No such file",
        ),
        (["show", "nobody"], "there is no model 'nobody' in the store"),
        (["rm", "nobody"], "there is no model 'nobody' in the store"),
    ],
)
def test_errors_are_one_line(
    there: str,
    args: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*args, "--store", there]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"edged-export: {says}")


def test_a_misspelt_key_of_the_preprocessing(
    there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.toml").write_text("height = 16\nwidth = 16\nmeen = [0, 0, 0]\n")
    args = ["onnx", "t=m.onnx", "--store", there, "--preprocess", str(tmp_path / "p.toml")]
    assert main(args) == 2
    assert "p.toml: Object contains unknown field `meen`" in capsys.readouterr().err


def test_looking_needs_neither_onnx_nor_torch(there: str) -> None:
    program = (
        "import sys; from export.cli import main; status = main(sys.argv[1:])\n"
        "print(status, sorted({'onnx', 'onnxruntime', 'torch', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "ls", "--store", there],
        cwd=CHECKOUT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "0 []"


@pytest.mark.parametrize(
    ("args", "package"),
    [
        (["onnx", "t=m.onnx"], "onnx"),
        (["torch", "t=m:f"], "torch"),
        (["head", "--model=m", "--task=t", "--data=d"], "sklearn"),
    ],
)
def test_what_a_plain_install_lacks_is_said(args: list[str], package: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from export.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *args, "--store", "nowhere"],
        cwd=CHECKOUT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    says = f"edged-export: the package {package} is not installed: pip install 'edged[export]'\n"
    assert (done.returncode, done.stderr) == (1, says)


def test_the_module_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "export", "--help"],
        cwd=CHECKOUT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("usage: edged-export")


def test_a_preprocessing_is_exact_unless_it_says_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    size = b"height = 8\nwidth = 8\n"
    marked, older = b"\xef\xbb\xbf" + size, size + b"resize_version = 1\n"
    for data, version in ((size, 2), (marked, 2), (older, 1)):
        file.write_bytes(data)
        assert read_preprocess(file) == Preprocess(8, 8, resize_version=version)
    for end in (b"# caf\xe9\n", b"\0", b"resize_version = 3\n"):
        file.write_bytes(size + end)
        with pytest.raises(InvalidArgument, match=r"p\.toml"):
            read_preprocess(file)
