"""The ledger of a device with an arena: what a block takes there is what the room has less."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edged.backends.emulated_cuda import OnnxRuntimeOnCuda
from edged.budget import Machine
from edged.config import Config
from edged.core.residency.ledger import Ledger
from edged.cuda.arena import taken_bytes
from edged.daemon.gauge import Gauge
from edged.device.loader import Loader
from edged.link import messages as link
from edged.store import Store
from tests.backends.blocks import dense
from tests.cuda.batches import make_backend
from tests.device.rig import Model, make_store

MIB = 1 << 20
TOTAL, FRONT, WORKER = 4096 * MIB, 80 * MIB, 300 * MIB
MODELS = [Model(f"m{width}", dense(6, width, seed=width)) for width in (1, 40, 700, 2000, 9000)]


class Daemon:
    """The account of a front, and the loader of its worker on an emulated device."""

    def __init__(self, store: Store, backend: OnnxRuntimeOnCuda, folder: Path) -> None:
        self.store = store
        self._backend = backend
        self._folder = folder
        self.loader = Loader(store, backend)
        self.loader.define({model.manifest.name: model.manifest for model in MODELS})
        self.gauge = Gauge(Config(), Machine(folder / "proc", folder / "cgroup"))
        self.ledger = Ledger(1)
        self.measure()

    def load(self, block: str) -> int:
        """What it was told to take."""
        size = self.loader.load(block).bytes_used
        self.ledger.hold(block, size)
        return size

    def unload(self, block: str) -> None:
        self.loader.unload(block)
        self.ledger.release(block)

    def measure(self) -> None:
        """As every five seconds."""
        self._write()
        event = self.gauge.measured(
            link.WorkerMemory(1, WORKER, 0, 0, WORKER, self._backend.device_bytes())
        )
        assert event.used_bytes is not None
        self.ledger.budget_bytes = event.budget_bytes
        self.ledger.measured(event.used_bytes)

    def _write(self) -> None:
        """A board's GPU takes the machine's memory."""
        cuda = self._backend.cuda
        free = TOTAL - FRONT - WORKER - (cuda.used_bytes if cuda.facts().unified else 0)
        for name, text in {
            "proc/meminfo": f"MemTotal: {TOTAL >> 10} kB\nMemAvailable: {free >> 10} kB\n",
            "proc/self/cgroup": "",
            "proc/self/smaps_rollup": f"Pss: {FRONT >> 10} kB\nPss_Anon: {FRONT >> 10} kB\n",
        }.items():
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


@pytest.fixture(scope="module", params=["discrete", "unified"])
def daemon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Daemon:
    folder = tmp_path_factory.mktemp("ledger")
    backend = make_backend(folder / "cache", personality=request.param)
    return Daemon(make_store(folder / "store", MODELS), backend, folder)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, len(MODELS) - 1), max_size=12))
def test_loading_takes_exactly_its_bytes_of_the_room(daemon: Daemon, steps: list[int]) -> None:
    """Whether the ledger was told of them, or has measured them as well."""
    begin = daemon.ledger.room_bytes
    for step in [*steps, *(MODELS.index(m) for m in MODELS if m.blocks[0].id in loaded(steps))]:
        block, room = MODELS[step].blocks[0], daemon.ledger.room_bytes
        if block.id in daemon.loader.resident:
            size = -daemon.loader.resident[block.id].bytes_used
            daemon.unload(block.id)
        else:
            size = daemon.load(block.id)
            assert size == taken_bytes(daemon.store.block_size(block.id))
        assert daemon.ledger.room_bytes == room - size
        daemon.measure()
        assert daemon.ledger.room_bytes == room - size
        assert daemon.ledger.account().unexplained == 0
    assert daemon.ledger.room_bytes == begin


def loaded(steps: list[int]) -> set[str]:
    """Blocks that are there after these steps, each of which changes one."""
    return {MODELS[step].blocks[0].id for step in steps if steps.count(step) % 2}


def test_an_arena_on_a_board_is_missing_from_what_clients_may_send(daemon: Daemon) -> None:
    daemon.measure()
    account = daemon.gauge.host(daemon.ledger.account())
    taken = daemon._backend.cuda.used_bytes if daemon._backend.cuda.facts().unified else 0
    reserve = Config().memory.reserve_bytes
    assert account.budget == pytest.approx(TOTAL - taken - reserve, abs=2048)
