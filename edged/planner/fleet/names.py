"""The names that a user chooses from, and what they stand for. Knows no arrays and no solver.

The command line reads them here, so that `edged --help` costs no import of a planner.
"""

from __future__ import annotations

from collections.abc import Mapping

METHODS: Mapping[str, str] = {
    "milp": "exact: one MILP, solved by HiGHS",
    "price": "prices of the shared limits, with an upper bound (default)",
    "j3o": "Algorithms 1 and 2 as printed",
    "j3o-fixed": "J3O, each node judged on its own",
    "opt-ao": "alternating, the best models by enumeration",
    "greedy-ao": "alternating, models by gain per MB as long as compute lasts",
    "rand-ao": "alternating, models at random",
    "full-local": "nothing leaves a client",
    "baj3o": "J3O with the batching surrogate (29), then exact active sets",
}
EFFORTS = ("quick", "full")
FAMILIES = ("taskonomy", "domainnet", "cityscape", "hard", "hardhet")
MODES = ("drop", "null", "strict")
PLACES = ("auto", "ray", "one")  # where the parts of a large fleet are planned
