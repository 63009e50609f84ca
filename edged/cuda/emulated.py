"""A CUDA device without a GPU: what the calls do, in which order, and what they would take.

Nothing that a stream is given happens before somebody waits for it, and then only what that event
needs: whoever reads an answer too early reads poison, and whoever gives up bytes too early spoils
a copy, on every machine and at every run. `order.py` refuses work that nothing orders. Times are
modelled: a call is free, copies and kernels take what the personality and the caller say, and
`host_s` is the clock of one thread of the host. All figures of it are emulated.

Device addresses cannot be read by the host, as on a board. Whoever emulates a kernel passes it to
`run`, with the bytes that it reads and writes, and reaches these through `bytes_at`.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import numpy as np

from edged.backends.memory import Array
from edged.cuda.api import (
    OUT_OF_MEMORY,
    STICKY,
    Address,
    DeviceFacts,
    Event,
    Graph,
    Stream,
    failure,
)
from edged.cuda.order import HOST, Clock, Hazard, Order, Span
from edged.cuda.personality import DISCRETE, Faults, Personality

POISON = 0xFF  # four of them are no number in float32, and so is any other float
ALIGNMENT = 512  # bytes, as cudaMalloc aligns
_PAGE = 4096
_DEVICE = 1 << 56  # where device memory begins; no host address is so large
_CAPTURE_UNSUPPORTED = 900  # cudaErrorStreamCaptureUnsupported
_INVALID = 1  # cudaErrorInvalidValue
_Work: TypeAlias = Callable[[], None]


@dataclass(slots=True, eq=False)
class _Mark:
    """A place in a stream that an event has recorded."""

    stream: _Stream
    clock: Clock
    time_s: float
    is_reached: bool = False


@dataclass(slots=True, eq=False)
class _Stream:
    actor: int
    todo: deque[_Work] = field(default_factory=deque)
    free_s: float = 0.0
    busy_s: float = 0.0
    capture: list[_Task] | None = None  # what is recorded, while it is


@dataclass(frozen=True, slots=True)
class _Task:
    what: str
    work: _Work
    reads: Sequence[Span]
    writes: Sequence[Span]
    duration_s: float


class EmulatedCuda:
    """Implements `edged.cuda.api.Cuda`. Any thread may call it."""

    emulated = True

    def __init__(
        self,
        personality: Personality = DISCRETE,
        *,
        faults: Faults | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        """`memory_bytes`: of device memory in all; None as the personality says."""
        self.host_s = 0.0  # modelled time of the host
        self.calls = 0
        self.used_bytes = personality.context_bytes
        self.host_used_bytes = 0  # of page-locked memory
        self.order = Order()
        self._personality = personality
        self.faults = faults or Faults()
        self._total_bytes = memory_bytes or personality.facts.total_bytes
        self._kernels = 0
        self._lost: int | None = None
        self._lock = threading.RLock()  # what is asked for
        self._doing = threading.RLock()  # what is done
        self._handles = itertools.count(0x1000)
        self._next_address = _DEVICE
        self._arrays: dict[int, Array] = {}  # all memory, by its address
        self._streams: dict[int, _Stream] = {}
        self._events: dict[int, _Mark | None] = {}
        self._graphs: dict[int, list[_Task]] = {}

    # --- the device -----------------------------------------------------------------------------

    def use(self) -> None:
        self._call("cudaSetDevice")

    def facts(self) -> DeviceFacts:
        return self._personality.facts

    def free_bytes(self) -> int:
        self._call("cudaMemGetInfo")
        return self._total_bytes - self.used_bytes

    # --- memory ---------------------------------------------------------------------------------

    def allocate(self, size: int) -> Address:
        with self._lock:
            self._call("cudaMalloc")
            taken = -(-size // ALIGNMENT) * ALIGNMENT
            if self.used_bytes + taken > self._total_bytes:
                raise failure("cudaMalloc", OUT_OF_MEMORY, f"{size} bytes: out of memory")
            self.used_bytes += taken
            address = self._next_address
            self._next_address += taken + ALIGNMENT  # what runs over an end meets nothing
            self._add(address, np.full(size, POISON, np.uint8), "device")
            return address

    def free(self, address: Address) -> None:
        """Does not wait for work that uses it, as the real one does, but refuses such a call."""
        with self._lock:
            self._call("cudaFree")
            if address < _DEVICE:
                raise failure("cudaFree", _INVALID, "invalid argument")
            size = self._remove(address)
            self.used_bytes -= -(-size // ALIGNMENT) * ALIGNMENT

    def allocate_host(self, size: int) -> Address:
        with self._lock:
            self._call("cudaHostAlloc")
            raw = np.full(size + _PAGE, POISON, np.uint8)
            start = -raw.ctypes.data % _PAGE
            array = raw[start : start + size]
            self.host_used_bytes += size
            self._add(array.ctypes.data, array, "host")
            return int(array.ctypes.data)

    def free_host(self, address: Address) -> None:
        with self._lock:
            self._call("cudaFreeHost")
            self.host_used_bytes -= self._remove(address)

    def copy(self, target: Address, source: Address, size: int, stream: Stream) -> None:
        personality = self._personality
        duration_s = personality.copy_s + size / personality.copy_bytes_per_s
        work = partial(self._copy, target, source, size)
        spans = Span(source, size), Span(target, size)
        with self._lock:
            self._call("cudaMemcpyAsync")
            self._give(stream, _Task("a copy", work, spans[:1], spans[1:], duration_s))

    # --- streams and events ---------------------------------------------------------------------

    def make_stream(self, *, urgent: bool = False) -> Stream:
        with self._lock:
            self._call("cudaStreamCreateWithPriority")
            handle = next(self._handles)
            self._streams[handle] = _Stream(handle)
            return Stream(handle)

    def destroy_stream(self, stream: Stream) -> None:
        self._call("cudaStreamDestroy")
        self._do(self._streams.pop(stream))

    def synchronize(self, stream: Stream) -> None:
        self._call("cudaStreamSynchronize")
        found = self._streams[stream]
        self._do(found)
        with self._lock:
            self.order.wait(HOST, self.order.snapshot(found.actor))
            self.host_s = max(self.host_s, found.free_s)

    def make_event(self, *, timed: bool = False) -> Event:
        with self._lock:
            self._call("cudaEventCreateWithFlags")
            handle = next(self._handles)
            self._events[handle] = None
            return Event(handle)

    def destroy_event(self, event: Event) -> None:
        self._call("cudaEventDestroy")
        del self._events[event]

    def record(self, event: Event, stream: Stream) -> None:
        with self._lock:
            self._call("cudaEventRecord")
            found = self._running(stream)
            self.order.give(found.actor)
            mark = _Mark(found, self.order.snapshot(found.actor), max(found.free_s, self.host_s))
            found.todo.append(partial(_reached, mark))
            self._events[event] = mark

    def wait(self, stream: Stream, event: Event) -> None:
        with self._lock:
            self._call("cudaStreamWaitEvent")
            found, mark = self._running(stream), self._events[event]
            if mark is not None:
                self.order.wait(found.actor, mark.clock)
                found.free_s = max(found.free_s, mark.time_s)
                found.todo.append(partial(self._reach, mark))

    def is_done(self, event: Event) -> bool:
        """Does what the event needs if nobody waits meanwhile, so that who asks again is served."""
        self._call("cudaEventQuery")
        mark = self._events[event]
        if mark is None or mark.is_reached:
            return True
        if self._doing.acquire(blocking=False):
            try:
                self._reach(mark)
            finally:
                self._doing.release()
        return False

    def wait_for(self, event: Event) -> None:
        self._call("cudaEventSynchronize")
        mark = self._events[event]
        if mark is None:
            return
        with self._doing:
            self._reach(mark)
        with self._lock:
            self.order.wait(HOST, mark.clock)
            self.host_s = max(self.host_s, mark.time_s)

    def elapsed_s(self, first: Event, last: Event) -> float:
        self._call("cudaEventElapsedTime")
        begin, end = self._events[first], self._events[last]
        if begin is None or end is None:
            raise failure("cudaEventElapsedTime", _INVALID, "an event was not recorded")
        return end.time_s - begin.time_s

    # --- graphs ---------------------------------------------------------------------------------

    def begin_capture(self, stream: Stream) -> None:
        with self._lock:
            self._call("cudaStreamBeginCapture")
            self._streams[stream].capture = []

    def end_capture(self, stream: Stream) -> Graph:
        with self._lock:
            self._call("cudaStreamEndCapture")
            found = self._streams[stream]
            tasks, found.capture = found.capture, None
            if tasks is None:
                raise failure("cudaStreamEndCapture", _INVALID, "nothing is captured")
            handle = next(self._handles)
            self._graphs[handle] = tasks
            return Graph(handle)

    def launch(self, graph: Graph, stream: Stream) -> None:
        with self._lock:
            self._call("cudaGraphLaunch")
            for task in self._graphs[graph]:
                self._give(stream, task)

    def destroy_graph(self, graph: Graph) -> None:
        self._call("cudaGraphExecDestroy")
        del self._graphs[graph]

    # --- what a real device has elsewhere ---------------------------------------------------------

    def run(
        self,
        stream: Stream,
        what: str,
        work: _Work,
        reads: Sequence[Span],
        writes: Sequence[Span],
        duration_s: float = 0.0,
    ) -> None:
        """A kernel: `work` is done when its turn comes, by the thread that waits for it."""
        with self._lock:
            self._call(what)
            self._kernels += 1
            if self._kernels == self.faults.hang_at:
                work = _never_end
            self._give(stream, _Task(what, work, reads, writes, duration_s))

    def bytes_at(self, address: Address, size: int) -> Array:
        """Bytes of any memory, for the work of a kernel."""
        with self._lock:
            for start, array in self._arrays.items():
                if start <= address and address + size <= start + len(array):
                    return array[address - start : address - start + size]
        raise Hazard(f"{size} bytes at {address:#x} are not allocated")

    def on_host(
        self, what: str, reads: Sequence[Span] = (), writes: Sequence[Span] = (), took_s: float = 0
    ) -> None:
        """The host uses page-locked memory, which nothing else tells, and takes some time."""
        with self._lock:
            self.host_s += took_s
            self.order.use(HOST, what, reads, writes)

    def busy_s(self, stream: Stream) -> float:
        """Modelled seconds that a stream has worked."""
        return self._streams[stream].busy_s

    # --- how ------------------------------------------------------------------------------------

    def _call(self, name: str) -> None:
        with self._lock:
            self.calls += 1
            if self._lost is not None:
                raise failure(name, self._lost, "the context is corrupted")
            if self.calls == self.faults.fail_at:
                number = self.faults.number
                if number in STICKY:
                    self._lost = number
                raise failure(name, number, "was made to fail")

    def _add(self, address: int, array: Array, where: str) -> None:
        self._arrays[address] = array
        self.order.add(Span(address, len(array)), where)

    def _remove(self, address: int) -> int:
        if address in self._arrays:
            self.order.use(HOST, "a free", writes=[Span(address, len(self._arrays[address]))])
        self.order.remove(address)
        array = self._arrays.pop(address)
        array.fill(POISON)
        return len(array)

    def _copy(self, target: Address, source: Address, size: int) -> None:
        self.bytes_at(target, size)[:] = self.bytes_at(source, size)

    def _give(self, stream: Stream, task: _Task) -> None:
        """Next work of a stream, or of what is captured there."""
        found = self._streams[stream]
        if found.capture is not None:
            found.capture.append(task)
            return
        self.order.give(found.actor)
        self.order.use(found.actor, task.what, task.reads, task.writes)
        found.free_s = max(found.free_s, self.host_s) + task.duration_s
        found.busy_s += task.duration_s
        found.todo.append(task.work)

    def _running(self, stream: Stream) -> _Stream:
        """A stream that is not captured; events inside a capture are not emulated."""
        found = self._streams[stream]
        if found.capture is not None:
            raise failure("capture", _CAPTURE_UNSUPPORTED, "operation not permitted when capturing")
        return found

    def _reach(self, mark: _Mark) -> None:
        """Do what a mark needs and no more. The caller has the right to do."""
        while not mark.is_reached:
            mark.stream.todo.popleft()()

    def _do(self, stream: _Stream) -> None:
        with self._doing:
            while stream.todo:
                stream.todo.popleft()()


def _reached(mark: _Mark) -> None:
    mark.is_reached = True


def _never_end() -> None:
    threading.Event().wait()
