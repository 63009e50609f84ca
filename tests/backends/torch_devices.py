"""Devices of the torch backend without a GPU: one that fails when it is told, and a list of calls.

`ShakyDevice` computes on the CPU. `cuda` puts a list of calls in the place of torch.cuda: what
order `CudaDevice` gives things in is seen there, and not whether a GPU does them.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from edged.backends import torch_device
from edged.backends.torch_device import CudaDevice, Processor
from edged.budget import DeviceBytes


class CudaFailure(RuntimeError):
    """As torch.AcceleratorError: with the cudaError that torch was told."""

    def __init__(self, code: int | None) -> None:
        super().__init__("CUDA error: an illegal memory access was encountered\nCompile with ..")
        if code is not None:
            self.error_code = code


class ShakyDevice(Processor):
    """A CPU whose uses as a device are counted. The one called `fails_at` fails, and if the device
    `is_lost` then, all after it."""

    def __init__(self, fails_at: int = 0, *, code: int | None = 700, is_lost: bool = True) -> None:
        super().__init__(threads=1)
        self.uses = self.checks = self.given_back = 0
        self.held: DeviceBytes | None = None
        self._fails_at = fails_at
        self._code = code
        self._is_lost = is_lost
        self._lost = False

    def _use(self) -> None:
        self.uses += 1
        if self._lost or self.uses == self._fails_at:
            self._lost = self._is_lost
            raise CudaFailure(self._code)

    def on_stream(self) -> contextlib.AbstractContextManager[object]:
        self._use()
        return super().on_stream()

    def leaving(self) -> Callable[[], None] | None:
        return self._use

    def check(self) -> None:
        self.checks += 1
        if self._lost:
            raise CudaFailure(self._code)

    def upload(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        self._use()
        return super().upload(values)

    def give_back(self) -> None:
        self.given_back += 1

    def memory(self) -> DeviceBytes | None:
        self._use()
        return self.held


class _Stream:
    def __init__(self, calls: list[str], name: str) -> None:
        self._calls, self.name = calls, name

    def wait_event(self, event: _Event) -> None:
        self._calls.append(f"{self.name} waits for {event.name}")

    def synchronize(self) -> None:
        self._calls.append(f"host waits for {self.name}")


class _Event:
    """Named by the stream that it was recorded on last."""

    def __init__(self, calls: list[str], *, blocking: bool) -> None:
        self._calls, self.blocking, self.name = calls, blocking, "nothing"

    def record(self, stream: _Stream) -> None:
        self.name = f"end of {stream.name}"

    def synchronize(self) -> None:
        how = "asleep" if self.blocking else "spinning"
        self._calls.append(f"host waits {how} for {self.name}")


class _Graph:
    """A recording: the work is done while it is recorded, and counted when it is replayed."""

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls

    def capture_begin(self, *, pool: object, capture_error_mode: str) -> None:
        self._calls.append(f"record, {capture_error_mode}")

    def capture_end(self) -> None:
        self._calls.append("recorded")

    def replay(self) -> None:
        self._calls.append("replay")


@contextlib.contextmanager
def cuda(monkeypatch: pytest.MonkeyPatch, *, register: int = 0) -> Iterator[Any]:
    """A CudaDevice whose tensors are on the CPU, and the list of what it asked CUDA for.

    register  the cudaError of page-locking
    """
    calls: list[str] = []
    streams = iter(("blocks", "copies in", "copies out", "loads"))
    runtime = types.SimpleNamespace(
        cudaHostRegister=lambda address, size, flags: calls.append("lock") or register,
        cudaHostUnregister=lambda address: calls.append("unlock"),
    )
    in_order = lambda *_, **__: contextlib.nullcontext()  # noqa: E731
    for name, value in {
        "Stream": lambda *_, **__: _Stream(calls, next(streams)),
        "Event": lambda blocking=False: _Event(calls, blocking=blocking),
        "CUDAGraph": lambda: _Graph(calls),
        "cudart": lambda: runtime,
        "device": in_order,
        "empty_cache": lambda: calls.append("give back"),
        "get_device_name": lambda _: "a GPU",
        "get_device_properties": lambda _: types.SimpleNamespace(is_integrated=0),
        "graph_pool_handle": lambda: "pool",
        "mem_get_info": lambda _: (700 << 20, 1000 << 20),
        "memory_reserved": lambda _: 200,
        "stream": in_order,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch_device, "_locked", torch.empty_like)
    device = CudaDevice(0)
    device.torch = torch.device("cpu")
    yield types.SimpleNamespace(device=device, calls=calls)
