"""A profile: the seconds and bytes that blocks take on one device, and the source of the figures.

`edged profile` measures one. The daemon's cost model reads the times, its loader the bytes and the
times to load, and the emulated backend all of it. Pure.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Collection, Iterable

import msgspec

from edged.core.costs import interpolate
from edged.core.events import GroupCost
from edged.errors import ConfigError
from edged.manifest import Manifest
from edged.profiles.microbatch import CALL_S, pieces, quickest
from edged.typeinfo import describe

SCHEMA = 1  # raised when an older edged could misread a newer profile


class BlockProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One block. Tuples have an entry for each of `rows`, which ascend. None: not measured."""

    rows: tuple[int, ...]  # numbers of rows of one run
    time_s: tuple[float, ...]  # median time of a run on one lane
    spread_s: tuple[float, ...] | None = None  # median absolute deviation of that time
    workspace_bytes: tuple[int, ...] | None = None  # memory of a run besides the weights
    weight_bytes: int | None = None  # memory that the loaded block takes
    load_cold_s: float | None = None  # time until it runs at full speed, with files on the disk
    load_warm_s: float | None = None  # the same with files in the page cache
    wide_s: float | None = None  # time of a run of rows[0] on all lanes together


class DeviceProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The profile of a device. A device that is only emulated may give blocks any names."""

    schema: int
    source: str  # who measured what, for people
    device: str  # the backend's name for it
    blocks: dict[str, BlockProfile]  # profiles by block id
    backend: str | None = None  # None for a device that is only emulated
    machine: str | None = None  # the processor or board
    lanes: int = 1  # lanes of the backend; times are for one of them
    versions: dict[str, str] = {}
    date: str | None = None
    prepare_s: float | None = None  # time to prepare one row of input in one thread


def decode(data: bytes) -> DeviceProfile:
    """A checked profile. Raises ConfigError that names the field."""
    try:
        probe = msgspec.json.decode(data, type=_Schema)
        if probe.schema > SCHEMA:
            raise ConfigError(
                f"schema {probe.schema}, this edged reads up to {SCHEMA}: upgrade edged, or "
                "measure again with `edged profile`"
            )
        profile = msgspec.json.decode(data, type=DeviceProfile)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{error}; measure again with `edged profile`") from error
    for name, block in profile.blocks.items():
        check_block(block, f"blocks.{name}")
    return profile


def encode(profile: DeviceProfile) -> bytes:
    return msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n"


def check_block(block: BlockProfile, where: str) -> None:
    """Raise ConfigError unless the figures are possible. `where` names the block in the message."""
    ascending = all(a < b for a, b in itertools.pairwise(block.rows))
    if not block.rows or block.rows[0] < 1 or not ascending:
        raise ConfigError(f"{where}.rows must ascend, from 1 at least")
    for name in ("time_s", "spread_s", "workspace_bytes"):
        values = getattr(block, name)
        if values is not None and len(values) != len(block.rows):
            raise ConfigError(f"{where}.{name} has {len(values)} entries for {len(block.rows)}")
    if not all(0.0 < time_s < float("inf") for time_s in block.time_s):
        raise ConfigError(f"{where}.time_s must be above 0")
    if block.wide_s is not None and not 0.0 < block.wide_s < float("inf"):
        raise ConfigError(f"{where}.wide_s must be above 0")
    known: tuple[float, ...] = tuple(
        value
        for value in (block.weight_bytes, block.load_cold_s, block.load_warm_s)
        if value is not None
    )
    if min((*known, *(block.spread_s or ()), *(block.workspace_bytes or ())), default=0) < 0:
        raise ConfigError(f"{where} has a figure below 0")


def check_fits(
    profile: DeviceProfile,
    blocks: Collection[str],
    *,
    backend: str,
    device: str,
    machine: str,
    lanes: int,
) -> None:
    """Raise ConfigError unless the profile is of these blocks on this device.

    Versions may differ: the cost model corrects what an upgrade changes.
    """
    ours = {"backend": backend, "device": device, "machine": machine, "lanes": lanes}
    for name, value in ours.items():
        theirs = getattr(profile, name)
        if theirs != value:
            raise ConfigError(
                f"the profile was measured with {name} {theirs or 'unknown'}, this is {value}: "
                "measure again with `edged profile`, or leave device.profile out"
            )
    if missing := sorted(set(blocks) - profile.blocks.keys()):
        raise ConfigError(
            f"the profile has no figures for {len(missing)} of {len(blocks)} blocks, as "
            f"{missing[0][:12]}: measure again with `edged profile`, or leave device.profile out"
        )


def group_costs(profile: DeviceProfile, manifests: Iterable[Manifest]) -> tuple[GroupCost, ...]:
    """The seconds of a batch through the slowest path of each group: costs must not be too low.

    All blocks of the manifests must be in the profile.
    """
    paths: dict[str, list[list[BlockProfile]]] = {}
    for manifest in manifests:
        path = [profile.blocks[step.block] for step in manifest.steps]
        paths.setdefault(manifest.steps[0].block, []).append(path)
    return tuple(_group_cost(group, of) for group, of in paths.items())


def microbatches(profile: DeviceProfile) -> dict[str, int]:
    """The blocks that are faster in micro-batches, and the rows of a micro-batch."""
    found = {name: quickest(block.rows, block.time_s) for name, block in profile.blocks.items()}
    return {name: rows for name, rows in found.items() if rows is not None}


def _group_cost(group: str, paths: list[list[BlockProfile]]) -> GroupCost:
    rows = tuple(sorted({n for path in paths for block in path for n in block.rows}))
    times = (max(sum(_batch_s(block, n) for block in path) for path in paths) for n in rows)
    return GroupCost(group, rows, tuple(times), _speed_up(paths, rows[0]))


def _batch_s(block: BlockProfile, rows: int) -> float:
    """The seconds of a block on a batch, in micro-batches if that is faster."""
    runs = [count for _, count in pieces(rows, quickest(block.rows, block.time_s))]
    calls_s = CALL_S * (len(runs) - 1)
    return calls_s + sum(interpolate(block.rows, block.time_s, count) for count in runs)


def _speed_up(paths: list[list[BlockProfile]], rows: int) -> float | None:
    """How much faster all lanes together run a batch than one lane; None if not measured.

    The paths compared are the slowest on one lane and the slowest on all. A block without a figure
    counts as no faster on all lanes.
    """
    if all(block.wide_s is None for path in paths for block in path):
        return None
    narrow_s, wide_s = [], []
    for path in paths:
        times_s = [interpolate(block.rows, block.time_s, rows) for block in path]
        shares = [1.0 if b.wide_s is None else b.wide_s / b.time_s[0] for b in path]
        narrow_s.append(sum(times_s))
        wide_s.append(sum(t * share for t, share in zip(times_s, shares, strict=True)))
    return max(narrow_s) / max(wide_s)


def affine(block: BlockProfile) -> tuple[float, float]:
    """The pair (fixed, each) of the line `fixed + each * rows` through the seconds of a run.

    The line is that of Theil and Sen: the median slope of all pairs of points, which one bad point
    does not change.
    """
    points = list(zip(block.rows, block.time_s, strict=True))
    slopes = [(t2 - t1) / (n2 - n1) for (n1, t1), (n2, t2) in itertools.combinations(points, 2)]
    each_s = max(0.0, statistics.median(slopes)) if slopes else 0.0
    return max(0.0, statistics.median(t - each_s * n for n, t in points)), each_s


class _Schema(msgspec.Struct):
    schema: int


describe(DeviceProfile, _Schema)
