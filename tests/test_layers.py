"""The import rules and the purity of the parts that decide, read from the source with `ast`.

`make check` has import-linter look at the same layers through all indirect imports; these tests
see what it cannot: standard library modules, calls, and imports inside functions.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What has no clock, no I/O, no threads and no randomness of its own.
PURE = (
    "edged/core", "edged/planner", "edged/wire", "edged/paths", "edged/manifest.py",
    "edged/device/inputs.py", "edged/link/messages.py", "edged/daemon/inquiries.py",
    "edged/daemon/restarts.py", "edged/profiles/form.py",
)  # fmt: skip
# The planners' command lines, and the reader of a table that ships in the package.
PURE_BUT = ("cli.py", "cli_files.py", "standley.py")
IMPURE_MODULES = {
    "asyncio", "concurrent", "ctypes", "datetime", "fcntl", "glob", "io", "mmap",
    "multiprocessing", "os", "pathlib", "pickle", "queue", "random", "secrets", "select", "shutil",
    "signal", "socket", "sqlite3", "subprocess", "tempfile", "threading", "time", "urllib", "uuid",
    "zmq",
}  # fmt: skip
IMPURE_CALLS = {"__import__", "breakpoint", "eval", "exec", "input", "open", "print"}
NO_ARRAYS = {"cv2", "numpy", "onnx", "onnxruntime", "scipy", "torch"}

# The torch backend, and the process that builds engines.
READS_BLOCKS = (
    "edged/backends/torch",
    *(
        f"edged/backends/tensorrt/{part}.py"
        for part in ("linear", "making", "parity", "recipe", "rounding")
    ),
)
TRAINING = {"onnx", "onnx_ir", "onnxscript", "sklearn", "torch", "transformers"}
PICKLES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}


def sources(*places: str) -> list[Path]:
    """The Python files at or below `places`, relative to the root. Fails where there are none."""
    found: list[Path] = []
    for place in places:
        path = ROOT / place
        files = [path] if path.is_file() else sorted(path.rglob("*.py"))
        assert files, f"{place} has gone: name its successor in this test"
        found += files
    return found


def imports(tree: ast.AST) -> Iterator[str]:
    """Every imported module, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide from these tests"
            assert node.module is not None
            yield node.module


def packages(path: Path) -> set[str]:
    """The top-level packages that `path` imports."""
    return {module.partition(".")[0] for module in imports(parse(path))}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def impurities(tree: ast.Module) -> list[str]:
    """What in a module could make its answers depend on anything but its arguments."""
    found = [f"imports {m}" for m in imports(tree) if m.partition(".")[0] in IMPURE_MODULES]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in IMPURE_CALLS:
                found.append(f"line {node.lineno} calls {called}")
            if ".random." in f".{called}":
                found.append(f"line {node.lineno} draws from {called}, not from what is passed in")
        elif isinstance(node, ast.Global | ast.Nonlocal):
            found.append(f"line {node.lineno} rebinds {', '.join(node.names)}")
    return found


@pytest.mark.parametrize("path", [p for p in sources(*PURE) if p.name not in PURE_BUT], ids=name)
def test_pure_parts_take_everything_as_arguments(path: Path) -> None:
    assert impurities(parse(path)) == []


@pytest.mark.parametrize(
    "text",
    [
        "import time",
        "def f():\n    from os import path",
        "import numpy as np\nnp.random.rand(3)",
        "import numpy as np\nnp.random.default_rng()",
        "data = open('x').read()",
        "def f():\n    global n\n    n = 1",
    ],
)
def test_the_purity_check_sees(text: str) -> None:
    assert len(impurities(ast.parse(text))) == 1


@pytest.mark.parametrize("path", sources("edged/core"), ids=name)
def test_core_has_no_arrays(path: Path) -> None:
    assert packages(path) & NO_ARRAYS == set()


@pytest.mark.parametrize("path", sources("edged"), ids=name)
def test_serving_imports_nothing_of_what_feeds_it(path: Path) -> None:
    training = set() if name(path).startswith(READS_BLOCKS) else TRAINING
    assert packages(path) & ({"export", "tools", "tests"} | training) == set()


@pytest.mark.parametrize("path", sources("export"), ids=name)
def test_export_ships_without_the_checkout(path: Path) -> None:
    assert packages(path) & {"tools", "tests"} == set()


@pytest.mark.parametrize("path", sources("edged", "export", "tools"), ids=name)
def test_nothing_unpickles(path: Path) -> None:
    tree = parse(path)
    assert packages(path) & PICKLES == set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if called == "torch.load":  # unpickles unless told not to
            assert keywords.get("weights_only") == "True", f"line {node.lineno}"
        if called.endswith((".recv_pyobj", ".send_pyobj")):
            pytest.fail(f"line {node.lineno}: {called} pickles")
        assert keywords.get("allow_pickle", "False") == "False", f"line {node.lineno}"
