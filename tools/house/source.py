"""What can be read off the source files: lengths, names that are defined twice, import circles."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from functools import cache
from pathlib import Path

from tools.house import ROOT

LINES_A_FILE, LINES_A_FUNCTION, MARKDOWN_COLUMNS = 400, 40, 120


def python_files(*places: str) -> list[Path]:
    """The Python files below `places`, which are relative to the root."""
    found = [path for place in places for path in sorted((ROOT / place).rglob("*.py"))]
    if not found:
        raise FileNotFoundError(f"there is no Python file below {', '.join(places)}")
    return found


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def long_files(paths: Iterable[Path]) -> dict[str, int]:
    """Lines of the files that have more than LINES_A_FILE."""
    return {relative(path): n for path in paths if (n := lines(path)) > LINES_A_FILE}


def long_functions(paths: Iterable[Path]) -> dict[str, int]:
    """Lines of the functions that have more than LINES_A_FUNCTION, docstrings included.

    From `def` to the last line; decorators do not count.
    """
    found = {}
    for path in paths:
        for node in ast.walk(_parse(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LINES_A_FUNCTION:
                    found[f"{relative(path)}:{node.lineno} {node.name}"] = length
    return found


def doubled_names(paths: Iterable[Path]) -> dict[str, list[str]]:
    """Public classes at the top of a module that two or more files define, and these files."""
    places = defaultdict(list)
    for path in paths:
        for node in _parse(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(relative(path))
    return {name: files for name, files in sorted(places.items()) if len(files) > 1}


def long_markdown_lines() -> dict[str, int]:
    """How many lines of more than MARKDOWN_COLUMNS characters a page has; pages without are left
    out, and so are directories whose name begins with a dot."""
    found = {}
    for path in sorted(ROOT.rglob("*.md")):
        parts = path.relative_to(ROOT).parts
        if any(part.startswith(".") or part == "node_modules" for part in parts):
            continue
        text = path.read_text(encoding="utf-8")
        count = sum(len(line) > MARKDOWN_COLUMNS for line in text.splitlines())
        if count:
            found[relative(path)] = count
    return found


# --- import circles -------------------------------------------------------------------------------


def modules(paths: Iterable[Path]) -> dict[str, ast.Module]:
    """By their dotted names."""
    return {
        relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", "."): _parse(path)
        for path in paths
    }


def import_circles(trees: Mapping[str, ast.Module]) -> list[list[str]]:
    """Groups of modules each of which imports every other, over others or directly.

    Imports at the level of the module count, those under `if TYPE_CHECKING` do not. To import a
    module also runs the `__init__` of its packages; that is not counted.
    """
    graph = {name: _imported(tree, trees.keys()) - {name} for name, tree in trees.items()}
    reached = {name: _reached(name, graph) for name in graph}
    circles = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in graph
        if name in reached[name]
    }
    return [list(circle) for circle in sorted(circles)]


def _imported(tree: ast.Module, known: Set[str]) -> set[str]:
    found: set[str] = set()
    for node in _at_module_level(tree.body):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                found.add(submodule if submodule in known else node.module)
    return found & known


def _at_module_level(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported, also those in `if` and `try`."""
    for node in body:
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _at_module_level(node.orelse)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            inner = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
            handlers = node.handlers if isinstance(node, ast.Try) else []
            yield from _at_module_level([*inner, *(s for h in handlers for s in h.body)])


def _reached(start: str, graph: dict[str, set[str]]) -> set[str]:
    """What can be reached by one import or more; `start` itself only around a circle."""
    found: set[str] = set()
    open_ends = [start]
    while open_ends:
        new = graph[open_ends.pop()] - found
        found |= new
        open_ends += new
    return found


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))
