"""Whether the daemon is ready, and what it says of itself while it loads models. Pure.

It is ready when a request for at least one pinned or default model can be answered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from edged.core.residency.report import MemoryState, ModelState
from edged.daemon.models.catalog import Catalog
from edged.errors import Code


@dataclass(frozen=True, slots=True)
class Readiness:
    """What is said to the service manager, to `edged status` and in the log."""

    is_ready: bool
    loading: tuple[int, int] | None = (
        None  # number of the model that is loaded now, and of how many
    )
    note: str = ""  # what an operator should know, such as that models do not fit; else empty
    failure: tuple[Code, str] | None = None  # why no model can be served at all, ever
    building: str = ""  # which engine is built, and how far that is

    @property
    def progress(self) -> str:
        """Empty when nothing is loaded."""
        loading = "" if self.loading is None else "loading model {} of {}".format(*self.loading)
        return "; ".join(filter(None, (loading, self.building)))

    @property
    def remark(self) -> str:
        """Both as one line."""
        return "; ".join(filter(None, (self.note, self.progress)))


STARTING = Readiness(is_ready=False)


def readiness(state: MemoryState, wanted: Collection[str], building: str = "") -> Readiness:
    """`wanted`: keys of the pinned and default models. `building`: see `building_text`."""
    served = [model for model in state.models if model.served]
    good = [m for m in served if not m.error and not m.excess_bytes]
    first = [model for model in served if model.model in wanted]
    is_ready = any(not model.missing_bytes for model in first) or (
        state.loading is None and (any(m.model in wanted for m in good) or not served)
    )
    failed = [(m.code, m.error) for m in served if m.error and m.code is not None]
    failure = None
    if served and len(failed) == len(served) and state.loading is None:
        lasting = [one for one in failed if one[0] is not Code.UNAVAILABLE]
        failure = lasting[0] if len(lasting) == len(failed) else None
    note = _note(served, first, is_ready=is_ready)
    return Readiness(is_ready, state.loading, note, failure, building)


def building_text(waiting: int, of: int, share: float) -> str:
    """How far engines are that are built, `waiting` of which are not there yet; empty at the end.

    `share`: of the one that is built now, which is done.
    """
    return f"preparing block {of - waiting + 1} of {of}, {share:.0%}" if waiting else ""


def _note(served: Sequence[ModelState], first: Sequence[ModelState], *, is_ready: bool) -> str:
    if not served:
        return "all models are unloaded by an administrator"
    too_large = [model for model in served if model.excess_bytes]
    if not too_large:
        return ""
    if is_ready:
        return f"degraded: {len(too_large)} of {len(served)} models do not fit"
    least = min((m for m in first if m.excess_bytes), key=lambda m: m.excess_bytes, default=None)
    if least is None:
        return ""
    return (
        f"the memory budget holds no pinned or default model: {least.excess_bytes} bytes are "
        f"missing for {least.model}"
    )


def first_models(
    catalog: Catalog, keys: dict[str, str], pinned: Collection[str], order: Iterable[str]
) -> tuple[str, ...]:
    """Keys of the models that a start loads, best first: the pinned, the default one of each task,
    then the others; each in the order of the configuration.
    """
    place = {name: number for number, name in enumerate(order)}
    defaults = {models[0] for models in catalog.tasks.values()}

    def rank(name: str) -> tuple[bool, bool, int]:
        return name not in pinned, name not in defaults, place.get(name, len(place))

    names = [name for name in catalog.preferred() if name in keys]
    return tuple(keys[name] for name in sorted(names, key=rank))


def wanted_models(
    catalog: Catalog, keys: dict[str, str], pinned: Collection[str], failing: Collection[str]
) -> frozenset[str]:
    """Keys of the models without which the daemon is not ready: pinned ones, and of each task the
    first that can be loaded. `keys`: of the models that are not unloaded, by name.
    """
    able = [name for name in keys if name not in failing]
    defaults = {next((m for m in of if m in able), "") for of in catalog.tasks.values()}
    return frozenset(keys[name] for name in (*pinned, *defaults) if name in able)
