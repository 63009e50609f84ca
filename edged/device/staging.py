"""Staging memory: a bounded pool of rows for each shape of input, and the requests that hold them.

The only state that the worker's threads share, behind one lock. The front counts rows and never
has more than there are on their way (`edged.link.messages`), so running out is a bug, not a load.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from edged.backends.memory import Array, BackendMemory, DeviceArray, host_view
from edged.core.events import Member
from edged.device.inputs import Preparation, preparation
from edged.errors import EdgedError, NotFound
from edged.link import messages as link
from edged.manifest import Manifest
from edged.paths.layout import Tensor

Shape: TypeAlias = tuple[Tensor, ...]  # of all inputs of a model, in order
_NEEDS = 256  # combinations of asks that are remembered


class Pool:
    """`rows` rows for models with inputs of this shape. Not for several threads by itself."""

    def __init__(self, number: int, shape: Shape, rows: int, memory: BackendMemory) -> None:
        self.number = number
        self.arrays = tuple(
            host_view(memory.staging(rows * tensor.row_bytes), 0, rows, tensor) for tensor in shape
        )
        self.shape = shape
        self._taken = [False] * rows
        self._free = rows
        self._next = 0

    def take(self, count: int) -> list[int] | None:
        """Free rows, in a ring, so that requests of a batch tend to lie side by side."""
        if count > self._free:
            return None
        total = len(self._taken)
        if self._free == total:
            self._next = 0  # the same rows again for one request at a time: they are in the cache
        self._free -= count
        found: list[int] = []
        while count:
            if not self._taken[self._next]:
                self._taken[self._next] = True
                found.append(self._next)
                count -= 1
            self._next = (self._next + 1) % total
        return found

    def give_back(self, rows: Sequence[int]) -> None:
        for row in rows:
            assert self._taken[row], f"staging row {row} is given back twice; this is a bug"
            self._taken[row] = False
        self._free += len(rows)

    def copies(
        self, index: int, rows: Sequence[int], target: DeviceArray
    ) -> Iterator[tuple[Array, DeviceArray]]:
        """What brings rows of the input `index` to the device: a copy for each run of rows."""
        array, first = self.arrays[index], 0
        for at in range(1, len(rows) + 1):
            if at == len(rows) or rows[at] != rows[at - 1] + 1:
                yield array[rows[first] : rows[at - 1] + 1], target[first:at]
                first = at

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)


@dataclass(frozen=True, slots=True, eq=False)
class _Recipe:
    """One preparation and the pool that it fills; one object for all models that share it."""

    preparation: Preparation
    pool: Pool


@dataclass(frozen=True, slots=True, eq=False)
class _Needs:
    """What requests that ask for the same need."""

    asks: Mapping[str, link.Ask]  # by model
    models: Mapping[_Recipe, tuple[str, ...]]  # sorted


class Feed(msgspec.Struct, eq=False):
    """Staging rows that one preparation of a request fills, and the models that read them."""

    preparation: Preparation
    pool: Pool
    rows: list[int]
    models: tuple[str, ...]  # sorted

    @property
    def in_one_piece(self) -> bool:
        return self.rows == list(range(self.rows[0], self.rows[-1] + 1))


class Deferred:
    """Work that the first of several threads does while the others wait for it."""

    def __init__(self, work: Callable[[], None]) -> None:
        """`work` never raises."""
        self._lock = threading.Lock()
        self._work: Callable[[], None] | None = work

    def __call__(self) -> None:
        with self._lock:
            work, self._work = self._work, None
            if work is not None:
                work()


class Staged(msgspec.Struct, eq=False):
    """A request in the worker."""

    rid: int
    rows: int
    asks: Mapping[str, link.Ask]
    feeds: tuple[Feed, ...]  # none: it could not be prepared, and batches leave it out
    left: set[str]  # models that have not run
    ready: bool = False
    running: int = 0  # batches
    discarded: bool = False
    deferred: Deferred | None = None  # what fills the feeds, where the first batch is to do that


class Staging:
    """Owns the pools and the table of requests. Every method may be called by any thread."""

    def __init__(self, manifests: Mapping[str, Manifest], rows: int, memory: BackendMemory) -> None:
        self._lock = threading.Lock()
        self._requests: dict[int, Staged] = {}
        self._unused: list[tuple[Collection[str], Callable[[], None]]] = []  # see `when_unused`
        self._rows = rows
        self._memory = memory
        self._numbers = itertools.count()
        self.pools: dict[Shape, Pool] = {}
        self.define(manifests)

    def define(self, manifests: Mapping[str, Manifest]) -> None:
        """Stage for these models from now on. Of those before no request is open.

        Pools of shapes that stay are kept, with what is in them.
        """
        kept = self.pools
        pools = {
            shape: kept.get(shape) or Pool(next(self._numbers), shape, self._rows, self._memory)
            for shape in dict.fromkeys(shape_of(m) for m in manifests.values())
        }
        made: dict[tuple[str, bool], _Recipe] = {}
        recipes: dict[Preparation, _Recipe] = {}
        for name, manifest in manifests.items():
            for images in (False, True):
                key = preparation(manifest, images=images)
                made[name, images] = recipes.setdefault(key, _Recipe(key, pools[_shape(key)]))
        self.pools = pools
        self._needs = functools.lru_cache(_NEEDS)(functools.partial(_needs, made))

    @property
    def nbytes(self) -> int:
        return sum(pool.nbytes for pool in self.pools.values())

    def admit(self, message: link.PayloadHeader) -> Staged:
        """Take the rows that a request needs. Raises NotFound, or EdgedError if there are none.

        A light one is ready at once: whoever admits it fills its rows before it hears of its Run.
        """
        needs = self._needs(message.asks, message.inputs[0].kind != "tensor")
        with self._lock:
            feeds: list[Feed] = []
            for recipe, models in needs.models.items():
                rows = recipe.pool.take(message.rows)
                if rows is None:
                    for feed in feeds:
                        feed.pool.give_back(feed.rows)
                    raise EdgedError(
                        f"no staging memory for {message.rows} more rows: more requests are on "
                        "their way than it holds; this is a bug of the scheduler"
                    )
                feeds.append(Feed(recipe.preparation, recipe.pool, rows, models))
            staged = self._requests[message.rid] = Staged(
                message.rid,
                message.rows,
                needs.asks,
                tuple(feeds),
                left=set(needs.asks),
                ready=message.inline,
            )
            return staged

    def settle(self, staged: Staged, *, prepared: bool) -> bool:
        """End the preparation: False if the request holds no rows any more, failed or discarded."""
        with self._lock:
            staged.ready = prepared and not staged.discarded
            if not staged.ready:
                self._free(staged)
            return staged.ready

    def leave_out(self, message: link.PayloadHeader) -> None:
        """A light request cannot be prepared: free its rows, but know it until it is discarded."""
        with self._lock:
            staged = self._requests.get(message.rid)
            if staged is None:
                asks = {ask.model: ask for ask in message.asks}
                staged = Staged(message.rid, message.rows, asks, (), set(asks))
                self._requests[message.rid] = staged
            for feed in staged.feeds:
                feed.pool.give_back(feed.rows)
            staged.feeds = ()
            staged.ready = True

    def discard(self, rid: int) -> None:
        """Forget a request as soon as nothing works on it; it may be gone already."""
        with self._lock:
            staged = self._requests.get(rid)
            if staged is not None:
                staged.discarded = True
                if staged.ready and not staged.running:
                    self._free(staged)

    def begin(self, members: Sequence[Member]) -> list[Staged]:
        """The requests of a batch; none of them is freed before `end`."""
        with self._lock:
            begun: list[Staged] = []
            for member in members:
                staged = self._requests.get(member.rid)
                if staged is None or not staged.ready or not staged.left.issuperset(member.models):
                    raise EdgedError(
                        f"request {member.rid} is not staged for {member.models}; this is a bug of "
                        "the scheduler"
                    )
                begun.append(staged)
            for staged in begun:
                staged.running += 1
            return begun

    def end(self, members: Sequence[Member], begun: Sequence[Staged], *, done: bool) -> None:
        """The batch has run, or failed and left its requests as they were."""
        with self._lock:
            for member, staged in zip(members, begun, strict=True):
                staged.running -= 1
                if done:
                    staged.left.difference_update(member.models)
                if not staged.running and (staged.discarded or not staged.left):
                    self._free(staged)

    def when_unused(self, models: Collection[str], then: Callable[[], None]) -> None:
        """Call `then` once, as soon as no request is for one of these models: at once, or in the
        thread that ends the last one, which has the lock. No more such requests come meanwhile.
        """
        with self._lock:
            if any(not staged.asks.keys().isdisjoint(models) for staged in self._requests.values()):
                self._unused.append((frozenset(models), then))
                return
        then()

    def _free(self, staged: Staged) -> None:
        del self._requests[staged.rid]
        for feed in staged.feeds:
            feed.pool.give_back(feed.rows)
        if self._unused:
            self._tell_unused()

    def _tell_unused(self) -> None:
        used = {model for staged in self._requests.values() for model in staged.asks}
        waiting, self._unused = self._unused, []
        for models, then in waiting:
            if used.isdisjoint(models):
                then()
            else:
                self._unused.append((models, then))


def _needs(
    recipes: Mapping[tuple[str, bool], _Recipe], asks: Sequence[link.Ask], images: bool
) -> _Needs:
    """`recipes`: by model, and whether of images. Raises NotFound."""
    models: dict[_Recipe, list[str]] = {}
    for ask in asks:
        recipe = recipes.get((ask.model, images))
        if recipe is None:
            raise NotFound(f"model {ask.model!r} is not loaded")
        models.setdefault(recipe, []).append(ask.model)
    return _Needs(
        {ask.model: ask for ask in asks},
        {recipe: tuple(sorted(names)) for recipe, names in models.items()},
    )


def shape_of(manifest: Manifest) -> Shape:
    return _shape(preparation(manifest, images=False))


def _shape(key: Preparation) -> Shape:
    return tuple(Tensor(value.datatype, value.shape) for value in key.inputs)
