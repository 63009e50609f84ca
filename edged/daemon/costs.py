"""The times of batches on a device that has just started: from a profile, or from its warm-up.

These are first estimates; the scheduler's cost model corrects them with measured batches.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from edged.core.events import GroupCost
from edged.link import messages as link
from edged.manifest import Manifest
from edged.profiles import machine
from edged.profiles.form import DeviceProfile, check_fits, group_costs

log = logging.getLogger("edged")


def costs_of_a_lane(
    ready: link.Ready, manifests: Mapping[str, Manifest], profile: DeviceProfile | None
) -> tuple[GroupCost, ...]:
    """`manifests` by the keys that the worker knows them by. Raises ConfigError when there is a
    profile, and it is not of this device and these blocks.
    """
    if profile is None:
        return _measured(ready)
    models = [manifests[key] for key in ready.models]
    blocks = {step.block for model in models for step in model.steps}
    check_fits(
        profile,
        blocks,
        backend=ready.backend,
        device=ready.device,
        machine=machine(),
        lanes=ready.lanes,
    )
    for name, version in profile.versions.items():
        if ready.versions.get(name) != version:
            now = ready.versions.get(name, "not here")
            log.warning("the profile was measured with %s %s, this is %s", name, version, now)
    return group_costs(profile, models)


def _measured(ready: link.Ready) -> tuple[GroupCost, ...]:
    """The times of the slowest model of each group, so that no batch is expected too early."""
    slowest: dict[tuple[str, bool], dict[int, float]] = {}
    for warm_up in ready.warm_ups:
        times = slowest.setdefault((warm_up.group, warm_up.wide), {})
        times[warm_up.rows] = max(times.get(warm_up.rows, 0.0), warm_up.infer_us / 1e6)
    costs = []
    for (group, wide), times in slowest.items():
        if wide == (ready.lanes == 1):
            rows = tuple(sorted(times))
            on_all_s = slowest.get((group, True), {}).get(rows[0])
            speed_up = None if on_all_s is None else times[rows[0]] / on_all_s
            costs.append(GroupCost(group, rows, tuple(times[n] for n in rows), speed_up))
    return tuple(costs)
