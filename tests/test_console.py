"""What a terminal gets to see of names, labels and messages that come from elsewhere."""

from __future__ import annotations

import argparse
import ast
import json
from pathlib import Path

import pytest

from edged.cli.console import print_json, printable, run_command, say, table
from edged.errors import EdgedError

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\x7f\u202e\u2028\ud800"
ROOT = Path(__file__).parent.parent


def harmless(text: str) -> bool:
    return all(c == "\n" or c.isprintable() for c in text)


def test_what_a_terminal_would_obey_is_shown_instead(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"first\n{EVIL}")
    text = capsys.readouterr().out
    assert harmless(text)
    assert text.splitlines()[1].startswith(r"\x1b]0;owned\x07\x1b[2J\x9b31m\r\x7f\u202e\u2028")
    assert printable("a\nb\tc") == r"a\nb\tc"


def test_what_people_write_stays_as_it_is() -> None:
    for text in ("café", "猫　犬", "می‌خواهم", "a\u00a0b", "👩‍🌾"):
        assert printable(text) == text


def test_tables_errors_and_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert harmless(table(["a"], [[EVIL], ["x\ny"]]))
    assert len(table(["a"], [["x\ny"]]).splitlines()) == 3

    def fails(args: argparse.Namespace) -> None:
        raise EdgedError(f"as the daemon says: {EVIL}\nsecond")

    parser = argparse.ArgumentParser(prog="edged")
    parser.set_defaults(run=fails)
    assert run_command(parser, []) == 1
    text = capsys.readouterr().err
    assert harmless(text)
    assert len(text.splitlines()) == 1
    print_json({"label": EVIL})
    text = capsys.readouterr().out
    assert not set(text) & {chr(code) for code in (*range(10), *range(11, 32), *range(127, 160))}
    assert json.loads(text) == {"label": EVIL}


def test_commands_print_by_the_console_alone() -> None:
    """`print` shows what it is given: whoever adds one has not asked where the text comes from."""
    files = [
        *(ROOT / "edged" / "cli").glob("*.py"),
        *(ROOT / "export").glob("cli*.py"),
        *(ROOT / "edged" / "planner").glob("*/cli.py"),
    ]
    assert len(files) > 12
    printing = {
        path.name
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    }
    assert printing == {"console.py"}
