"""Gives a store the newest schema: large weights leave the blocks and become tensors.

What models compute stays the same to the bit, since the weights do. Their blocks have other ids
afterwards; the old block files stay until `gc`, for daemons that run them.
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from edged.manifest import Manifest
from edged.store import SCHEMA, Store


@dataclass(frozen=True, slots=True)
class Migrated:
    """What `migrate` did. `blocks` has the new id of each block that has another one now."""

    before: int  # schema
    after: int
    models: int
    blocks: dict[str, str]


def migrate(store: Store) -> Migrated:
    """Change all models of the store in one step; a store of the newest schema stays as it is.

    Waits while another process changes the store. Raises StoreError if anything that a model needs
    is missing or damaged; then the store is as it was.
    """
    with store.update(wait=True) as change:
        before = change.schema
        if before == SCHEMA:
            return Migrated(before, before, len(change.names()), {})
        models = store.models()
        change.raise_schema()
        used = dict.fromkeys(step.block for model in models.values() for step in model.steps)
        blocks = {block: change.add_block(store.block_bytes(block)) for block in used}
        for model in models.values():
            change.put_model(_with_blocks(model, blocks))
    renamed = {old: new for old, new in blocks.items() if old != new}
    return Migrated(before, SCHEMA, len(models), renamed)


def _with_blocks(model: Manifest, blocks: dict[str, str]) -> Manifest:
    steps = tuple(replace(step, block=blocks[step.block]) for step in model.steps)
    return replace(model, steps=steps)
