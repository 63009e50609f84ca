"""Models are taken out of service and back into it by an administrator."""

from __future__ import annotations

from edged.core.events import (
    BlockCost,
    DeviceDown,
    DeviceUp,
    HeldBlock,
    Library,
    LoadAsked,
    Model,
    PinAsked,
    Prepare,
    Refuse,
    Settled,
    UnloadAsked,
)
from edged.errors import Code
from tests.core.helpers import Checked, arrived

LIBRARY = Library((Model("a", ("trunk", "a-head")),), (BlockCost("trunk", 10, 1.0),
                                                       BlockCost("a-head", 1, 0.1)))  # fmt: skip
ALL = DeviceUp(resident=(HeldBlock("trunk", 10), HeldBlock("a-head", 1)))


def test_what_is_on_the_device_is_served_as_if_there_were_no_library() -> None:
    tell = Checked()
    tell(LIBRARY)
    tell(ALL)
    assert tell(arrived(1, "a")) == [Prepare(1)]


def test_an_unknown_model_cannot_be_loaded_unloaded_or_pinned() -> None:
    tell = Checked()
    tell(LIBRARY)
    for ask in (LoadAsked(1, "b"), UnloadAsked(2, "b"), PinAsked(3, "b", True)):
        (settled,) = tell(ask)
        assert isinstance(settled, Settled)
        assert (settled.ask, settled.code) == (ask.ask, Code.NOT_FOUND)
        assert "'b'" in settled.message


def test_an_unloaded_model_is_refused_until_it_is_loaded_again() -> None:
    tell = Checked()
    tell(LIBRARY)
    tell(ALL)
    tell(UnloadAsked(1, "a"))
    (refusal,) = tell(arrived(1, "a"))
    assert isinstance(refusal, Refuse)
    assert refusal.code is Code.UNAVAILABLE
    assert "edged load a" in refusal.message


TWINS = Library(
    (Model("a", ("trunk", "a-head")), Model("a@2", ("trunk", "a-head"))),
    (BlockCost("trunk", 10, 1.0), BlockCost("a-head", 1, 0.1)),
)


def test_unloading_a_model_that_comes_back_with_a_new_library_is_over() -> None:
    tell = Checked()
    tell(TWINS)
    tell(ALL)
    tell(DeviceDown("for a test"))  # so that requests wait for their models
    tell(arrived(1, "a"))
    tell(UnloadAsked(1, "a"))
    tell(Library(TWINS.models[1:], TWINS.blocks))
    (settled,) = (command for command in tell(TWINS) if isinstance(command, Settled))
    assert (settled.ask, settled.code) == (1, Code.CANCELLED)
