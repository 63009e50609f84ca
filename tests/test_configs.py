"""The files in configs/: each one loads, and edged.toml tells the truth about the defaults."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edged.config import Config, read

CONFIGS = Path(__file__).parents[1] / "configs"
EVERYTHING = CONFIGS / "edged.toml"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_each_file_is_a_good_configuration(path):
    assert isinstance(read(path), Config)


def test_edged_toml_says_the_defaults():
    assert read(EVERYTHING) == Config()


def test_edged_toml_lists_every_key():
    text = EVERYTHING.read_text()
    # TOML has no null, so a key whose default is None is shown as a comment.
    shown = re.sub(r"^# (?=[a-z_]+ = \S)", "", text, flags=re.MULTILINE)
    assert sorted(keys(msgspec.toml.decode(shown.encode()))) == sorted(
        keys(msgspec.to_builtins(Config()))
    )


def keys(table: dict[str, Any], above: str = "") -> Iterator[str]:
    """Dotted paths of a table's keys and of its tables'."""
    for name, value in table.items():
        yield above + name
        if isinstance(value, dict):
            yield from keys(value, f"{above}{name}.")
