"""What the front knows of the times of blocks and batches, over reloads."""

from __future__ import annotations

import msgspec

from edged.daemon.costs import KnownCosts
from edged.daemon.models.versions import Versions
from edged.link import messages as link
from edged.manifest import Manifest
from edged.profiles.form import SCHEMA, BlockProfile, DeviceProfile
from tests.daemon.samples import OTHER_BACKBONE, catalog, manifest

FLOWERS = manifest("flowers")
RENAMED = msgspec.structs.replace(FLOWERS, labels=("non", "oui"))
CHANGED = manifest("flowers", backbone=OTHER_BACKBONE)


def profile_of(*models: Manifest) -> DeviceProfile:
    blocks = {step.block for model in models for step in model.steps}
    figures = {block: BlockProfile((1,), (0.001,)) for block in blocks}
    return DeviceProfile(SCHEMA, "a test", "a board", figures)


def all_are_measured(costs: KnownCosts, *models: Manifest) -> bool:
    return all(one.measured for one in costs.library(Versions(catalog(*models))).models)


def test_a_profile_is_used_until_a_reload_brings_a_path_that_it_does_not_have():
    costs = KnownCosts(profile_of(FLOWERS))
    costs.serve([RENAMED], [FLOWERS])
    assert all_are_measured(costs, RENAMED)
    costs.serve([CHANGED], [RENAMED])
    assert not all_are_measured(costs, CHANGED)


def test_times_of_a_version_that_has_left_do_not_count_for_its_group():
    group = FLOWERS.steps[0].block
    costs = KnownCosts(None)

    def measured(model: str, us: int) -> tuple[float, ...]:
        times = (link.WarmUp(group, model, 1, us, True),)
        (cost,) = costs.on_measured(link.ModelMeasured(model, True, times), lanes=1)
        return cost.time_s

    assert measured("slow", 9000) == (0.009,)
    assert measured("flowers", 1000) == (0.009,)  # the slowest of the group
    costs.library(Versions(catalog(FLOWERS)))
    assert measured("flowers", 1000) == (0.001,)
