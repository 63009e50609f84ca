"""`python -m tools.diagrams` writes into the pages what is made from the code."""

from __future__ import annotations

from tools.diagrams import PAGE, modules, with_diagram

PAGE.write_text(with_diagram(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
modules.PAGE.write_text(modules.page(), encoding="utf-8")
