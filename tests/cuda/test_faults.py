"""A device whose n-th call fails, for all n: every request is answered once, and memory comes back.

What runs here is the worker's core, which is all that calls the device. Where the device is lost,
the worker's process ends: `tests/device/test_emulated_cuda.py` has whole workers.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from edged.backends.base import DeviceLost
from edged.backends.emulated_cuda import OnnxRuntimeOnCuda
from edged.cuda.personality import Faults
from edged.errors import EdgedError
from edged.store import Store
from tests.cuda.batches import MODELS, Core, make_backend
from tests.device.rig import make_store

OUT_OF_MEMORY, REFUSED, LOST = 2, 801, 719


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("faults") / "store", MODELS.values())


def load_all(core: Core) -> int:
    """Load what is not loaded, as a front does again later; the number of loads that failed."""
    failed = 0
    for block in core.loader.blocks:
        if block not in core.loader.resident:
            try:
                core.loader.load(block)
            except DeviceLost:
                raise
            except EdgedError:
                failed += 1
    return failed


def serve(core: Core, first: int) -> None:
    for batch in range(first, first + 4):
        core.ask(batch, ("a", 1 + batch % 3), ("b", 2))
    core.finish_all()


def life(core: Core, fail_at: int, number: int) -> None:
    """Load, serve, and unload what can be, with the fault in between."""
    core.cuda.faults = Faults(core.cuda.calls + fail_at, number)
    if load_all(core):
        load_all(core)
    serve(core, first=1)
    for block in list(core.loader.resident):
        core.loader.unload(block)


def calls_of_a_life(store: Store, folder: Path) -> int:
    backend = make_backend(folder)
    core = Core(store, backend)
    before = backend.cuda.calls
    life(core, 0, REFUSED)
    calls = backend.cuda.calls - before
    backend.close()
    return calls


@pytest.fixture(scope="module")
def calls(store: Store) -> range:
    return range(1, calls_of_a_life(store, store.path.parent / "cache") + 1)


@pytest.mark.parametrize("number", [OUT_OF_MEMORY, REFUSED])
def test_a_call_that_fails_costs_one_load_or_one_batch(
    store: Store, calls: range, number: int
) -> None:
    backend = make_backend(store.path.parent / "cache")
    for n in calls:
        core = Core(store, backend)
        before = backend.memory.arena.used_bytes
        life(core, n, number)
        failed = [rid for rid, found in core.answers.items() if isinstance(found[0], str)]
        assert all(len(found) == 1 for found in core.answers.values()), n
        assert len(core.answers) == 8, n
        assert len(failed) in (0, 2), n  # a batch has two requests
        assert core.wrong() == [], n
        assert all(not any(pool._taken) for pool in core.staging.pools.values()), n
        core.close()
        assert backend.memory.arena.used_bytes == before, n
    backend.close()


def test_a_lost_device_ends_the_worker_and_answers_nothing_twice(
    store: Store, calls: range
) -> None:
    lost = 0
    for n in calls:
        backend = make_backend(store.path.parent / "cache")
        core = Core(store, backend)
        with pytest.raises(DeviceLost, match="CUDA error 719"):
            life(core, n, LOST)
        assert all(len(found) == 1 for found in core.answers.values()), n
        assert not any(isinstance(found[0], str) for found in core.answers.values()), n
        assert core.wrong() == [], n
        with pytest.raises(DeviceLost):  # whatever is done next
            backend.cuda.make_event()
        lost += 1
    assert lost == len(calls)


@pytest.mark.parametrize("number", [OUT_OF_MEMORY, REFUSED, LOST])
def test_a_start_that_fails_says_so(store: Store, number: int) -> None:
    whole = make_backend(store.path.parent / "cache").cuda.calls
    for n in range(1, whole + 1):
        with pytest.raises(EdgedError, match=f"CUDA error {number}"):
            make_backend(store.path.parent / "cache", fail_at=n, fail_number=number)


def test_memory_that_runs_out_fails_a_load_and_what_is_loaded_goes_on(
    store: Store, tmp_path: Path
) -> None:
    backend: OnnxRuntimeOnCuda = make_backend(store.path.parent / "cache")
    core = Core(store, backend)
    held = backend.memory.allocate(backend.memory.arena.size - 512 * 3)
    assert load_all(core) >= 1
    backend.memory.free(held)
    assert load_all(core) == 0
    serve(core, first=1)
    assert core.wrong() == []
    backend.close()
