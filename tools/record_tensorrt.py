"""`python -m tools.record_tensorrt VERSION`: the API of TensorRT's Python module, without TensorRT.

The bindings of every version are on PyPI (tensorrt-cu12-bindings). They lack a few functions of
TensorRT's own libraries, so empty ones are compiled in their place: then the module can be
imported, and pybind11's docstrings say the names and signatures. No driver, no GPU, no TensorRT.
The file is what the fake in tests/backends/fake_tensorrt is made of. Needs gcc and binutils.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path("tests/backends/tensorrt_api")
PACKAGE = "tensorrt-cu12-bindings"
MODULE = "tensorrt_bindings"

_SPECIAL = ("__init__", "__getitem__", "__len__", "__enter__", "__exit__", "__call__")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.record_tensorrt", description=__doc__)
    parser.add_argument("version", help="of the package tensorrt-cu12-bindings, as 10.3.0")
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="DIR")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.here:
        print(json.dumps(recorded(MODULE), indent=1, sort_keys=True))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        text = _record_apart(args.version, Path(folder))
    path = args.out / f"{args.version}.json.gz"
    path.write_bytes(gzip.compress(text, mtime=0))
    print(f"{path}: {len(json.loads(text)['classes'])} classes")
    return 0


def _record_apart(version: str, folder: Path) -> bytes:
    """Record in a process of its own, which finds the empty libraries."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*pip, f"{PACKAGE}=={version}"], check=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    empty = folder / "empty"
    empty.mkdir()
    _compile(folder / MODULE / "tensorrt.so", empty)
    done = subprocess.run(
        [sys.executable, "-m", "tools.record_tensorrt", version, "--here"],
        env={**os.environ, "LD_LIBRARY_PATH": str(empty), "PYTHONPATH": f"{folder}:{Path.cwd()}"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return done.stdout


def _compile(library: Path, folder: Path) -> None:
    """Libraries with the names that `library` needs, and empty functions that it lacks."""
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True
    ).stdout
    wanted = re.findall(
        r"\b((?:create|get)(?:Infer|Nv|Builder|Plugin)\w*|initLib\w+)$", symbols, re.M
    )
    needed = subprocess.run(
        ["readelf", "-d", str(library)], capture_output=True, text=True, check=True
    ).stdout
    for name in re.findall(r"\[(libnv[a-z_]*\.so[.\d]*)\]", needed):
        functions = wanted if name.startswith("libnvinfer.so") else []
        source = folder / "empty.c"
        source.write_text("".join(f"void *{each}() {{ return 0; }}\n" for each in functions))
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name)]
        subprocess.run([*command, str(source)], check=True)


def recorded(name: str) -> dict[str, Any]:
    """Classes, enumerations and functions of a module that pybind11 made."""
    module = importlib.import_module(name)
    found: dict[str, Any] = {
        "version": module.__version__, "classes": {}, "enums": {}, "functions": {}, "values": {},
    }  # fmt: skip
    for key, value in sorted(vars(module).items()):
        if key.startswith("_"):
            continue
        if inspect.isclass(value):
            if hasattr(value, "__members__"):
                found["enums"][key] = _members(value)
            elif getattr(value, "__module__", "").startswith(name):
                found["classes"][key] = _class(value)
        elif callable(value):
            found["functions"][key] = list(_signatures(value.__doc__, key))
    return found


def _class(value: type) -> dict[str, Any]:
    bases = [b.__name__ for b in value.__bases__ if b.__name__ not in ("pybind11_object", "object")]
    found: dict[str, Any] = {"bases": bases, "methods": {}, "properties": {}, "nested": {}}
    for key, member in sorted(vars(value).items()):
        if isinstance(member, property):
            found["properties"][key] = "rw" if member.fset else "r"
        elif hasattr(member, "__members__"):
            found["nested"][key] = _members(member)
        elif key.startswith("_") and key not in _SPECIAL:
            continue
        elif callable(member) or isinstance(member, staticmethod | classmethod):
            function = getattr(member, "__func__", member)
            found["methods"][key] = list(_signatures(function.__doc__, key))
    return found


def _members(value: Any) -> dict[str, int]:
    return {key: int(member) for key, member in value.__members__.items()}


def _signatures(text: str | None, name: str) -> Iterator[str]:
    """The first line of a docstring, or of each numbered overload."""
    lines = (text or "").splitlines() or [""]
    if lines[0].startswith(f"{name}(*args, **kwargs)") and "Overloaded function." in (text or ""):
        lines = re.findall(rf"^\d+\. ({re.escape(name)}\(.*)$", text or "", re.M)
    else:
        lines = lines[:1]
    for line in lines:
        if line.startswith(f"{name}("):
            line = re.sub(r"tensorrt(_rtx)?_bindings\.tensorrt(_rtx)?\.", "", line)
            yield line.replace("typing_extensions.Buffer", "collections.abc.Buffer")  # before 3.12


if __name__ == "__main__":
    sys.exit(main())
