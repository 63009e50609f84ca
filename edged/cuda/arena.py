"""Device memory in one piece, from which parts are taken and given back; what is held never moves.

One allocation cannot fall apart over days as many can, costs no call of the driver for a part, and
keeps addresses that graphs have recorded. It counts exactly what its parts take. Knows no blocks.
"""

from __future__ import annotations

import threading

from edged.cuda.api import Address, Cuda
from edged.errors import ResourceExhausted

ALIGNMENT = 512  # bytes, as cudaMalloc aligns; TensorRT asks for 256


def taken_bytes(size: int) -> int:
    """What a part of so many bytes takes."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class Arena:
    """Any thread may call it. A part that is given back must not be in use on any stream."""

    def __init__(self, cuda: Cuda, size: int) -> None:
        """Takes `size` bytes of the device. Raises ResourceExhausted."""
        self._cuda = cuda
        self.size = taken_bytes(size)
        self.used_bytes = 0
        self.begin = cuda.allocate(self.size)
        self._free: dict[Address, int] = {self.begin: self.size}  # sizes of gaps, which never meet
        self._held: dict[Address, int] = {}
        self._lock = threading.Lock()

    def allocate(self, size: int) -> Address:
        """A part, aligned to 512: the smallest gap that holds it. Raises ResourceExhausted."""
        need = max(taken_bytes(size), ALIGNMENT)
        with self._lock:
            fitting = [(gap, at) for at, gap in self._free.items() if gap >= need]
            if not fitting:
                largest = max(self._free.values(), default=0)
                raise ResourceExhausted(
                    f"no {size} bytes of device memory in one piece: {self.used_bytes} of "
                    f"{self.size} are taken, and the largest gap has {largest}: serve fewer "
                    "models, or lower scheduler.max_batch_rows"
                )
            gap, at = min(fitting)
            del self._free[at]
            if gap > need:
                self._free[at + need] = gap - need
            self._held[at] = need
            self.used_bytes += need
            return at

    def free(self, address: Address) -> None:
        """Give a part back. Raises KeyError if it is not held."""
        with self._lock:
            size = self._held.pop(address)
            self.used_bytes -= size
            after = self._free.pop(address + size, 0)
            for at, gap in self._free.items():
                if at + gap == address:
                    self._free[at] = gap + size + after
                    return
            self._free[address] = size + after

    def close(self) -> None:
        """Give all memory back to the device."""
        self._cuda.free(self.begin)
