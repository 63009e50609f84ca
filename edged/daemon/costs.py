"""The times of blocks and batches on this device: from a profile, or as the worker measured them.

These are first estimates; the scheduler's cost model corrects them with measured batches.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from edged.core.events import BlockCost, GroupCost, Library, Model
from edged.daemon.models.versions import Versions
from edged.link import messages as link
from edged.manifest import Manifest
from edged.profiles import machine
from edged.profiles.form import DeviceProfile, check_fits, group_costs

log = logging.getLogger("edged")

_READ_BYTES_PER_S = 500e6  # assumed of a disk until a block was read from it


class KnownCosts:
    """Owns what workers have reported of blocks and batches."""

    def __init__(self, profile: DeviceProfile | None) -> None:
        self._profile = profile  # None: the worker measures
        self._blocks: dict[str, link.BlockInfo] = {}  # as they were loaded last
        self._warm_ups: dict[tuple[str, int, bool], link.WarmUp] = {}
        self._measured: set[str] = set()  # keys of models of which nothing is to be measured
        self._interrupted: set[str] = set()  # models that a worker has ended with

    def serve(self, after: Iterable[Manifest], before: Iterable[Manifest]) -> None:
        """Other models are served than before. A path of blocks that is new among them is not in
        the profile, which is then used no more: what is served is measured.
        """
        if not _paths(after) <= _paths(before):
            self._profile = None

    def on_ready(
        self, ready: link.Ready, manifests: Mapping[str, Manifest]
    ) -> tuple[GroupCost, ...]:
        """What batches cost. Raises ConfigError for a profile of another device."""
        self._blocks |= {info.id: info for info in ready.blocks}
        self._measured |= set(ready.measured)
        self._learn(ready.warm_ups)
        return costs_of_a_lane(ready, manifests, self._profile)

    def on_measured(self, message: link.ModelMeasured, lanes: int) -> tuple[GroupCost, ...]:
        """What batches of the groups that were measured cost now."""
        if not message.done:
            return ()
        self._measured.add(message.model)
        self._learn(message.warm_ups)
        groups = {one.group for one in message.warm_ups}
        return _measured([o for o in self._warm_ups.values() if o.group in groups], lanes)

    def interrupted(self, model: str) -> None:
        """A worker has ended while it measured this model. The second time, do without."""
        if model in self._interrupted:
            self._measured.add(model)
        self._interrupted.add(model)

    def library(self, versions: Versions) -> Library:
        """All versions of models, and their blocks; of those never loaded, what their files say.
        What was measured of other versions is forgotten.
        """
        self._warm_ups = {
            key: one for key, one in self._warm_ups.items() if one.model in versions.models
        }
        self._measured &= versions.models.keys()
        self._interrupted &= versions.models.keys()
        costs = []
        for block, file_bytes in versions.block_bytes.items():
            info = self._blocks.get(block)
            if info is None:
                costs.append(BlockCost(block, file_bytes, file_bytes / _READ_BYTES_PER_S))
            else:
                costs.append(BlockCost(block, info.bytes_used, info.load_us / 1e6))
        return Library(
            tuple(
                Model(
                    key,
                    tuple(dict.fromkeys(step.block for step in manifest.steps)),
                    measured=self._profile is not None or key in self._measured,
                )
                for key, manifest in versions.models.items()
            ),
            tuple(costs),
        )

    def _learn(self, warm_ups: Iterable[link.WarmUp]) -> None:
        self._warm_ups |= {(one.model, one.rows, one.wide): one for one in warm_ups}


def _paths(manifests: Iterable[Manifest]) -> set[tuple[str, ...]]:
    return {tuple(step.block for step in manifest.steps) for manifest in manifests}


def costs_of_a_lane(
    ready: link.Ready, manifests: Mapping[str, Manifest], profile: DeviceProfile | None
) -> tuple[GroupCost, ...]:
    """`manifests` by the keys that the worker knows them by. Raises ConfigError when there is a
    profile, and it is not of this device and these blocks.
    """
    if profile is None:
        return _measured(ready.warm_ups, ready.lanes)
    models = [manifests[key] for key in ready.models if key in manifests]
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


def _measured(warm_ups: Iterable[link.WarmUp], lanes: int) -> tuple[GroupCost, ...]:
    """The times of the slowest model of each group, so that no batch is expected too early."""
    slowest: dict[tuple[str, bool], dict[int, float]] = {}
    for warm_up in warm_ups:
        times = slowest.setdefault((warm_up.group, warm_up.wide), {})
        times[warm_up.rows] = max(times.get(warm_up.rows, 0.0), warm_up.infer_us / 1e6)
    costs = []
    for (group, wide), times in slowest.items():
        if wide == (lanes == 1):
            rows = tuple(sorted(times))
            on_all_s = slowest.get((group, True), {}).get(rows[0])
            speed_up = None if on_all_s is None else times[rows[0]] / on_all_s
            costs.append(GroupCost(group, rows, tuple(times[n] for n in rows), speed_up))
    return tuple(costs)
