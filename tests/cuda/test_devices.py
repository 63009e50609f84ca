"""What every implementation of the CUDA interface must do.

The real one runs here as well, through ctypes, on a stand-in for its library.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edged.backends.base import DeviceLost
from edged.cuda.api import Cuda, CudaError, host_bytes
from edged.cuda.emulated import POISON, EmulatedCuda
from edged.cuda.order import Hazard, Span
from edged.cuda.personality import DISCRETE, UNIFIED, Faults
from edged.cuda.runtime import CudaRuntime
from edged.errors import ResourceExhausted, Unsupported
from tests.cuda.library import FakeLibrary

SMALL = 1 << 20


def emulated(**options: Any) -> EmulatedCuda:
    return EmulatedCuda(memory_bytes=DISCRETE.context_bytes + SMALL, **options)


def runtime() -> CudaRuntime:
    return CudaRuntime(library=FakeLibrary(emulated()))


@pytest.fixture
def device() -> EmulatedCuda:
    """What plays the device behind `cuda`."""
    return emulated()


@pytest.fixture(params=["emulated", "runtime"])
def cuda(request: pytest.FixtureRequest, device: EmulatedCuda) -> Cuda:
    return device if request.param == "emulated" else CudaRuntime(library=FakeLibrary(device))


def test_bytes_go_to_the_device_and_back(cuda: Cuda) -> None:
    stream = cuda.make_stream()
    source, target, there = cuda.allocate_host(64), cuda.allocate_host(64), cuda.allocate(64)
    assert there % 512 == 0
    host_bytes(source, 64)[:] = np.arange(64)
    cuda.copy(there, source, 64, stream)
    cuda.copy(target + 32, there + 8, 32, stream)
    cuda.synchronize(stream)
    np.testing.assert_array_equal(host_bytes(target, 64)[32:], np.arange(8, 40))
    assert (host_bytes(target, 64)[:32] == POISON).all()


def test_an_event_orders_streams_and_is_waited_for(cuda: Cuda) -> None:
    first, second, event, last = (
        cuda.make_stream(), cuda.make_stream(urgent=True), cuda.make_event(), cuda.make_event(),
    )  # fmt: skip
    source, there = cuda.allocate_host(8), cuda.allocate(8)
    back = cuda.allocate_host(8)
    host_bytes(source, 8)[:] = 7
    cuda.copy(there, source, 8, first)
    cuda.record(event, first)
    cuda.wait(second, event)
    cuda.copy(back, there, 8, second)
    cuda.record(last, second)
    assert (host_bytes(back, 8) == POISON).all()  # nobody has waited
    assert not cuda.is_done(last)
    cuda.wait_for(last)
    assert cuda.is_done(last)
    assert (host_bytes(back, 8) == 7).all()


def test_an_event_that_was_never_recorded_holds_nothing_up(cuda: Cuda) -> None:
    event = cuda.make_event()
    cuda.wait(cuda.make_stream(), event)
    cuda.wait_for(event)
    assert cuda.is_done(event)


def test_memory_comes_back(cuda: Cuda) -> None:
    before = cuda.free_bytes()
    address = cuda.allocate(1000)
    assert cuda.free_bytes() == before - 1024
    cuda.free(address)
    assert cuda.free_bytes() == before
    with pytest.raises(ResourceExhausted, match=r"cudaMalloc.*CUDA error 2"):
        cuda.allocate(SMALL + 1)
    assert cuda.free_bytes() == before
    cuda.free(cuda.allocate(SMALL))


def test_sizes_above_four_gigabytes_are_not_cut_short(cuda: Cuda) -> None:
    """Of 2^32 + 1 an int of C would keep 1, which there is room for."""
    with pytest.raises(ResourceExhausted):
        cuda.allocate(2**32 + 1)


def test_a_graph_does_again_what_was_recorded(cuda: Cuda) -> None:
    stream = cuda.make_stream()
    source, there, back = cuda.allocate_host(8), cuda.allocate(8), cuda.allocate_host(8)
    cuda.begin_capture(stream)
    cuda.copy(there, source, 8, stream)
    cuda.copy(back, there, 8, stream)
    graph = cuda.end_capture(stream)
    cuda.synchronize(stream)
    assert (host_bytes(back, 8) == POISON).all()  # recorded, not done
    for value in (1, 2):
        host_bytes(source, 8)[:] = value
        cuda.launch(graph, stream)
        cuda.synchronize(stream)
        assert (host_bytes(back, 8) == value).all()
    cuda.destroy_graph(graph)


def test_timed_events_tell_what_lies_between(cuda: Cuda) -> None:
    stream, first, last = (
        cuda.make_stream(),
        cuda.make_event(timed=True),
        cuda.make_event(timed=True),
    )
    there, source = cuda.allocate(SMALL // 2), cuda.allocate_host(SMALL // 2)
    cuda.record(first, stream)
    cuda.copy(there, source, SMALL // 2, stream)
    cuda.record(last, stream)
    cuda.wait_for(last)
    expected_s = DISCRETE.copy_s + SMALL // 2 / DISCRETE.copy_bytes_per_s
    assert cuda.elapsed_s(first, last) == pytest.approx(expected_s, rel=1e-6)


def test_a_device_says_what_it_is(cuda: Cuda) -> None:
    assert cuda.facts() == DISCRETE.facts


@pytest.mark.parametrize("number", [214, 700, 719, 999])
def test_a_lost_device_is_lost_for_good(cuda: Cuda, device: EmulatedCuda, number: int) -> None:
    address, stream = cuda.allocate(8), cuda.make_stream()
    device.faults = Faults(fail_at=device.calls + 1, number=number)
    with pytest.raises(DeviceLost, match=f"CUDA error {number}"):
        cuda.synchronize(stream)
    later: list[Callable[[], object]] = [
        lambda: cuda.synchronize(stream),
        lambda: cuda.free(address),
        lambda: cuda.make_event(),
    ]
    for call in later:
        with pytest.raises(DeviceLost):
            call()


@pytest.mark.parametrize("number", [1, 801, 906])
def test_a_refused_call_leaves_the_device_usable(
    cuda: Cuda, device: EmulatedCuda, number: int
) -> None:
    stream = cuda.make_stream()
    device.faults = Faults(fail_at=device.calls + 1, number=number)
    with pytest.raises(CudaError, match=f"CUDA error {number}") as caught:
        cuda.synchronize(stream)
    assert caught.value.number == number
    cuda.synchronize(stream)


# --- the emulated device alone --------------------------------------------------------------------


def test_work_that_nothing_orders_is_refused_when_it_is_given_out() -> None:
    cuda = emulated()
    one, other, source, there = (
        cuda.make_stream(), cuda.make_stream(), cuda.allocate_host(8), cuda.allocate(8),
    )  # fmt: skip
    cuda.copy(there, source, 8, one)
    with pytest.raises(Hazard, match=r"a copy reads device\[0:8\], which a copy may still write"):
        cuda.copy(source, there, 8, other)


def test_memory_that_was_not_locked_is_refused() -> None:
    cuda = emulated()
    pageable = np.zeros(8, np.uint8)
    with pytest.raises(Hazard, match="are not allocated"):
        cuda.copy(cuda.allocate(8), pageable.ctypes.data, 8, cuda.make_stream())


def test_a_kernel_reads_poison_where_nobody_wrote() -> None:
    cuda, found = emulated(), []
    stream, there = cuda.make_stream(), cuda.allocate(8)
    cuda.run(
        stream, "a kernel", lambda: found.append(cuda.bytes_at(there, 8).copy()),
        [Span(there, 8)], [],
    )  # fmt: skip
    assert found == []  # before anybody waits
    cuda.synchronize(stream)
    assert np.isnan(found[0].view(np.float32)).all()
    cuda.free(there)
    with pytest.raises(Hazard, match="are not allocated"):
        cuda.bytes_at(there, 8)


def test_a_kernel_that_never_ends_holds_up_who_waits_and_nobody_else() -> None:
    cuda = emulated(faults=Faults(hang_at=2))
    stream, event = cuda.make_stream(), cuda.make_event()
    for _ in range(2):
        cuda.run(stream, "a kernel", lambda: None, [], [])
    cuda.record(event, stream)
    ended = threading.Event()

    def wait() -> None:
        cuda.wait_for(event)
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    other = cuda.make_stream()  # goes on
    assert not cuda.is_done(event)
    assert cuda.make_event() > other
    assert not ended.is_set()


def test_streams_run_side_by_side_on_the_modelled_time_line() -> None:
    cuda = emulated()
    one, other, event = cuda.make_stream(), cuda.make_stream(), cuda.make_event()
    cuda.run(one, "a kernel", lambda: None, [], [], duration_s=3.0)
    cuda.run(other, "a kernel", lambda: None, [], [], duration_s=2.0)
    cuda.record(event, one)
    cuda.wait(other, event)
    cuda.run(other, "a kernel", lambda: None, [], [], duration_s=1.0)  # from 3.0
    assert cuda.host_s == 0.0
    cuda.synchronize(other)
    assert cuda.host_s == 4.0
    assert (cuda.busy_s(one), cuda.busy_s(other)) == (3.0, 3.0)


def test_a_board_shares_its_memory_and_a_card_does_not() -> None:
    assert (UNIFIED.facts.unified, DISCRETE.facts.unified) == (True, False)


# --- the real one alone ---------------------------------------------------------------------------


def test_a_wrong_argument_does_not_reach_the_library() -> None:
    cuda = runtime()
    with pytest.raises(ctypes.ArgumentError):
        cuda.copy(cuda.allocate(8), 0.5, 8, cuda.make_stream())  # type: ignore[arg-type]


def test_it_asks_for_what_serving_needs() -> None:
    library = FakeLibrary(emulated())
    cuda = CudaRuntime(library=library)
    stream, _ = cuda.make_stream(urgent=True), cuda.make_stream()
    assert library.priorities == [-5, 0]
    cuda.make_event(timed=True)
    cuda.make_event()
    assert library.event_flags == [1, 3]  # the thread that waits sleeps; without times
    cuda.begin_capture(stream)
    assert library.capture_modes == [1]  # other threads may use the device meanwhile


def test_each_thread_uses_the_device() -> None:
    """A thread that CUDA knows nothing of would use device 0."""
    library = FakeLibrary(emulated())
    cuda = CudaRuntime(library=library)
    cuda.make_event()
    before = library.cuda.calls
    cuda.make_event()
    assert library.cuda.calls == before + 1
    thread = threading.Thread(target=cuda.make_event)
    thread.start()
    thread.join()
    assert library.cuda.calls == before + 3


def test_an_old_library_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"CUDA 11\.4 is too old: .* JetPack 6"):
        CudaRuntime(library=FakeLibrary(emulated(), version=11040))


def test_a_library_that_lacks_a_call_is_refused() -> None:
    class Lacking(FakeLibrary):
        def __getattr__(self, name: str) -> object:
            if name == "cudaGraphLaunch":
                raise AttributeError(name)
            return super().__getattr__(name)

    with pytest.raises(Unsupported, match="has no cudaGraphLaunch"):
        CudaRuntime(library=Lacking(emulated()))
