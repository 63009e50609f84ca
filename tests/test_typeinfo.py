"""Types that values are read as are described when their module is imported (edged.typeinfo).

All calls in `edged` that read are found in the source, the types that they name are looked up, and
a fresh process tells which types were described at the end of the import of their own module.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edged import wire
from edged.device.measurements import BlockFigures, PathFigures
from edged.options import _TYPES
from edged.wire.codec import _ALL_REQUESTS
from tests.test_layers import name, parse, sources

# Reads whose type is a parameter of the function: what it is called with. None: the calls of that
# function are themselves among those that are looked at.
PARAMETERS: dict[str, tuple[Any, ...]] = {
    "edged/wire/headers.py: header_type": (*_ALL_REQUESTS.values(), *wire.REPLIES.values()),
    "edged/wire/codec.py: header": (wire.Infer, wire.InferReply),
    "edged/device/measurements.py: kind": (BlockFigures, PathFigures),
    "edged/options.py: _TYPES[backend]": tuple(_TYPES.values()),
    "edged/planner/instance.py: struct": (),
    "edged/typeinfo.py: read": (),
}

# Functions of ours that read as the type which they are called with: its place among the arguments.
OURS = {"convert": 1, "decode": 2}

PROBE = """
import gc, importlib, json, pkgutil, sys
from importlib.machinery import SourceFileLoader

def is_described(cls):
    return "__msgspec_cache__" in vars(cls) or any(
        type(part).__name__ == "StructInfo" for part in gc.get_referents(cls)
    )

import_one, described = SourceFileLoader.exec_module, []

def import_and_look(loader, module):
    import_one(loader, module)
    described.extend(
        f"{cls.__module__}.{cls.__qualname__}"
        for cls in vars(module).values()
        if isinstance(cls, type) and cls.__module__ == module.__name__ and is_described(cls)
    )

SourceFileLoader.exec_module = import_and_look
import edged
for found in pkgutil.walk_packages(edged.__path__, "edged."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
json.dump(described, sys.stdout)
"""


def reads(tree: ast.Module) -> Iterator[ast.expr]:
    """The types in all calls of `tree` that read values, as they are written."""
    ours: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "edged.planner.instance":
            ours |= {a.asname or a.name: OURS[a.name] for a in node.names if a.name in OURS}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        by_name = [word.value for word in node.keywords if word.arg == "type"]
        if called in ours:
            yield node.args[ours[called]]
        elif called == "msgspec.convert":
            yield by_name[0] if by_name else node.args[1]
        elif called.startswith("msgspec.") and called.endswith(".Decoder"):
            yield by_name[0] if by_name else node.args[0]
        elif called.startswith("msgspec.") and called.endswith(".decode"):
            yield from by_name


def resolve(path: Path, written: ast.expr) -> tuple[Any, ...]:
    text = ast.unparse(written)
    parameter = PARAMETERS.get(f"{name(path)}: {text}")
    if parameter is not None:
        return parameter
    module = importlib.import_module(name(path).removesuffix(".py").replace("/", "."))
    space = dict(vars(module))
    for node in ast.walk(parse(path)):  # what is imported inside functions
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            found = importlib.import_module(node.module)
            space |= {a.asname or a.name: getattr(found, a.name, None) for a in node.names}
    try:
        return (eval(text, space),)
    except (NameError, AttributeError):
        pytest.fail(f"{name(path)} reads as `{text}`: say in PARAMETERS which types these can be")


def parts(read: Any, found: set[type]) -> None:
    """Add the types that msgspec keeps a description of, among those that `read` is made of."""
    if isinstance(read, type) and not isinstance(read, types.GenericAlias):
        is_described = issubclass(read, msgspec.Struct) or dataclasses.is_dataclass(read)
        is_described |= typing.is_typeddict(read) or hasattr(read, "_fields")
        if is_described and read not in found:
            found.add(read)
            for part in typing.get_type_hints(read).values():
                parts(part, found)
    else:
        for part in typing.get_args(read):
            parts(part, found)


@cache
def described() -> frozenset[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, timeout=120
    )
    return frozenset(json.loads(done.stdout))


def full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


@pytest.mark.parametrize("path", [p for p in sources("edged") if any(reads(parse(p)))], ids=name)
def test_types_that_are_read_are_described_by_the_module_that_defines_them(path: Path) -> None:
    found: set[type] = set()
    for written in reads(parse(path)):
        for read in resolve(path, written):
            parts(read, found)
    forgotten = {full_name(cls) for cls in found} - described()
    assert not forgotten, "add them to the call of `describe` at the end of the module"


def test_an_undescribed_type_is_seen() -> None:
    """The test above rests on how msgspec keeps its descriptions; this tells if that changes."""
    probe = PROBE.partition("import_one")[0] + (
        "import msgspec\n"
        "from typing import NamedTuple\n"
        "class A(msgspec.Struct): x: int = 0\n"
        "class B(NamedTuple): x: int = 0\n"
        "print(is_described(A), is_described(B))\n"
        "msgspec.json.encode([A(), B()]); print(is_described(A), is_described(B))\n"
        "msgspec.convert([{}, []], tuple[A, B]); print(is_described(A), is_described(B))\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"] * 4 + ["True"] * 2


# Each type of the wire is read for the first time in many threads at once.
FIRST_CALLS = """
import contextlib, sys, threading
sys.setswitchinterval(1e-6)
from edged import wire
from edged.errors import EdgedError
header = b"\\x82\\xa2id\\xa11\\xa4name\\xa1a"
barrier, bad = threading.Barrier(16, timeout=30), []

def read_all():
    try:
        for op in wire.REPLIES:
            barrier.wait()
            with contextlib.suppress(EdgedError):
                wire.decode_reply([wire.MAGIC + bytes([op]), header])
        for table in (wire.REQUESTS, wire.ADMIN_REQUESTS):
            for op in table:
                barrier.wait()
                with contextlib.suppress(EdgedError):
                    wire.decode_request([wire.MAGIC + bytes([op]), header], wire.Limits(), table)
    except Exception as error:
        bad.append(error)

threads = [threading.Thread(target=read_all) for _ in range(16)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
sys.exit(len(bad))
"""


def test_first_calls_in_many_threads_at_once_do_not_end_the_process() -> None:
    processes = [subprocess.Popen([sys.executable, "-c", FIRST_CALLS]) for _ in range(8)]
    assert [process.wait(60) for process in processes] == [0] * len(processes)
