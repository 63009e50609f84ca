"""The files in configs/ are good, and say the defaults; edged.full.toml names every key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edged.cli import main
from edged.config import Config, read

CONFIGS = Path(__file__).parents[1] / "configs"
USUAL, EVERYTHING = CONFIGS / "edged.toml", CONFIGS / "edged.full.toml"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_each_file_is_a_good_configuration(path):
    assert isinstance(read(path), Config)


@pytest.mark.parametrize("path", [USUAL, EVERYTHING], ids=lambda path: path.name)
def test_the_files_say_the_defaults(path):
    assert read(path) == Config()


def test_the_full_file_lists_every_key():
    assert sorted(keys(shown(EVERYTHING))) == sorted(keys(msgspec.to_builtins(Config())))


def test_the_short_file_has_a_dozen_keys_and_a_sentence_for_each():
    text = USUAL.read_text()
    named = [name for name in keys(shown(USUAL)) if not isinstance(at(shown(USUAL), name), dict)]
    assert len(named) == 12
    assert set(named) <= set(keys(shown(EVERYTHING)))
    before = re.findall(r"^(.*)\n(?:# )?[a-z_]+ = ", text, flags=re.MULTILINE)
    assert len(before) == len(named)
    assert all(re.fullmatch(r"# .*\.", line) for line in before)


def test_the_schema_for_editors_knows_every_key(capsys):
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert sorted(described(schema, schema)) == sorted(keys(msgspec.to_builtins(Config())))


def shown(path: Path) -> dict[str, Any]:
    """The keys of a file. TOML has no null, so one whose default is None stands in a comment."""
    text = re.sub(r"^# (?=[a-z_]+ = \S)", "", path.read_text(), flags=re.MULTILINE)
    return msgspec.toml.decode(text.encode())


def keys(table: dict[str, Any], above: str = "") -> Iterator[str]:
    """Dotted paths of a table's keys and of its tables'."""
    for name, value in table.items():
        yield above + name
        if isinstance(value, dict):
            yield from keys(value, f"{above}{name}.")


def at(table: dict[str, Any], name: str) -> Any:
    for key in name.split("."):
        table = table[key]
    return table


def described(schema: dict[str, Any], part: dict[str, Any], above: str = "") -> Iterator[str]:
    """Dotted paths of the keys that a schema knows."""
    target = part["$ref"].rpartition("/")[2]
    for name, said in schema["$defs"][target]["properties"].items():
        yield above + name
        if "$ref" in said:
            yield from described(schema, said, f"{above}{name}.")
