"""How busy a device is with one and with two batches in flight, on a modelled time line.

The daemon's own executor, memory and flights run on the emulated CUDA device. Copies and blocks
take modelled times and the host a fixed one for each batch, so that the figures are exact on every
machine and say nothing of any GPU. Each batch reads other staging rows, as it does in the daemon.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edged.backends.base import BlockUse, LoadedBlock, Progress, go_on
from edged.backends.memory import BackendMemory
from edged.budget import DeviceBytes
from edged.core.events import Member, Run
from edged.cuda.emulated import EmulatedCuda
from edged.cuda.memory import CudaArray, CudaMemory
from edged.cuda.order import Span
from edged.cuda.personality import DISCRETE
from edged.device.batches import Batches, Submitted
from edged.device.executor import Executor
from edged.device.staging import Staging
from edged.device.turns import TurnQueue
from edged.link import messages as link
from edged.manifest import SCHEMA, Manifest, PathStep, Value
from tools.bench.report import emit

ROWS = 16  # each batch has so many
ANSWER = 100  # floats of a row's answer
BLOCK = "b" * 64
MEMORY_BYTES = 32 << 20
LEAST_BUSY = 0.99


@dataclass(frozen=True)
class Load:
    """What a batch takes, in seconds."""

    copy_in_s: float
    blocks_s: float
    copy_out_s: float
    host_s: float  # read an order, bind, launch, make answers


LOADS = {
    "like an H200": Load(0.25e-3, 10e-3, 0.02e-3, 0.6e-3),
    "like an Orin": Load(0.35e-3, 8e-3, 0.05e-3, 1.2e-3),
    "light": Load(0.1e-3, 1e-3, 0.05e-3, 0.8e-3),
}
CASES = {  # batches in flight, and whether copies have streams of their own
    "depth_1": (1, True),
    "depth_2_one_stream": (2, False),
    "depth_2": (2, True),
}


def register(commands: Any) -> None:
    parser = commands.add_parser("pipeline", help="two batches in flight against one (emulated)")
    parser.add_argument("--batches", type=int, default=1000)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    found = {
        name: {case: round(busy(load, *how, args.batches), 4) for case, how in CASES.items()}
        for name, load in LOADS.items()
    }
    emit(
        "pipeline",
        "emulated",
        seed=0,
        batches=args.batches,
        times_ms={
            name: {part.removesuffix("_s"): 1e3 * s for part, s in asdict(load).items()}
            for name, load in LOADS.items()
        },
        busy=found,
        limit=LEAST_BUSY,
    )
    return 0 if all(of["depth_2"] >= LEAST_BUSY for of in found.values()) else 1


def busy(load: Load, depth: int, streams: bool, batches: int) -> float:
    """The part of the time in which the device runs blocks."""
    rig = _Rig(load, depth, streams)
    in_flight: deque[Submitted] = deque()
    for number in range(1, batches + 1):
        if len(in_flight) == depth:
            rig.finish(in_flight.popleft())
        rig.cuda.on_host("the host works for a batch", took_s=load.host_s)
        in_flight.append(rig.submit(number))
    for submitted in in_flight:
        rig.finish(submitted)
    assert rig.answered == list(range(1, batches + 1)), "a batch was not answered; this is a bug"
    return batches * load.blocks_s / rig.cuda.host_s


class _Rig:
    """An executor with one model of one block, and its requests in staging memory."""

    def __init__(self, load: Load, depth: int, streams: bool) -> None:
        width = round(ANSWER * load.copy_in_s / load.copy_out_s)
        facts = replace(DISCRETE.facts, copy_engines=2 if streams else 0)
        in_bytes = ROWS * width * 4
        personality = replace(
            DISCRETE, facts=facts, copy_s=0.0, copy_bytes_per_s=in_bytes / load.copy_in_s
        )
        self.cuda = EmulatedCuda(personality, memory_bytes=MEMORY_BYTES)
        backend = _Modelled(self.cuda, load.blocks_s, depth)
        manifests = {"m": _manifest(width)}
        self._executor = Executor(manifests, backend, {BLOCK: None})
        self._staging = Staging(manifests, ROWS * (depth + 1), backend.memory)
        self._batches = Batches(self._staging, TurnQueue(), self._report, report_block_runs=False)
        self.answered: list[int] = []

    def submit(self, number: int) -> Submitted:
        given = link.Input("x", "tensor", "FP32", ())
        header = link.PayloadHeader(number, ROWS, (given,), (link.Ask("m"),))
        self._staging.settle(self._staging.admit(header), prepared=True)
        order = Run(number, BLOCK, (Member(number, ("m",)),), ROWS, True)
        submitted = self._batches.submit(self._executor, order)
        assert submitted is not None, "a batch failed; this is a bug"
        return submitted

    def finish(self, submitted: Submitted) -> None:
        self._batches.finish(self._executor, submitted)

    def _report(self, message: link.FromWorker, payload: Sequence[memoryview]) -> None:
        assert isinstance(message, link.BatchOutputs), message
        self.answered += [answer.rid for answer in message.answers]


class _Modelled:
    """A backend whose blocks take a time on the emulated device, and compute nothing."""

    name = "modelled"
    device = "emulated"
    emulated = True
    lanes = 1
    prepare_row_s = 0.0
    prepares = False
    sizes: tuple[int, ...] = ()
    builds = False

    def __init__(self, cuda: EmulatedCuda, blocks_s: float, depth: int) -> None:
        self._memory = CudaMemory(cuda, MEMORY_BYTES // 2, depth=depth)
        self.memory: BackendMemory = self._memory
        self.versions: Mapping[str, str] = {}
        self._cuda = cuda
        self._blocks_s = blocks_s

    def is_prepared(self, block: str) -> bool:
        return False

    def prepare(self, block: str, path: Path, progress: Progress = go_on) -> None:
        pass

    def files(self, block: str, path: Path) -> Sequence[Path]:
        return ()

    def load(self, block: str, path: Path, uses: Sequence[BlockUse]) -> LoadedBlock:
        return LoadedBlock(0)

    def unload(self, block: str) -> None:
        pass

    def run(
        self,
        block: str,
        inputs: Sequence[CudaArray],
        outputs: Sequence[CudaArray],
        *,
        wide: bool = True,
    ) -> None:
        reads, writes = (
            [Span(array.address, array.nbytes) for array in arrays] for arrays in (inputs, outputs)
        )
        self._cuda.run(self._memory.compute, "blocks", lambda: None, reads, writes, self._blocks_s)

    def device_bytes(self) -> DeviceBytes:
        return self._memory.device_bytes()

    def close(self) -> None:
        self._memory.close()


def _manifest(width: int) -> Manifest:
    return Manifest(
        schema=SCHEMA,
        name="m",
        task="m",
        precision="fp32",
        inputs=("x",),
        outputs=("y",),
        values=(Value("x", "FP32", (width,)), Value("y", "FP32", (ANSWER,))),
        steps=(PathStep(BLOCK, ("x",), ("y",)),),
        whole_bytes=1,
    )
