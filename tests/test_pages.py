"""What is made from the code in the pages is as the code says."""

from __future__ import annotations

import pytest

from tools.diagrams import modules

PAGE = modules.page()


def test_the_page_of_modules_is_what_their_docstrings_say() -> None:
    text = modules.PAGE.read_text(encoding="utf-8")
    assert text == PAGE, "run python -m tools.diagrams"


def test_every_module_and_every_room_says_what_it_is() -> None:
    silent = [line for line in PAGE.splitlines() if line.startswith("* ") and line.endswith(":")]
    assert not silent
    rooms = [part.splitlines() for part in PAGE.split("\n## ")[1:]]
    assert not [room[0] for room in rooms if not room[2] or room[2].startswith("*")]


@pytest.mark.parametrize("line", PAGE.splitlines())
def test_lines_are_short(line: str) -> None:
    assert len(line) <= modules.WIDTH
