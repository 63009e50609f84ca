"""The device's memory as a value: what `edged status` and administrators are shown."""

from __future__ import annotations

import msgspec

from edged.core.residency.blocks import Where, own_bytes
from edged.core.residency.ledger import Account
from edged.core.residency.memory import DeviceMemory
from edged.errors import Code


class BlockState(msgspec.Struct, frozen=True):
    """One block that is on the device, or on its way there or back."""

    block: str
    bytes: int
    state: str  # loading, resident, leaving or unloading
    models: tuple[str, ...]  # that have it


class ModelState(msgspec.Struct, frozen=True):
    """One model of the library."""

    model: str
    bytes: int
    missing_bytes: int  # of its blocks that are not on the device
    load_s: float  # expected, for these
    served: bool  # False: unloaded by an administrator, or vanished and draining
    pinned: bool
    waiting: int  # requests for it alone
    error: str = ""  # of its last load, until it is tried again
    code: Code | None = None  # of that error
    excess_bytes: int = 0  # by which it does not fit what the budget leaves for blocks


class MemoryState(msgspec.Struct, frozen=True):
    """Every byte of the budget: the account, and what the blocks in it are."""

    account: Account
    batch_rows: int  # of the largest batch that there is room for
    blocks: tuple[BlockState, ...]
    models: tuple[ModelState, ...]
    loading: tuple[int, int] | None = None  # model that the start loads, and of how many


def report(memory: DeviceMemory) -> MemoryState:
    residency = memory.residency
    blocks = tuple(
        BlockState(
            block.id,
            block.bytes,
            block.where.name.lower(),
            tuple(need.models[0] for need in block.needs if need.is_model),
        )
        for block in residency.blocks
        if block.where is not Where.ABSENT
    )
    models = []
    for name, need in residency.models.items():
        missing = list(residency.missing(need))
        error = residency.last_error(need) if missing else None
        models.append(
            ModelState(
                name,
                residency.bytes(need),
                own_bytes(missing),
                residency.missing_s(need),
                served=name in memory.wanted.served,
                pinned=name in memory.wanted.pinned,
                waiting=need.waiting,
                error=error[1] if error else "",
                code=error[0] if error else None,
                excess_bytes=memory.excess_bytes(need),
            )
        )
    return MemoryState(
        memory.ledger.account(),
        memory.ledger.batch_rows,
        blocks,
        tuple(models),
        memory.wanted.progress(),
    )
