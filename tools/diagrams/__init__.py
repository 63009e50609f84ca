"""Diagrams in the pages that are made from the code: `python -m tools.diagrams` writes them."""

from __future__ import annotations

from pathlib import Path

from edged.core.requests.job import diagram

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"
BEGIN, END = "<!-- states of a request: made by python -m tools.diagrams -->", "<!-- end -->"


def with_diagram(text: str) -> str:
    """The page with the states of a request between its marks. Raises ValueError without marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has no place for the diagram: {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n```mermaid\n{diagram()}```\n\n{END}{after}"
