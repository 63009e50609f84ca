"""Diagrams in the pages that are made from the code: `python -m tools.diagrams` writes them."""

from __future__ import annotations

from pathlib import Path

from edged.core.requests.job import TRANSITIONS, State

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"
BEGIN, END = "<!-- states of a request: made by python -m tools.diagrams -->", "<!-- end -->"


def with_diagram(text: str) -> str:
    """The page with the states of a request between its marks. Raises ValueError without marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has no place for the diagram: {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n```mermaid\n{diagram()}```\n\n{END}{after}"


def diagram() -> str:
    """The states of a request and what leads from one to another, as Mermaid."""
    changes = [f"    {t.before.name} --> {t.after.name}: {t.reason}" for t in TRANSITIONS]
    first, last = State.WAITING.name, State.GONE.name
    lines = ["stateDiagram-v2", f"    [*] --> {first}: admitted", *changes, f"    {last} --> [*]"]
    return "\n".join(lines) + "\n"
