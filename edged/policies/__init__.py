"""The batching policies by name: those of the scheduler, and those to compare them with.

The scheduler knows none of this package: whoever makes one hands it the policy that `find` names.
"""

from __future__ import annotations

import re

import msgspec

from edged.core.batches.policies import SERVING, BatchPolicy
from edged.errors import InvalidArgument
from edged.policies.baselines import greedy, one, static
from edged.policies.smooth import Smooth, smooth, smooth_keep, smooth_timeout

_STATIC_ROWS = re.compile(r"[1-9][0-9]{0,3}")

_SIMPLE = {
    **SERVING,
    "greedy": BatchPolicy(lambda: greedy),
    "unbatched": BatchPolicy(lambda: one),
    "monolithic": BatchPolicy(lambda: one, exclusive=True),
}
_SMOOTH = {"smooth": smooth, "smooth-keep": smooth_keep, "smooth-timeout": smooth_timeout}


def find(name: str) -> BatchPolicy:
    """The policy called `name`. `static:B` waits for B rows; `smooth:window_s=1,beat_s=0.1` says
    how the load is measured. Raises InvalidArgument."""
    kind, colon, parameters = name.partition(":")
    if kind == "static" and _STATIC_ROWS.fullmatch(parameters):
        rule = static(int(parameters))
        return BatchPolicy(lambda: rule)
    if kind in _SMOOTH:
        measured = _smooth(name, parameters) if colon else Smooth()
        return measured.policy(_SMOOTH[kind])
    if name in _SIMPLE:
        return _SIMPLE[name]
    raise InvalidArgument(
        f"no batching policy is called {name!r}: there are "
        f"{', '.join(sorted([*_SIMPLE, *_SMOOTH]))} and static:B, as static:4, "
        "with B from 1 to 9999"
    )


def _smooth(name: str, parameters: str) -> Smooth:
    """The parameters behind the colon, each `key=seconds`."""
    pairs = [pair.partition("=") for pair in parameters.split(",")]
    try:
        found = Smooth(**{key: float(value) for key, _, value in pairs})
    except (TypeError, ValueError):
        found = None
    keys = [key for key, _, _ in pairs]
    if found is None or len(set(keys)) < len(keys) or not _is_possible(found):
        raise InvalidArgument(
            f"batching policy {name!r}: behind the colon there are window_s, beat_s or both, as "
            "smooth:window_s=1,beat_s=0.1, with seconds from 0.001 to 86400"
        )
    return found


def _is_possible(measured: Smooth) -> bool:
    return all(0.001 <= seconds <= 86_400.0 for seconds in msgspec.structs.astuple(measured))
