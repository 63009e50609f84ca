"""The account of memory, on machines made of files: a CPU, a board with a GPU, a GPU of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from edged.budget import DeviceBytes, Machine
from edged.config import Config
from edged.core.residency.ledger import Ledger
from edged.daemon.gauge import Gauge
from edged.daemon.peers.room import BufferLimits
from edged.link import messages as link

MIB = 1 << 20
FRONT = 80 * MIB
WORKER = 300 * MIB  # before any block
RESERVE = 64 * MIB


class Board:
    """A machine with a worker that loads blocks into one kind of memory."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder = folder
        self._kind = kind
        self.available = 5000 * MIB
        self.loaded = 0
        self.config = Config()
        self.gauge = Gauge(self.config, Machine(folder / "proc", folder / "cgroup"))
        self.ledger = Ledger(8)
        self.ledger.overhead = self.gauge.overhead(self._ready())
        self.measure()

    def load(self, size: int) -> None:
        """A block of so many bytes."""
        self.loaded += size
        if self._kind != "discrete":
            self.available -= size
        self.ledger.hold(f"block {self.loaded}", size)

    def measure(self) -> None:
        """As every five seconds."""
        event = self.gauge.measured(self._memory())
        assert event.used_bytes is not None
        self.ledger.budget_bytes = event.budget_bytes
        self.ledger.measured(event.used_bytes)

    def _device(self) -> DeviceBytes | None:
        self._write()
        return {
            "cpu": None,
            "unified": DeviceBytes(self.loaded),
            "discrete": DeviceBytes(self.loaded, 8000 * MIB - self.loaded, 9000 * MIB),
        }[self._kind]

    def _private(self) -> int:
        return WORKER + (self.loaded if self._kind == "cpu" else 0)

    def _memory(self) -> link.WorkerMemory:
        return link.WorkerMemory(
            1,
            pss_bytes=self._private(),
            private_bytes=self._private(),
            staging_bytes=0,
            buffer_bytes=0,
            device_bytes=self._device(),
        )

    def _ready(self) -> link.Ready:
        return link.Ready(
            backend="fake",
            device="a device",
            lanes=1,
            emulated=True,
            models=(),
            blocks=(),
            warm_ups=(),
            versions={},
            staging_bytes=0,
            pss_bytes=WORKER,
            private_bytes=WORKER,
            fixed_bytes=0 if self._kind == "discrete" else WORKER,
            device_bytes=self._device(),
        )

    def _write(self) -> None:
        for name, text in {
            "proc/meminfo": f"MemTotal: {8000 << 10} kB\nMemAvailable: {self.available >> 10} kB\n",
            "proc/self/cgroup": "",
            "proc/self/smaps_rollup": f"Pss: {FRONT >> 10} kB\nPss_Anon: {FRONT >> 10} kB\n",
        }.items():
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


@pytest.mark.parametrize("kind", ["cpu", "unified", "discrete"])
def test_a_block_takes_its_bytes_of_the_room_once(kind: str, tmp_path: Path) -> None:
    """A GPU's memory is in no process's, and on a board it is missing from what is available."""
    board = Board(tmp_path, kind)
    before = board.ledger.room_bytes
    for size in (1200 * MIB, 1200 * MIB, 7):
        room = board.ledger.room_bytes
        board.load(size)
        assert board.ledger.room_bytes == room - size
        board.measure()
        assert board.ledger.room_bytes == pytest.approx(room - size, abs=2048)  # /proc has kB
    assert board.ledger.account().unexplained == 0
    assert board.ledger.room_bytes == pytest.approx(before - 2400 * MIB, abs=8192)


def test_the_budget_of_a_board_is_what_is_free_and_what_we_hold(tmp_path: Path) -> None:
    board = Board(tmp_path, "unified")
    board.load(2400 * MIB)
    board.measure()
    assert board.ledger.budget_bytes == 5000 * MIB + FRONT + WORKER - RESERVE


def test_what_others_take_of_a_gpu_is_missing_from_its_budget(tmp_path: Path) -> None:
    board = Board(tmp_path, "discrete")
    assert board.ledger.budget_bytes == 8000 * MIB  # 1000 of 9000 are others'
    board.load(100 * MIB)
    board.measure()
    assert board.ledger.budget_bytes == 8000 * MIB
    assert board.ledger.total_bytes == 100 * MIB


def test_what_clients_send_is_in_the_machines_memory(tmp_path: Path) -> None:
    """However much a GPU of its own has free."""
    board = Board(tmp_path, "discrete")
    board.available = 100 * MIB
    board.measure()
    account = board.gauge.host(board.ledger.account())
    assert account.budget == 100 * MIB + FRONT + WORKER - RESERVE
    assert account.total == FRONT + WORKER
    of_host, of_device = (
        BufferLimits.of(board.config, each) for each in (account, board.ledger.account())
    )
    assert of_host.payload_bytes < of_device.payload_bytes
    shared = Board(tmp_path, "unified")
    assert shared.gauge.host(shared.ledger.account()) == shared.ledger.account()
