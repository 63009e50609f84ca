"""The list of modules, one line each: the first sentence of the module's own docstring."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "modules.md"
WIDTH = 120  # characters of a line of Markdown

HEAD = """# Modules

One line for each module: the first sentence of its docstring. `python -m tools.diagrams` writes
this page, and a test compares the two. [architecture.md](architecture.md) says how the rooms work
together.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for folder in _folders():
        files = sorted(folder.glob("*.py"))
        name = folder.relative_to(ROOT).as_posix()
        about = _sentence(folder / "__init__.py")
        lines = [
            _line(f"* `{file.name}`: {_sentence(file)}") for file in files if file.stem[:2] != "__"
        ]
        parts.append(f"## `{name}/`\n\n" + (f"{_wrapped(about)}\n\n" if about else ""))
        parts[-1] += "\n".join(lines) + "\n"
    return "\n".join(parts)


def _folders() -> Iterator[Path]:
    """The packages of edged and export that have modules of their own."""
    for root in ("edged", "export"):
        for init in sorted((ROOT / root).rglob("__init__.py")):
            if any(file.stem[:2] != "__" for file in init.parent.glob("*.py")):
                yield init.parent


def _sentence(file: Path) -> str:
    """The first sentence of the docstring, on one line; empty where there is none."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    first = " ".join(text.split("\n\n")[0].split())
    found = re.match(r"(.+?[.?!])(?= [A-Z]|$)", first)
    return found[1] if found else first


def _line(text: str) -> str:
    return _wrapped(text, indent="  ")


def _wrapped(text: str, indent: str = "") -> str:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > WIDTH:
            lines.append(line)
            line = indent + word
        else:
            line = f"{line} {word}" if line else word
    return "\n".join([*lines, line])
