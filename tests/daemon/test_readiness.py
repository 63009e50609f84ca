"""What the daemon says of itself while it loads, and what is loaded first."""

from __future__ import annotations

import pytest

from edged.core.residency.ledger import Account
from edged.core.residency.report import MemoryState, ModelState
from edged.daemon.models.versions import Versions
from edged.daemon.readiness import (
    Readiness,
    building_text,
    first_models,
    readiness,
    wanted_models,
)
from edged.errors import Code
from tests.daemon.samples import catalog, manifest

THERE, MISSING, TOO_LARGE, FAILED = "there", "missing", "too large", "failed"
PASSING = "failed for now"
CODES = {FAILED: Code.INTERNAL, PASSING: Code.UNAVAILABLE}


def model(name: str, how: str) -> ModelState:
    return ModelState(
        name,
        100,
        0 if how == THERE else 60,
        1.0,
        served=True,
        pinned=False,
        waiting=0,
        error="block damaged" if how in CODES else "",
        code=CODES.get(how),
        excess_bytes={TOO_LARGE: 30}.get(how, 0),
    )


def found(
    loading: tuple[int, int] | None = None, wanted: tuple[str, ...] = ("a",), **models: str
) -> Readiness:
    account = Account(0.0, 0, 0, 0, 0, 0, 0)
    states = tuple(model(name, how) for name, how in models.items())
    return readiness(MemoryState(account, 1, (), states, loading), wanted)


@pytest.mark.parametrize(
    ("is_ready", "loading", "models"),
    [
        (False, (1, 2), {"a": MISSING, "b": MISSING}),
        (False, (1, 2), {"a": MISSING, "b": THERE}),  # b is not the default of its task
        (True, (2, 2), {"a": THERE, "b": MISSING}),
        (True, None, {"a": MISSING, "b": THERE}),  # a is loaded when it is asked for
        (False, None, {"a": TOO_LARGE, "b": THERE}),
        (False, None, {"a": FAILED, "b": THERE}),
    ],
)
def test_it_is_ready_when_a_wanted_model_can_be_answered(is_ready, loading, models):
    assert found(loading, **models).is_ready is is_ready


def test_it_says_how_far_the_loading_is():
    assert found((3, 12), a=MISSING).progress == "loading model 3 of 12"
    assert found(None, a=THERE).remark == ""


@pytest.mark.parametrize(
    ("waiting", "of", "share", "says"),
    [(7, 7, 0.0, "preparing block 1 of 7, 0%"), (1, 7, 0.425, "preparing block 7 of 7, 42%"),
     (0, 7, 0.0, "")],
)  # fmt: skip
def test_it_says_how_far_engines_are(waiting, of, share, says):
    assert building_text(waiting, of, share) == says


def test_a_start_outlives_that_nothing_can_be_served_yet():
    """Engines are being built, or memory is short: that passes. A damaged block does not."""
    assert found(None, a=FAILED, b=PASSING).failure is None
    assert found(None, a=PASSING).failure is None
    assert found(None, a=FAILED).failure is not None


def test_where_no_wanted_model_fits_it_says_how_many_bytes_are_missing():
    said = found(None, a=TOO_LARGE, b=THERE).note
    assert said == (
        "the memory budget holds no pinned or default model: 30 bytes are missing for a"
    )


def test_where_some_do_not_fit_it_says_that_it_is_degraded():
    here = found(None, a=THERE, b=TOO_LARGE, c=MISSING, d=TOO_LARGE, e=THERE)
    assert here.is_ready
    assert here.remark == "degraded: 2 of 5 models do not fit"


def test_it_has_failed_only_when_no_model_can_be_served():
    assert found(None, a=FAILED, b=THERE).failure is None
    assert found((1, 2), a=FAILED, b=FAILED).failure is None  # not all was tried
    assert found(None, a=FAILED, b=FAILED).failure == (Code.INTERNAL, "block damaged")


VERSIONS = Versions(
    catalog(
        manifest("best", task="one", accuracy=0.9),
        manifest("other", task="one", accuracy=0.5),
        manifest("two"),
        manifest("three"),
    )
)


@pytest.mark.parametrize(
    ("pinned", "order", "expected"),
    [
        ((), (), ("best", "three", "two", "other")),
        ((), ("two", "best", "other", "three"), ("two", "best", "three", "other")),
        (("other",), (), ("other", "best", "three", "two")),
    ],
)
def test_pinned_models_are_loaded_first_then_defaults_in_the_configured_order(
    pinned, order, expected
):
    assert first_models(VERSIONS.catalog(), VERSIONS.served, pinned, order) == expected
    wanted = wanted_models(VERSIONS.catalog(), VERSIONS.served, pinned, ())
    assert wanted == {"best", "two", "three", *pinned}


def test_where_the_default_is_unloaded_or_fails_the_next_model_of_the_task_is_wanted():
    loadable = {name: key for name, key in VERSIONS.served.items() if name != "best"}
    assert wanted_models(VERSIONS.catalog(), loadable, (), ()) == {"other", "two", "three"}
    failing = ("best", "two")
    wanted = wanted_models(VERSIONS.catalog(), VERSIONS.served, (), failing)
    assert wanted == {"other", "three"}


def test_with_all_models_unloaded_it_is_ready_and_says_so():
    here = found(None)
    assert here.is_ready
    assert here.note == "all models are unloaded by an administrator"
