"""The task-grouping losses of Standley et al. (ICML 2020) that ship with the package.

Source: github.com/tstandley/taskgrouping (MIT licence, data/LICENSE). The J3O paper says neither
which of the four settings nor which split it used: setting 1 and the test split are our choice.
"""

from __future__ import annotations

import csv
from importlib import resources

import numpy as np

from edged.errors import PlanError
from edged.planner.fleet.generate import Losses

SETTINGS = (1, 2, 3, 4)
SPLITS = ("test", "val")


def losses(setting: int = 1, split: str = "test") -> Losses:
    """The 31 full-capacity networks over five tasks. Raises PlanError on an unknown table."""
    if setting not in SETTINGS or split not in SPLITS:
        raise PlanError(f"standley: no setting {setting} {split!r}; settings 1 to 4, test or val")
    table = f"standley2020_setting{setting}_{split}.csv"
    text = (resources.files("edged.planner.fleet") / "data" / table).read_text(encoding="utf-8")
    rows = list(csv.reader(line for line in text.splitlines() if not line.startswith("#")))
    tasks = tuple(rows[0][1:])
    # "half:x" rows are half-capacity networks (half the cost); J3O's library has none of them.
    full = [row for row in rows[1:] if not row[0].startswith("half:")]
    loss = np.array([[float(cell) if cell else np.nan for cell in row[1:]] for row in full])
    groups = tuple(tuple(map(int, np.flatnonzero(~np.isnan(row)))) for row in loss)
    return Losses(tasks, groups, loss)
