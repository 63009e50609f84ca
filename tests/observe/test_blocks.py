"""What is counted of blocks, over reloads."""

from __future__ import annotations

from edged.core.events import BlockCost, Library, Model
from edged.observe.blocks import BlockCounters
from tests.daemon.samples import manifest


def test_a_library_that_names_a_version_which_was_forgotten_meanwhile_ends_nobody():
    """Two versions may leave in one turn: the first library then still has the second."""
    models = {"flowers": manifest("flowers"), "food": manifest("food")}
    counters = BlockCounters(models)
    told = Library(tuple(Model(name, ("b",)) for name in models), (BlockCost("b", 10, 0.1),))
    counters.turn(0.0, told, [])
    del models["food"]
    counters.turn(1.0, told, [])
    assert counters.metrics.hits == {"flowers": 0}
