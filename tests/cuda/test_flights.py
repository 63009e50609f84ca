"""Batches in flight on three streams: answers, and the events that they cannot do without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from edged.backends.emulated_cuda import OnnxRuntimeOnCuda
from edged.cuda.emulated import EmulatedCuda
from edged.cuda.order import Hazard
from edged.cuda.personality import PERSONALITIES, UNIFIED
from edged.store import Store
from tests.cuda.batches import MODELS, Core, make_backend
from tests.device.rig import make_store

BATCHES = 5
EVENTS = 3  # of each batch: for its blocks, for its answers, and for the host that reads these


class LeavesOut:
    """The emulated device without one of the waits that it is asked for."""

    def __init__(self, cuda: EmulatedCuda, number: int) -> None:
        """`number`: from 0; none is left out if it is not reached."""
        self._cuda = cuda
        self._number = number
        self.waits = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cuda, name)

    def _leaves_out(self) -> bool:
        self.waits += 1
        return self.waits - 1 == self._number

    def wait(self, *args: Any) -> None:
        if not self._leaves_out():
            self._cuda.wait(*args)

    def wait_for(self, *args: Any) -> None:
        if not self._leaves_out():
            self._cuda.wait_for(*args)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("flights") / "store", MODELS.values())


@pytest.fixture
def backend(store: Store) -> Iterator[OnnxRuntimeOnCuda]:
    made = make_backend(store.path.parent / "cache")
    yield made
    made.close()


def serve(core: Core) -> None:
    for batch in range(1, BATCHES + 1):
        core.ask(batch, ("a", 1 + batch % 3), ("b", 2))
    core.finish_all()


def loaded(store: Store, backend: OnnxRuntimeOnCuda) -> Core:
    core = Core(store, backend)
    for block in core.loader.blocks:
        core.loader.load(block)
    return core


def test_every_request_of_batches_in_flight_gets_its_own_answer(
    store: Store, backend: OnnxRuntimeOnCuda
) -> None:
    core = loaded(store, backend)
    assert core.executor.depth == 2
    serve(core)
    assert [len(found) for found in core.answers.values()] == [1] * 2 * BATCHES
    assert core.wrong() == []


@pytest.mark.parametrize("number", range(EVENTS * BATCHES))
def test_no_wait_can_be_left_out(store: Store, backend: OnnxRuntimeOnCuda, number: int) -> None:
    """The checker finds it when the work is given out, or when the host reads."""
    core, lacking = loaded(store, backend), LeavesOut(backend.cuda, number)
    for flight in backend.memory.flights:
        flight.cuda = lacking
    with pytest.raises(Hazard, match="an event is missing between them"):
        serve(core)


def test_these_are_all_the_waits_that_there_are(store: Store, backend: OnnxRuntimeOnCuda) -> None:
    core = loaded(store, backend)
    counting = LeavesOut(backend.cuda, -1)
    for flight in backend.memory.flights:
        flight.cuda = counting
    serve(core)
    assert counting.waits == EVENTS * BATCHES
    assert core.wrong() == []


def test_nothing_is_allocated_once_all_sizes_were_seen(
    store: Store, backend: OnnxRuntimeOnCuda
) -> None:
    core = loaded(store, backend)
    serve(core)
    taken = backend.cuda.used_bytes, backend.cuda.host_used_bytes, backend.memory.device_bytes()
    for batch in range(6, 200):
        core.ask(batch, ("a", 1 + batch % 3), ("b", 2))
    core.finish_all()
    now = backend.cuda.used_bytes, backend.cuda.host_used_bytes, backend.memory.device_bytes()
    assert now == taken


def test_a_device_that_cannot_copy_beside_its_blocks_has_one_stream(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = replace(UNIFIED.facts, copy_engines=0)
    monkeypatch.setitem(PERSONALITIES, "unified", replace(UNIFIED, facts=facts))
    backend = make_backend(store.path.parent / "cache", personality="unified")
    assert backend.memory.copy_in == backend.memory.copy_out == backend.memory.compute
    core = loaded(store, backend)
    serve(core)
    assert [len(found) for found in core.answers.values()] == [1] * 2 * BATCHES
    assert core.wrong() == []
    backend.close()
