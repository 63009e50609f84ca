"""The loader's threads: do what the front orders of blocks and models, beside batches.

One brings blocks and models, in order; while one block is loaded the next one is read ahead. The
other takes blocks off meanwhile, so that there is room when the next load is ordered. Knows no
sockets and no budget: whoever orders a load has made room for it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from edged.backends.base import Backend, DeviceLost
from edged.core.events import BlockLoaded, BlockLoadFailed, BlockUnloaded, Load, Unload
from edged.device.building import BuildQueue
from edged.device.failures import passing, typed
from edged.device.loader import Loader
from edged.errors import EdgedError
from edged.link import messages as link
from edged.manifest import Manifest

log = logging.getLogger("edged.device")

Order: TypeAlias = Load | Unload | link.Define | link.Forget
Redefine: TypeAlias = "Callable[[Mapping[str, Manifest]], None]"

_NICE = 5  # of 19: a load may take longer, batches should not


class Orders:
    """Owns the loader while its threads run. `put` may be called by any thread.

    Whoever orders a block to be loaded has heard that it was unloaded, and the other way round.
    """

    def __init__(
        self,
        loader: Loader,
        redefine: Redefine,
        report: Callable[[link.FromWorker], None],
        backend: Backend | None = None,
    ) -> None:
        """redefine  make all these models, and no others, known to staging and lanes
        backend   builds what it lacks in a thread of its own; None: the loader prepares
        """
        self._loader = loader
        self._building: BuildQueue | None = None
        if backend is not None and backend.builds:
            self._building = BuildQueue(backend.is_prepared, loader.build, report)
        self._redefine = redefine
        self._report = report
        self._queue: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._waiting: deque[Order | None] = deque()  # taken from the queue
        self._unloads: queue.SimpleQueue[Order | threading.Event | None] = queue.SimpleQueue()
        self._coming = threading.Lock()  # held while a block comes, until that is reported
        self._going = threading.Lock()  # and while one goes
        self._threads = [
            threading.Thread(target=self._work, args=(next_order,), name=name, daemon=True)
            for name, next_order in (("loader", self._next), ("unloader", self._unloads.get))
        ]
        self._handlers: dict[type, Callable[[Any], None]] = {
            Load: self._load,
            Unload: self._unload,
            link.Define: self._define,
            link.Forget: self._forget,
            threading.Event: threading.Event.set,
        }

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def put(self, order: Order) -> None:
        if isinstance(order, link.Define) and self._building is not None:
            blocks = {step.block for _, manifest in order.models for step in manifest.steps}
            built = functools.partial(self._on_built, order)
            self._building.when_prepared(blocks, built)
        else:
            (self._unloads if isinstance(order, Unload) else self._queue).put(order)

    def _on_built(self, order: link.Define, error: EdgedError | None) -> None:
        """All blocks of new models are prepared, or one of them cannot be."""
        if error is None:
            self._queue.put(order)
        else:
            keys = tuple(key for key, _ in order.models)
            self._report(link.DefineFailed(keys, error.code, str(error)))

    def build_missing(self) -> None:
        """Prepare what is missing of the models of the start, where that takes minutes."""
        if self._building is not None:
            self._building.want(self._loader.blocks)
            self._building.start()

    def stop(self) -> None:
        """Return when all that was ordered is done; what is being built is given up."""
        if self._building is not None:
            self._building.stop()
        loader, unloader = self._threads
        self._queue.put(None)
        loader.join()  # first, since it may wait for the other
        self._unloads.put(None)
        unloader.join()

    @contextlib.contextmanager
    def steady(self) -> Iterator[None]:
        """No block comes or goes meanwhile, and all that have are reported."""
        with self._coming, self._going:
            yield

    def _work(self, next_order: Callable[[], Order | threading.Event | None]) -> None:
        with contextlib.suppress(PermissionError):  # a sandbox may not allow it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)  # this thread alone
        order: Order | threading.Event | None = None
        try:
            while (order := next_order()) is not None:
                self._handlers[type(order)](order)
        except BaseException as caught:
            try:
                error = typed(caught, f"{type(order).__name__} could not be done")
                self._report(link.WorkerFailed(error.code, str(error)))
            finally:
                os._exit(1)  # what is loaded is not known any more; the next one begins anew

    def _next(self) -> Order | None:
        """The next order but to unload; the one after it is read ahead if it has come by now."""
        while not self._waiting or not self._queue.empty():
            self._waiting.append(self._queue.get())
        order = self._waiting.popleft()
        if self._waiting and isinstance(self._waiting[0], Load):
            with contextlib.suppress(OSError):  # whoever loads it will say what is wrong
                self._loader.read_ahead(self._waiting[0].block)
        return order

    def _load(self, order: Load) -> None:
        with self._coming:
            try:
                if self._building is not None:
                    self._building.check(order.block)
                info = self._loader.load(order.block)
            except DeviceLost:
                raise
            except Exception as caught:
                error = passing(typed(caught, f"block {order.block[:12]} could not be loaded"))
                self._report(BlockLoadFailed(order.block, error.code, str(error)))
            else:
                load_s = info.load_us / 1e6
                self._report(BlockLoaded(order.block, info.bytes_used, load_s, info.pieces))

    def _unload(self, order: Unload) -> None:
        with self._going:
            self._loader.unload(order.block)
            self._report(BlockUnloaded(order.block))

    def _define(self, order: link.Define) -> None:
        new = dict(order.models)
        try:
            self._loader.define(new)
            try:
                self._redefine(self._loader.manifests)
            except Exception:
                self._loader.forget(new)
                self._redefine(self._loader.manifests)  # some may have got to know the new ones
                raise
        except DeviceLost:
            raise
        except Exception as caught:
            error = typed(caught, "models could not be defined")
            self._report(link.DefineFailed(tuple(new), error.code, str(error)))
        else:
            self._report(link.Defined(tuple(new)))

    def _forget(self, order: link.Forget) -> None:
        """What was to be unloaded before has been, so that no block is unloaded twice."""
        unloaded = threading.Event()
        self._unloads.put(unloaded)
        unloaded.wait()
        with self._going:
            self._loader.forget(order.models)
        self._redefine(self._loader.manifests)
