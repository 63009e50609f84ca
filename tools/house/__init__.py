"""How large and how winding the code is: figures of the work tree, as one JSON line."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
