"""Manifests without files, and a front whose both ends are lists."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from edged import wire
from edged.config import Config
from edged.core.events import BatchDone, BlockLoaded, Load, Prepared, Run
from edged.daemon.front import Front
from edged.daemon.models.held_store import Contents
from edged.daemon.models.versions import Versions
from edged.link import messages as link
from edged.manifest import Accuracy, Manifest, PathStep, Preprocess, Value
from edged.observe.blocks import BlockCounters
from edged.observe.recording import Recorder
from edged.sharedmem.owner import SharedRegions

BACKBONE = "ab" * 32
OTHER_BACKBONE = "ef" * 32
CLIENT = b"client-1"


def manifest(
    name: str,
    *,
    task: str | None = None,
    backbone: str = BACKBONE,
    images: bool = True,
    accuracy: float | None = None,
    max_rows: int | None = None,
) -> Manifest:
    head = name.encode().hex().ljust(64, "0")[:64]
    return Manifest(
        schema=1,
        name=name,
        task=task or name,
        precision="fp32",
        inputs=("image",),
        outputs=("logits",),
        values=(
            Value("image", "FP32", (3, 8, 8)),
            Value("features", "FP32", (4,)),
            Value("logits", "FP32", (2,)),
        ),
        steps=(
            PathStep(backbone, ("image",), ("features",)),
            PathStep(head, ("features",), ("logits",)),
        ),
        whole_bytes=100,
        preprocess=Preprocess(8, 8) if images else None,
        max_rows=max_rows,
        labels=("no", "yes"),
        accuracy=None if accuracy is None else Accuracy("top1", accuracy, 0.5, 10),
    )


def catalog(*manifests: Manifest) -> Contents:
    """What a store of these models says."""
    models = manifests or (manifest("flowers"), manifest("food"))
    blocks = {step.block: 10 for model in models for step in model.steps}
    return Contents({model.name: model for model in models}, blocks)


def infer(
    id: str = "r1",
    *tasks: str,
    datatype: str = "BYTES",
    shape: tuple[int, ...] = (1,),
    parameters: wire.InferParameters | None = None,
    top_k: int | None = None,
) -> wire.Infer:
    return wire.Infer(
        id=id,
        inputs=(wire.InputTensor("image", datatype, shape),),  # type: ignore[arg-type]
        outputs=tuple(
            wire.RequestedOutput(task, wire.OutputParameters(classification=top_k))
            for task in tasks or ("flowers",)
        ),
        parameters=parameters or wire.InferParameters(),
    )


class Bench:
    """A front between two lists: what clients and worker got, and their messages by hand."""

    def __init__(
        self,
        config: Config | None = None,
        models: Contents | None = None,
        recorder: Recorder | None = None,
        regions: SharedRegions | None = None,
    ) -> None:
        self.sent: list[tuple[bytes, wire.ReplyMessage]] = []
        self.worker: list[link.ToWorker] = []
        self.payloads: list[Sequence[wire.Buffer]] = []
        self.soon: list[bool] = []
        self.rows: dict[int, int] = {}  # of each request that was to be prepared
        self.loads: list[Load] | None = None  # while the worker starts
        self.gone: set[bytes] = set()
        self.now = 0.0
        self.store = models or catalog()
        self.admin: list[wire.ReplyMessage] = []
        config, versions = config or Config(), Versions(self.store)
        self.front = Front(
            config,
            versions,
            self,
            self,
            regions=regions or SharedRegions(0o600),
            started_at=0.0,
            observers=[] if recorder is None else [recorder],
            blocks=None if config.metrics.bind is None else BlockCounters(versions.models),
        )

    def read(self) -> Contents:
        return self.store

    def keep(self, blocks: Collection[str]) -> None:
        pass

    def to_admin(self, routing_id: bytes, frames: wire.Frames) -> None:
        self.admin.append(wire.decode_reply(frames))

    def ask_admin(self, header: wire.RequestHeader) -> None:
        self.front.on_admin(b"admin", wire.encode_request(header), self.now)

    def to_client(self, routing_id: bytes, frames: wire.Frames) -> bool:
        if routing_id in self.gone:
            return False
        self.sent.append((routing_id, wire.decode_reply(frames)))
        return True

    def to_worker(self, frames: Sequence[wire.Buffer], *, soon: bool = True) -> None:
        order = link.decode_to_worker(bytes(frames[0]))
        if self.loads is not None and isinstance(order, Load):
            self.loads.append(order)
            return
        self.soon.append(soon)
        self.worker.append(order)
        if isinstance(order, link.PayloadHeader):
            self.rows[order.rid] = order.rows
        self.payloads.append(frames[1:])

    def worker_is_ready(self, *, lanes_prepare: bool = False, device: str = "nothing") -> None:
        """A worker that has measured all models before, and has loaded them."""
        blocks = tuple(
            link.BlockInfo(id, size, 1000) for id, size in self.store.block_bytes.items()
        )
        ready = link.Ready("fake", device, 1, False, tuple(self.store.models), blocks, (), {}, 0, 0)
        models = tuple(self.store.models)
        ready = msgspec.structs.replace(ready, lanes_prepare=lanes_prepare, measured=models)
        self.loads = []
        self.front.on_worker(ready, (), self.now)
        for load in self.loads:  # it grows meanwhile
            size = self.store.block_bytes[load.block]
            self.front.on_worker(BlockLoaded(load.block, size, 1e-3), (), self.now)
        self.loads = None

    def ask(
        self,
        header: wire.RequestHeader,
        payload: Sequence[bytes] = (b"jpeg",),
        client: bytes = CLIENT,
    ) -> None:
        frames = wire.encode_request(header, payload if isinstance(header, wire.Infer) else ())
        self.front.on_request(client, frames, self.now)

    def reply(self) -> wire.ReplyMessage:
        """The one reply since the last call."""
        ((_, reply),) = self.sent
        self.sent.clear()
        return reply

    def finish(self) -> None:
        """Play a worker until it has nothing to do: each output tensor is the model's name."""
        while self.worker:
            orders, self.worker = self.worker, []
            for order in orders:
                if isinstance(order, link.PayloadHeader) and not order.inline:
                    self.front.on_worker(Prepared(order.rid, 1e-3), (), self.now)
                elif isinstance(order, Run):
                    self.front.on_worker(*batch_done(order, self.rows), self.now)


def batch_done(
    run: Run, rows: Mapping[int, int] | None = None
) -> tuple[link.BatchOutputs, list[bytes]]:
    """`rows` of each request, where it is not one."""
    answers, tensors = [], []
    for member in run.members:
        for model in member.models:
            count = (rows or {}).get(member.rid, 1)
            raw = model.encode().ljust(8)[:8] * count
            output = link.ModelOutput("logits", "UINT8", (count, 8))
            answers.append(link.ModelAnswer(member.rid, model, (output,)))
            tensors.append(raw)
    return link.BatchOutputs(BatchDone(run.batch, 2e-3, 1e-4), tuple(answers)), tensors
