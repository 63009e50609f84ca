"""The device worker: loads blocks, prepares requests, runs batches, reports.

The threads of the lanes read messages in turn, do what is short, and run the batches whose orders
they read, one a lane at a time. Others decode images into staging memory, load and unload blocks.
Each thread reports to the front by itself. Knows no scheduler: the front says what runs when.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import platform
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import msgspec
import numpy as np

from edged import __version__, backends, profiles
from edged.backends.base import Backend, DeviceLost
from edged.budget import footprint
from edged.core.events import (
    BatchFailed,
    Calibrate,
    Discard,
    Load,
    Run,
    Unload,
)
from edged.device.calibration import Calibration
from edged.device.decoding import Decoding, Room, room_bytes
from edged.device.executor import Executor
from edged.device.failures import passing, typed
from edged.device.intake import RequestIntake
from edged.device.lanes import Lanes
from edged.device.loader import Loader
from edged.device.measurements import Measurements
from edged.device.orders import Orders
from edged.device.settings import Settings
from edged.device.staging import Staged, Staging
from edged.device.turns import Job, TurnQueue
from edged.errors import EdgedError
from edged.link import messages as link
from edged.link.channel import Receiver, SharedSender
from edged.manifest import Manifest
from edged.sharedmem.reader import RegionReader
from edged.store import Store

log = logging.getLogger("edged.device")

Work: TypeAlias = Run | Calibrate  # what takes a lane
Jobs: TypeAlias = "queue.SimpleQueue[Job | None] | TurnQueue"  # None ends the thread that takes it


class Worker:
    """One device and its threads. `start`, then `serve` until Stop."""

    def __init__(self, settings: Settings, orders: socket.socket, reports: socket.socket) -> None:
        """`orders` to read from, `reports` to write to; both block."""
        self._settings = settings
        self._commands = Receiver(orders)
        self._reports = SharedSender(reports)
        self._regions = RegionReader()
        self._jobs = TurnQueue()
        self._looks: Jobs = queue.SimpleQueue()
        # One for each lane; the last one that was used goes first, its memory is in the cache.
        self._idle: queue.LifoQueue[Executor] = queue.LifoQueue()
        self._threads: list[tuple[threading.Thread, Jobs]] = []
        self._handlers: dict[type, Callable[[Any], None]] = {
            link.PayloadHeader: lambda header: self._intake.take(header),
            Discard: lambda discard: self._staging.discard(discard.rid),
            link.Close: lambda close: self._regions.forget(close.path),
            **dict.fromkeys((Load, Unload, link.Define), lambda order: self._orders.put(order)),
            link.Forget: self._on_forget,
            link.Measure: lambda ask: self._looks.put(functools.partial(self._measure, ask.n)),
        }

    def start(self) -> None:
        """Open store and device, start the threads, say Ready. Raises EdgedError."""
        settings = self._settings
        cv2.setNumThreads(1)  # our threads take a picture each
        store = Store(settings.store)
        found = settings.manifests or store.models(settings.models)
        self._manifests = {name: found[name] for name in settings.models or found}
        backend = self._backend = backends.create(
            settings.backend,
            settings.options,
            threads=settings.threads,
            cache_dir=Path(settings.cache_dir),
        )
        measurements = Measurements(Path(settings.cache_dir), _facts(settings, backend))
        measurements.sweep()
        self._loader = Loader(store, backend, measurements)
        self._loader.begin(self._manifests)
        fixed_bytes = footprint().pss_bytes
        self._make_lanes(backend, measurements, fixed_bytes)
        room = Room(
            room_bytes(settings.budget_bytes, settings.max_pixels),
            settings.prepare_threads + backend.lanes,
        )
        takes_images = any(manifest.preprocess for manifest in self._manifests.values())
        self._staging = Staging(self._manifests, settings.staging_rows, backend.memory)
        self._intake = self._make_intake(Decoding(settings.max_pixels, room))
        self._orders = Orders(self._loader, self._redefine, self._report)
        self._orders.start()
        for number in range(settings.prepare_threads):
            self._start_thread(f"prepare-{number}", self._jobs)
        self._start_thread("gauge", self._looks)  # it may have to wait for a load
        gc.collect()
        gc.freeze()  # what lives now lives for ever: later collections need not look at it
        self._say_ready(fixed_bytes, room.nbytes if takes_images else 0)

    def _make_lanes(self, backend: Backend, measurements: Measurements, fixed_bytes: int) -> None:
        self._executors = [
            Executor(self._manifests, backend, self._loader.max_rows) for _ in range(backend.lanes)
        ]
        for executor in reversed(self._executors):
            self._idle.put(executor)
        self._calibration = Calibration(
            backend,
            self._executors,
            self._idle,
            measurements,
            counted_bytes=lambda: fixed_bytes + self._loader.resident_bytes,
        )
        self._split_blocks()

    def _split_blocks(self) -> None:
        """Have the models' blocks run in micro-batches, as is told or was found earlier."""
        microbatches = self._settings.microbatches
        if microbatches is None:
            microbatches = self._calibration.microbatches(self._loader.blocks)
        self._calibration.split(microbatches)

    def _make_intake(self, decoding: Decoding) -> RequestIntake:
        return RequestIntake(
            self._commands,
            self._staging,
            self._jobs,
            self._regions,
            decoding,
            manifests=self._manifests,
            row_s=self._backend.prepare_row_s,
            report=self._report,
        )

    def _say_ready(self, fixed_bytes: int, decoding_bytes: int) -> None:
        settings, backend, calibration = self._settings, self._backend, self._calibration
        taken = footprint()
        self._report(
            link.Ready(
                backend=backend.name,
                device=backend.device,
                lanes=backend.lanes,
                lanes_prepare=1 < backend.lanes >= settings.prepare_threads,
                emulated=backend.emulated,
                models=tuple(self._manifests),
                blocks=tuple(
                    link.BlockInfo(block, figures.bytes_used, figures.load_us)
                    for block, figures in self._loader.known.items()
                ),
                warm_ups=calibration.times(self._manifests),
                measured=tuple(
                    key
                    for key, manifest in self._manifests.items()
                    if calibration.is_known(manifest, settings.max_batch_rows)
                ),
                versions={
                    "edged": __version__,
                    "python": platform.python_version(),
                    "numpy": np.__version__,
                    "opencv": cv2.__version__,
                    **backend.versions,
                },
                staging_bytes=self._staging.nbytes,
                decoding_bytes=decoding_bytes,
                pss_bytes=taken.pss_bytes,
                private_bytes=taken.private_bytes,
                fixed_bytes=fixed_bytes,
                row_bytes=calibration.row_bytes(self._manifests),
                base_bytes=calibration.base_bytes(self._manifests),
                loading_bytes=self._loader.extra_bytes,
            )
        )

    def serve(self) -> None:
        """Do what the front says, until it says Stop and all that was begun has ended."""
        lanes: Lanes[Work] = Lanes(self._backend.lanes, self._next_run, self._do)
        others = [
            threading.Thread(
                target=self._work_in, args=(lanes,), name=f"lane-{number}", daemon=True
            )
            for number in range(self._backend.lanes)
        ]
        for thread in others:
            thread.start()
        self._work_in(lanes)
        for thread in others:
            thread.join()
        self._orders.stop()
        for _, jobs in self._threads:
            jobs.put(None)
        for thread, _ in self._threads:
            thread.join()
        self._backend.close()

    def _next_run(self) -> Work | None:
        """The next run that the front orders, when all that it said before is done or begun."""
        while (first := self._commands.begin()) is not None:
            message = link.decode_to_worker(first)
            if type(message) is Run or type(message) is Calibrate:
                return message
            if type(message) is link.Stop:
                break
            self._handlers[type(message)](message)
        return None

    def _work_in(self, lanes: Lanes[Work]) -> None:
        """The life of a lane's thread."""
        with self._fatal():
            lanes.work()

    def fail(self, error: BaseException) -> None:
        """Say why it cannot start, or cannot go on."""
        failure = typed(error, "the device worker cannot go on")
        self._report(link.WorkerFailed(failure.code, str(failure)))

    def _on_forget(self, order: link.Forget) -> None:
        """Not before the last batch with one of the models has ended: a request that was taken back
        runs on in it, and its answer is made by what the model says."""
        self._staging.when_unused(order.models, functools.partial(self._orders.put, order))

    # --- batches ------------------------------------------------------------------------------

    def _do(self, work: Work) -> None:
        if type(work) is Run:
            self._run(work)
        elif type(work) is Calibrate:
            self._calibrate(work)

    def _run(self, message: Run) -> None:
        try:
            requests = self._staging.begin(message.members)
        except EdgedError as error:
            self._report(BatchFailed(message.batch, error.code, str(error)))
            return
        prepare_s = self._prepare_deferred(requests, wide=message.wide)
        executor = self._idle.get()  # a run of the calibration may have all of them
        try:
            outputs, payload = executor.run(message, requests, prepare_s)
        except DeviceLost:
            raise
        except Exception as caught:
            self._staging.end(message.members, requests, done=False)
            failure = passing(typed(caught, "a batch could not be run"))
            self._report(BatchFailed(message.batch, failure.code, str(failure)))
        else:
            self._staging.end(message.members, requests, done=True)
            if self._settings.report_block_runs:
                outputs = msgspec.structs.replace(outputs, blocks=tuple(executor.runs))
            self._report(outputs, payload)  # before the executor's memory is used again
        finally:
            self._idle.put(executor)

    def _prepare_deferred(self, requests: Sequence[Staged], *, wide: bool) -> float:
        """The seconds that it took. For a batch that is wide the preparing threads help."""
        deferred = [request.deferred for request in requests if request.deferred is not None]
        if not deferred:
            return 0.0
        started_ns = time.perf_counter_ns()
        for work in deferred[1:] if wide else ():
            self._jobs.put(work)
        for work in deferred:
            work()
        return (time.perf_counter_ns() - started_ns) / 1e9

    def _calibrate(self, order: Calibrate) -> None:
        """One run. A model that cannot be measured is served without."""
        key, manifests, done = order.model, self._manifests, True
        try:
            if key in manifests:
                done = self._calibration.step(key, manifests[key], order.rows)
        except DeviceLost:
            raise
        except Exception as caught:
            self._calibration.forget([key])
            # One whose blocks were taken off meanwhile can be measured when they are back.
            done = all(step.block in self._loader.resident for step in manifests[key].steps)
            log.warning("model %s could not be measured: %s", key, typed(caught, "a run failed"))
        report = link.ModelMeasured(key, done)
        if done:
            report = link.ModelMeasured(
                key,
                done,
                self._calibration.times({key: manifests[key]} if key in manifests else {}),
                self._calibration.row_bytes(manifests),
                self._calibration.base_bytes(manifests),
                self._loader.extra_bytes,
            )
        self._report(report)

    # --- the rest -----------------------------------------------------------------------------

    def _redefine(self, manifests: Mapping[str, Manifest]) -> None:
        """Serve these models from now on."""
        self._split_blocks()
        for executor in self._executors:
            executor.define(manifests)
        self._staging.define(manifests)
        self._calibration.forget(self._manifests.keys() - manifests.keys())
        self._manifests = self._intake.manifests = dict(manifests)

    def _measure(self, n: int) -> None:
        """Between two loads, so that the front counts the same blocks when it hears of it."""
        with self._orders.steady():
            try:
                taken = footprint()
            except OSError as error:  # as without a descriptor left; it is asked again soon
                log.error("memory could not be measured: %s", error.strerror)
                return
            self._report(
                link.WorkerMemory(
                    n=n,
                    pss_bytes=taken.pss_bytes,
                    private_bytes=taken.private_bytes,
                    staging_bytes=self._staging.nbytes,
                    buffer_bytes=sum(executor.nbytes for executor in self._executors),
                )
            )

    def _start_thread(self, name: str, jobs: Jobs) -> None:
        thread = threading.Thread(target=self._work, args=(jobs,), name=name, daemon=True)
        self._threads.append((thread, jobs))
        thread.start()

    def _work(self, jobs: Jobs) -> None:
        """The life of a thread that does jobs."""
        with self._fatal():
            while (job := jobs.get()) is not None:
                job()

    @contextlib.contextmanager
    def _fatal(self) -> Iterator[None]:
        """No thread ends in silence: what it cannot cope with ends the worker, and the front knows
        why. Other threads still run, so there is nothing that could be put in order first.
        """
        try:
            yield
        except BaseException as error:
            try:
                self.fail(error)
            finally:
                os._exit(1)

    def _report(self, message: link.FromWorker, payload: Sequence[memoryview] = ()) -> None:
        """Tell the front, from any thread. The payload's memory may be used again at once."""
        self._reports.send([link.encode(message), *payload])


def _facts(settings: Settings, backend: Backend) -> dict[str, Any]:
    """All that measured figures depend on besides blocks and what this processor can compute."""
    return {
        "machine": profiles.machine(),  # two of a kind may differ in pace
        "backend": backend.name,
        "device": backend.device,
        "lanes": backend.lanes,
        "threads": settings.threads,
        "options": settings.options,
        "versions": backend.versions,
    }
