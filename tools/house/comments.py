"""Comments, and how many begin with a preposition: those leave the noun to be guessed.

A comment ends a line of code, or stands on lines of its own. Lines that stand directly below a
comment go on with it, unless they follow the comment of a line of code and begin with a capital.
Headings (`# --- events ---`) and orders to tools (`# noqa`, `# type:`, `# fmt:`) are no comments.
Docstrings are not looked at.

A comment begins with a preposition when its first word, in any case, is one of PREPOSITIONS. Some
of these are conjunctions too ("before", "as", "until"); they count all the same, since a comment
that begins so is hardly ever a sentence with its noun in front.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

PREPOSITIONS = frozenset({
    "about", "above", "across", "after", "against", "along", "among", "around", "as", "at",
    "before", "behind", "below", "beneath", "beside", "besides", "between", "beyond", "by",
    "despite", "down", "during", "except", "for", "from", "in", "inside", "into", "of", "off",
    "on", "onto", "out", "outside", "over", "per", "since", "than", "through", "till", "to",
    "toward", "towards", "under", "until", "up", "upon", "via", "with", "within", "without",
})  # fmt: skip

_NO_COMMENT = re.compile(r"#\s*(!|-{3}|noqa\b|type:|fmt:|pragma\b|mypy:|ruff:)")
_FIRST_WORD = re.compile(r"#\s*(\w+)")


def comments(source: str) -> Iterator[str]:
    """The first line of each comment."""
    last_row, trails = 0, False  # of the comment before, and whether it ends a line of code
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or _NO_COMMENT.match(token.string):
            continue
        row, column = token.start
        is_alone = not token.line[:column].strip()
        goes_on = is_alone and row == last_row + 1 and not (trails and _is_capital(token.string))
        if not goes_on:
            yield token.string
            trails = not is_alone
        last_row = row


def begins_with_preposition(comment: str) -> bool:
    word = _FIRST_WORD.match(comment)
    return word is not None and word[1].lower() in PREPOSITIONS


def in_files(paths: Iterable[Path]) -> list[str]:
    return [c for path in paths for c in comments(path.read_text(encoding="utf-8"))]


def _is_capital(comment: str) -> bool:
    word = _FIRST_WORD.match(comment)
    return word is not None and word[1][0].isupper()
