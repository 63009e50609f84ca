"""`python -m tools.diagrams` writes the diagrams into the pages."""

from __future__ import annotations

from tools.diagrams import PAGE, with_diagram

PAGE.write_text(with_diagram(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
