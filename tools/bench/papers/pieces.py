"""Pieces of a long benchmark, kept in files: a run that was stopped continues where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Returns the JSON value that the function makes, or that an earlier run kept under the name.
Kept = Callable[[str, Callable[[], Any]], Any]


def keeper(folder: Path | None, prefix: str) -> Kept:
    """Keeps values in files `prefix-NAME.json` of the folder; None keeps nothing."""

    def kept(name: str, make: Callable[[], Any]) -> Any:
        if folder is None:
            return make()
        path = folder / f"{prefix}-{name}.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
        made = make()
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(made), encoding="utf-8")
        unfinished.replace(path)
        return made

    return kept
