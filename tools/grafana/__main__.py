"""`python -m tools.grafana`: writes the dashboard, `tools/grafana/dashboard.json`."""

from __future__ import annotations

import json
from pathlib import Path

from tools.grafana.panels import dashboard

PLACE = Path(__file__).with_name("dashboard.json")


def text() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    PLACE.write_text(text(), encoding="utf-8")
