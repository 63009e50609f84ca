"""Puts models into a store: plans the blocks of all models, old and new, and writes one change.

Blocks depend on which models share what, so a new model can split the blocks of models that are
already there. Their manifests change in the same change; what they compute stays the same, which is
checked. Block files that no model needs any more remain until `gc`: a daemon may be running them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edged.errors import InvalidArgument
from edged.manifest import Manifest
from edged.store import Store
from export.assemble import Assembly
from export.blocks import MIN_BYTES
from export.check import TOLERANCE, Difference, check_model, feeds, run_chain
from export.source import ModelDraft, Source, draft


@dataclass(frozen=True, slots=True)
class Added:
    """A model that is now in the store."""

    manifest: Manifest
    difference: Difference  # the blocks against the uncut model
    new_bytes: int  # bytes of blocks and tensors that no other model had
    coupled: str | None = None  # why it runs one row at a time; None if it runs several
    samples: int = 0  # number of real rows that it was also checked on


@dataclass(frozen=True, slots=True)
class Report:
    added: tuple[Added, ...]
    recut: tuple[str, ...]  # models that were in the store and now have other blocks


def add_models(
    store: Store,
    sources: Iterable[Source],
    *,
    min_bytes: int = MIN_BYTES,
    tolerance: float | None = None,
    replace: bool = False,
) -> Report:
    """Cut models into blocks, check them against the uncut models, and add them to the store.

    `tolerance` is relative to row and channel; by default it depends on the precision.
    Waits while another process changes the store. Raises InvalidArgument, NotFound, Unsupported,
    CheckFailed or StoreError; then the store is as it was.
    """
    drafts = [draft(source) for source in sources]
    return add_drafts(store, drafts, min_bytes=min_bytes, tolerance=tolerance, replace=replace)


def add_drafts(
    store: Store,
    drafts: Sequence[ModelDraft],
    *,
    min_bytes: int = MIN_BYTES,
    tolerance: float | None = None,
    replace: bool = False,
) -> Report:
    """Does the work of `add_models` for models that are read already."""
    names = [one.manifest.name for one in drafts]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidArgument(f"two models are called {doubled[0]!r}: name one as TASK:NAME=FILE")
    with store.update(wait=True) as change:
        there = [name for name in names if name in change.names()]
        if there and not replace:
            raise InvalidArgument(
                f"the store has a model {there[0]!r}: choose another name, or replace it "
                "(--replace)"
            )
        before = store.models(set(change.names()) - set(there))
        assembly = Assembly(store, before, drafts, min_bytes)
        added = [_checked(assembly, one, tolerance) for one in drafts]
        recut = [name for name, model in before.items() if assembly.manifests[name] != model]
        for name in recut:
            _check_recut(store, before[name], assembly)
        for data in assembly.new_blocks.values():
            change.add_block(data)
        for name in [*names, *recut]:
            change.put_model(assembly.manifests[name])
    return Report(tuple(added), tuple(recut))


def _checked(assembly: Assembly, one: ModelDraft, tolerance: float | None) -> Added:
    manifest = assembly.manifests[one.manifest.name]
    if tolerance is None:
        tolerance = TOLERANCE[manifest.precision]
    difference = check_model(manifest, assembly.block, one.expected, tolerance, one.sampled)
    rows = sum(len(next(iter(given.values()))) for given, _ in one.sampled)
    return Added(manifest, difference, assembly.new_bytes(manifest.name), one.coupled, rows)


def _check_recut(store: Store, before: Manifest, assembly: Assembly) -> None:
    """Check that a model computes with its new blocks what it computed before."""
    expected = run_chain(before, store.block_bytes, feeds(before))
    after = assembly.manifests[before.name]
    check_model(after, assembly.block, expected, TOLERANCE[before.precision])
