"""Loading, pinning and reloading, with a host that plays scheduler and worker by hand."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from edged.core.events import LoadAsked, PinAsked, Settled, UnloadAsked
from edged.daemon.models.administration import Administration
from edged.daemon.models.catalog import Catalog
from edged.daemon.models.held_store import Contents, Unusable
from edged.daemon.models.instructions import Instructions, Said
from edged.daemon.models.versions import Change, Versions
from edged.errors import Code, EdgedError, NotFound, ResourceExhausted, StoreError, Unavailable
from edged.link import messages as link
from edged.manifest import Manifest
from tests.daemon.samples import OTHER_BACKBONE, manifest


def contents(*manifests: Manifest) -> Contents:
    return Contents(
        {model.name: model for model in manifests},
        {step.block: 10 for model in manifests for step in model.steps},
    )


class Notebook:
    """What administrators said, without a file."""

    def __init__(self, said: Said) -> None:
        self.said = said
        self.written = 0

    def read(self) -> Said:
        return self.said

    def write(self, said: Said) -> None:
        self.said = said
        self.written += 1


class Site:
    """Store, scheduler and worker of an Administration: what it orders is kept, to be answered."""

    def __init__(
        self, *manifests: Manifest, pinned: tuple[str, ...] = (), said: Said | None = None
    ) -> None:
        self.notebook = Notebook(said or Said())
        self.store: Contents | EdgedError = contents(*manifests)
        self.device_is_up = True
        self.asked: list[LoadAsked | UnloadAsked | PinAsked] = []
        self.ordered: list[link.Define | link.Forget] = []
        self.told: list[set[str]] = []
        self.served: Catalog | None = None
        self.kept: set[str] = set()
        self.outcomes: list[Any] = []
        self.in_use: set[str] = set()
        self.failing: list[str] = []
        versions = Versions(contents(*manifests))
        self.administration = Administration(
            versions, self, Instructions(pinned, self.notebook), self
        )

    def read(self) -> Contents:
        if isinstance(self.store, EdgedError):
            raise self.store
        return self.store

    def keep(self, blocks: Collection[str]) -> None:
        self.kept = set(blocks)

    def ask(self, event: LoadAsked | UnloadAsked | PinAsked, now: float) -> None:
        self.asked.append(event)

    def order(self, message: link.Define | link.Forget) -> None:
        self.ordered.append(message)

    def tell_versions(self, now: float) -> None:
        self.told.append(set(self.administration.versions.models))

    def is_in_use(self, key: str) -> bool:
        return key in self.in_use

    def failing_models(self) -> list[str]:
        return self.failing

    def serve(self, catalog: Catalog) -> None:
        self.served = catalog

    def done(self, outcome: Any, now: float) -> None:
        self.outcomes.append(outcome)

    def reload(self, *manifests: Manifest) -> None:
        if manifests:
            self.store = contents(*manifests)
        self.administration.reload(self.done, 0.0)

    def settle(self, code: Code | None = None) -> list[LoadAsked | UnloadAsked | PinAsked]:
        """The scheduler settles what it was asked."""
        asked, self.asked = self.asked, []
        for event in asked:
            self.administration.settled(Settled(event.ask, code, "so"), 0.0)
        return asked

    def key(self, name: str) -> str:
        return self.administration.versions.served[name]


OLD, NEW = manifest("flowers"), manifest("flowers", backbone=OTHER_BACKBONE)
FOOD, BIRDS = manifest("food"), manifest("birds")


def test_a_new_version_is_served_when_it_is_loaded_and_the_old_one_then_leaves():
    site = Site(OLD, FOOD)
    site.reload(NEW, FOOD)
    ((key, new),) = site.ordered[0].models
    assert (new, key in ("flowers", "food")) == (NEW, False)
    assert site.told == []
    site.administration.defined(0.0)
    assert site.told == [{"flowers", "food", key}]
    assert site.served is None
    assert site.settle() == [LoadAsked(1, key)]
    assert site.served.models == {"flowers": NEW, "food": FOOD}
    assert site.outcomes[0].changed == ("flowers",)
    assert site.ordered[1:] == []  # requests may still run on the old one
    assert site.settle() == [UnloadAsked(2, "flowers")]
    assert site.ordered[1:] == [link.Forget(("flowers",))]
    assert site.told[-1] == {key, "food"}
    assert site.kept == {step.block for model in (NEW, FOOD) for step in model.steps}


def test_a_version_that_a_request_waits_for_is_not_forgotten_though_the_device_has_let_it_go():
    site = Site(OLD, FOOD)
    site.reload(NEW, FOOD)
    site.administration.defined(0.0)
    site.settle()
    site.in_use = {"flowers"}
    site.settle()
    site.administration.on_sweep(1.0)
    assert site.ordered[1:] == []
    site.in_use = set()
    site.administration.on_sweep(2.0)
    assert site.ordered[1:] == [link.Forget(("flowers",))]


def test_models_come_and_go_with_the_store():
    site = Site(OLD, FOOD)
    site.reload(OLD, BIRDS)
    site.administration.defined(0.0)
    site.settle()
    (change,) = site.outcomes
    assert (change.added, change.changed, change.removed) == (("birds",), (), ("food",))
    assert set(site.served.tasks) == {"flowers", "birds"}
    assert [type(event) for event in site.settle()] == [UnloadAsked]
    with pytest.raises(NotFound, match="birds, flowers"):
        site.administration.load("food", site.done, 0.0)


def test_a_removed_model_needs_no_worker_to_go():
    site = Site(OLD, FOOD)
    site.reload(OLD)
    assert site.ordered == []
    assert set(site.served.models) == {"flowers"}


def test_an_unchanged_store_changes_nothing():
    site = Site(OLD)
    site.reload()
    (change,) = site.outcomes
    assert (change.added, change.changed, change.removed) == ((), (), ())
    assert (site.ordered, site.asked) == ([], [])


def test_a_store_that_cannot_be_read_changes_nothing():
    site = Site(OLD)
    site.store = StoreError("block 1234 is missing")
    site.reload()
    assert site.outcomes == [site.store]
    assert site.kept == {step.block for step in OLD.steps}
    assert site.served is None
    site.store = Contents({}, {})
    site.reload()
    assert isinstance(site.outcomes[1], NotFound)


@pytest.mark.parametrize(
    "error",
    [PermissionError(13, "no"), RecursionError(), MemoryError(), KeyError("steps")],
    ids=repr,
)
def test_whatever_goes_wrong_with_the_store_changes_nothing(
    error: Exception, monkeypatch: pytest.MonkeyPatch
):
    site = Site(OLD)

    def read() -> Contents:
        raise error

    monkeypatch.setattr(site, "read", read)
    site.reload()
    (outcome,) = site.outcomes
    assert isinstance(outcome, EdgedError)
    assert site.served is None
    monkeypatch.undo()
    site.reload(OLD, FOOD)
    site.administration.defined(0.0)
    site.settle()
    assert set(site.served.models) == {"flowers", "food"}


def test_a_model_that_becomes_unusable_fails_the_reload_and_one_that_was_does_not():
    site = Site(OLD, FOOD)
    site.store = Contents(
        contents(FOOD).models, contents(FOOD).block_bytes, {"flowers": Unusable("it is damaged")}
    )
    site.reload()
    assert "'flowers' cannot be served: it is damaged" in str(site.outcomes.pop())
    assert site.served is None
    site.administration.versions.unusable["flowers"] = Unusable("it was damaged")
    site.reload()
    assert site.outcomes.pop().removed == ("flowers",)


def test_a_reload_tries_again_what_could_not_be_loaded():
    site = Site(OLD, FOOD)
    site.failing = ["flowers"]
    site.reload()
    assert [(type(event), event.model) for event in site.asked] == [(LoadAsked, "flowers")]


def test_what_could_not_be_loaded_for_want_of_an_engine_is_loaded_when_it_is_built():
    site = Site(OLD, FOOD)
    site.failing = ["flowers"]
    site.administration.on_built({step.block for step in FOOD.steps} - {OLD.steps[0].block}, 0.0)
    assert site.asked == []
    site.administration.on_built({OLD.steps[-1].block}, 0.0)
    assert [(type(event), event.model) for event in site.asked] == [(LoadAsked, "flowers")]


def test_a_new_version_that_the_worker_cannot_prepare_is_not_served():
    site = Site(OLD, FOOD)
    site.reload(NEW, BIRDS)
    site.administration.define_failed(StoreError("block 1234 is damaged"), 0.0)
    assert str(site.outcomes[0]) == "block 1234 is damaged"
    assert (site.served, site.asked, site.told) == (None, [], [])
    assert site.kept == {step.block for model in (OLD, FOOD) for step in model.steps}


def test_a_new_version_that_cannot_be_loaded_leaves_and_the_old_one_stays():
    site = Site(OLD, FOOD)
    site.reload(NEW, BIRDS)
    site.administration.defined(0.0)
    loads = site.settle(Code.RESOURCE_EXHAUSTED)
    assert len(loads) == 2
    (error,) = site.outcomes
    assert isinstance(error, ResourceExhausted)
    assert site.served is None
    leaving = site.settle()
    assert {event.model for event in leaving} == {event.model for event in loads}
    assert {type(event) for event in leaving} == {UnloadAsked}
    assert site.told[-1] == {"flowers", "food"}
    assert site.kept == {step.block for model in (OLD, FOOD) for step in model.steps}
    site.reload(NEW, FOOD)
    site.administration.defined(0.0)
    site.settle()
    assert site.served.models["flowers"] == NEW


def test_a_new_version_is_what_the_old_one_was():
    site = Site(OLD, FOOD, pinned=("food",))
    site.administration.unload("flowers", site.done, 0.0)
    site.settle()
    site.reload(NEW, manifest("food", backbone=OTHER_BACKBONE))
    site.administration.defined(0.0)
    unload, pin = site.asked
    assert unload == UnloadAsked(2, unload.model)
    assert pin == PinAsked(3, pin.model, True)
    site.settle()
    assert (site.administration.unloaded, site.administration.pinned) == ({"flowers"}, {"food"})


def test_what_is_asked_of_one_model_goes_to_its_version_and_is_answered_when_settled():
    site = Site(OLD)
    site.reload(NEW)
    site.administration.defined(0.0)
    site.settle()
    site.settle()
    for act in ("load", "pin", "unpin", "unload"):
        getattr(site.administration, act)("flowers", site.done, 0.0)
        ((event,), site.outcomes) = (site.asked, [])
        assert event.model == site.key("flowers") != "flowers"
        site.settle()
        assert site.outcomes == [None]


def test_a_pin_that_fails_pins_nothing():
    site = Site(OLD)
    site.administration.pin("flowers", site.done, 0.0)
    site.settle(Code.RESOURCE_EXHAUSTED)
    assert isinstance(site.outcomes[0], ResourceExhausted)
    assert site.administration.pinned == set()
    assert [(event.model, event.pinned) for event in site.settle()] == [("flowers", False)]


def test_reloads_wait_for_each_other_and_for_the_device():
    site = Site(OLD)
    site.device_is_up = False
    site.reload(NEW)
    assert site.ordered == []
    site.device_is_up = True
    site.administration.try_reload(0.0)
    site.reload(NEW, FOOD)
    assert len(site.ordered) == 1
    site.administration.defined(0.0)
    site.settle()
    assert [type(message) for message in site.ordered] == [link.Define, link.Define]
    site.administration.defined(0.0)
    site.settle()
    assert [change.added for change in site.outcomes] == [(), ("food",)]


def test_a_worker_that_dies_while_it_prepares_fails_the_reload():
    site = Site(OLD)
    site.reload(NEW)
    site.administration.on_worker_lost("out of memory", 0.0)
    assert isinstance(site.outcomes[0], Unavailable)
    assert set(site.administration.versions.models) == {"flowers"}
    site.administration.defined(0.0)  # nobody waits for it
    assert site.told == []


def test_a_worker_that_dies_later_is_started_with_both_versions():
    site = Site(OLD)
    site.reload(NEW)
    site.administration.defined(0.0)
    site.administration.on_worker_lost("out of memory", 0.0)
    assert list(site.administration.versions.models.values()) == [OLD, NEW]
    site.settle()
    assert isinstance(site.outcomes[0], Change)


def test_a_daemon_that_shuts_down_answers_every_reload():
    site = Site(OLD)
    site.reload(NEW)
    site.reload()
    site.administration.on_drain(0.0)
    assert [type(outcome) for outcome in site.outcomes] == [Unavailable, Unavailable]


def test_what_changes_during_a_reload_holds_for_the_new_version_too():
    site = Site(OLD, FOOD)
    site.reload(NEW, FOOD)
    site.administration.defined(0.0)
    site.administration.unload("flowers", site.done, 0.0)
    (load, _) = site.settle()
    key = site.key("flowers")
    assert load == LoadAsked(1, key)
    assert {(type(event), event.model) for event in site.asked} == {
        (UnloadAsked, key),
        (UnloadAsked, "flowers"),
    }


def test_blocks_on_their_way_in_are_held_while_old_ones_leave():
    site = Site(OLD, FOOD)
    site.reload(NEW, FOOD)
    site.administration.defined(0.0)
    site.settle()
    site.reload(NEW, FOOD, BIRDS)
    assert [type(event) for event in site.settle()] == [UnloadAsked]
    models = (NEW, FOOD, BIRDS)
    assert site.kept == {step.block for model in models for step in model.steps}


# --- what outlives a restart --------------------------------------------------------------------


def said(*, pinned: tuple[str, ...] = (), unloaded: tuple[str, ...] = ()) -> Said:
    return Said(frozenset(pinned), frozenset(unloaded))


def test_what_is_said_is_written_down_when_it_holds_and_taken_back_likewise():
    site = Site(OLD, FOOD)
    act = site.administration
    act.pin("flowers", site.done, 0.0)
    assert site.notebook.said == said()
    site.settle()
    assert site.notebook.said == said(pinned=("flowers",))
    act.unload("food", site.done, 0.0)
    assert site.notebook.said == said(pinned=("flowers",), unloaded=("food",))
    act.load("food", site.done, 0.0)
    act.unpin("flowers", site.done, 0.0)
    assert site.notebook.said == said()
    act.pin("food", site.done, 0.0)
    site.settle()
    act.unload("food", site.done, 0.0)
    assert site.notebook.said == said(unloaded=("food",))
    act.pin("food", site.done, 0.0)
    site.settle()
    assert site.notebook.said == said(pinned=("food",))


def test_what_changes_nothing_is_not_written_again():
    site = Site(OLD)
    for act in ("load", "unpin", "unload", "unload"):
        getattr(site.administration, act)("flowers", site.done, 0.0)
    assert site.notebook.written == 1


def test_a_start_asks_again_for_what_was_said():
    site = Site(OLD, FOOD, BIRDS, said=said(pinned=("flowers",), unloaded=("food",)))
    site.administration.recall(0.0)
    assert site.settle() == [UnloadAsked(1, "food"), PinAsked(2, "flowers", True)]
    assert site.administration.pinned == {"flowers"}
    assert site.administration.unloaded == {"food"}
    assert site.notebook.written == 0


def test_the_pins_of_the_configuration_are_not_written_down():
    site = Site(OLD, FOOD, pinned=("flowers",))
    site.administration.recall(0.0)
    assert site.asked == []  # the scheduler has them from the configuration
    site.administration.unload("food", site.done, 0.0)
    assert site.notebook.said == said(unloaded=("food",))
    site.administration.unpin("flowers", site.done, 0.0)
    again = Site(OLD, FOOD, pinned=("flowers",), said=site.notebook.said)
    assert again.administration.pinned == {"flowers"}


def test_a_model_that_was_unloaded_stays_so_though_the_configuration_pins_it():
    site = Site(OLD, pinned=("flowers",), said=said(unloaded=("flowers",)))
    site.administration.recall(0.0)
    assert site.asked == [UnloadAsked(1, "flowers")]
    assert site.administration.pinned == set()


def test_a_pin_that_is_not_possible_any_more_is_logged_and_tried_at_the_next_start(caplog):
    site = Site(OLD, said=said(pinned=("flowers",)))
    site.administration.recall(0.0)
    site.settle(Code.RESOURCE_EXHAUSTED)
    assert site.asked == [PinAsked(2, "flowers", False)]
    assert site.administration.pinned == set()
    assert site.notebook.said == said(pinned=("flowers",))
    (record,) = caplog.records
    assert (record.levelname, record.model) == ("WARNING", "flowers")
    assert "flowers is not pinned, though an administrator pinned it: so" in record.message


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.INTERNAL])
def test_a_recalled_pin_outlasts_a_load_that_fails(code, caplog):
    site = Site(OLD, said=said(pinned=("flowers",)))
    site.administration.recall(0.0)
    site.settle(code)
    assert site.asked == []
    assert site.administration.pinned == {"flowers"}
    (record,) = caplog.records
    assert "flowers is not on the device yet, though an administrator pinned it" in record.message


def test_a_pin_that_is_taken_back_while_it_is_recalled_is_no_trouble(caplog):
    site = Site(OLD, said=said(pinned=("flowers",)))
    site.administration.recall(0.0)
    site.administration.unpin("flowers", site.done, 0.0)
    site.settle(Code.CANCELLED)
    assert (site.asked, caplog.records) == ([], [])
    assert site.notebook.said == said()


def test_what_was_said_of_a_model_that_cannot_be_served_now_waits_for_it():
    site = Site(OLD, said=said(unloaded=("food",)))
    site.administration.recall(0.0)
    assert site.asked == []
    site.reload(OLD, FOOD)
    site.administration.defined(0.0)
    assert site.asked == [UnloadAsked(1, site.ordered[0].models[0][0])]


def test_what_was_said_of_a_model_that_leaves_the_store_is_forgotten():
    site = Site(OLD, FOOD, said=said(pinned=("flowers",), unloaded=("food",)))
    site.reload(OLD)
    assert site.notebook.said == said(pinned=("flowers",))
