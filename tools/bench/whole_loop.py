"""The loop that one would write by hand: one process that decodes frames and runs uncut models.

Started by tools.bench.throughput, which gives orders on its standard input, one JSON object a
line, and reads one for each. Between orders it waits and takes no processor time, so the other
side can be measured in turns with it. Imports nothing of the daemon but the decoding, so that
both sides feed their models the same.

lanes   `threads` threads, each decodes a batch and runs it in sessions of one thread
wide    one thread runs batches in sessions of `threads` threads; as many decode a batch
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # both are read when a library is imported
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edged import preprocess
from edged.manifest import Preprocess

Floats: TypeAlias = "npt.NDArray[np.float32]"
Fill: TypeAlias = Callable[[int, Floats], None]  # writes the frame of a number into a row

WARM_UP_S = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="ONNX files")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--frames", type=Path, required=True, help="of JPEG files or of arrays")
    parser.add_argument("--preprocess", help="as JSON; without it frames are arrays")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    loop = _Loop(args.models, args.threads, _filler(args.frames, args.preprocess))
    orders: dict[str, Callable[..., dict[str, Any]]] = {
        "lanes": loop.lanes,
        "wide": loop.wide,
        "alone": loop.alone,
    }
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(orders[order.pop("do")](**order)), flush=True)


def _filler(folder: Path, spec: str | None) -> Fill:
    """The function that puts a frame into a row. Files are read once: reading is not compared."""
    paths = sorted(folder.iterdir())
    if spec is None:
        arrays = [np.load(path) for path in paths]
        return lambda number, row: np.copyto(row, arrays[number % len(arrays)][0])
    how = msgspec.json.decode(spec, type=Preprocess)
    files = [path.read_bytes() for path in paths]
    return lambda number, row: preprocess.prepare(files[number % len(files)], how, row)


class _Loop:
    def __init__(self, models: Sequence[str], threads: int, fill: Fill) -> None:
        self._threads = threads
        self._fill = fill
        self._narrow = [_session(path, 1) for path in models]
        # Pools that keep spinning after a run would take the cores from the next model's pool.
        self._wide = [_session(path, threads, stop_spinning=len(models) > 1) for path in models]
        (taken,) = self._narrow[0].get_inputs()
        self._name: str = taken.name
        self._shape: list[int] = taken.shape[1:]
        self._pool = ThreadPoolExecutor(threads)
        self._numbers = count()  # numbers of frames

    def lanes(self, rows: int, seconds: float) -> dict[str, float]:
        """The frames/s with batches of `rows`, on one thread each."""
        done = [0] * self._threads
        stop = threading.Event()

        def lane(index: int) -> None:
            batch = self._buffer(rows)
            while not stop.is_set():
                for row in batch:
                    self._fill(next(self._numbers), row)
                self._run(self._narrow, batch)
                done[index] += rows

        threads = [threading.Thread(target=lane, args=(i,)) for i in range(self._threads)]
        for thread in threads:
            thread.start()
        time.sleep(WARM_UP_S)
        before, began_s, cpu_s = sum(done), time.perf_counter(), time.process_time()
        time.sleep(seconds)
        count = sum(done) - before
        found = _rate(count, time.perf_counter() - began_s, time.process_time() - cpu_s)
        stop.set()
        for thread in threads:
            thread.join()
        return found

    def wide(self, rows: int, seconds: float) -> dict[str, float]:
        """The frames/s with batches of `rows`, one after the other."""
        batch = self._buffer(rows)
        cpu_s = time.process_time()
        times = list(self._timed(lambda: self._decoded_by_all(batch), batch, seconds))
        return _rate(rows * len(times), sum(times), time.process_time() - cpu_s)

    def alone(self, seconds: float) -> dict[str, list[float]]:
        """The seconds of each frame, one at a time on all threads."""
        batch = self._buffer(1)
        fill = lambda: self._fill(next(self._numbers), batch[0])  # noqa: E731
        return {"times_s": list(self._timed(fill, batch, seconds))}

    def _decoded_by_all(self, batch: Floats) -> None:
        list(self._pool.map(lambda row: self._fill(next(self._numbers), row), batch))

    def _timed(self, fill: Callable[[], None], batch: Floats, seconds: float) -> Iterator[float]:
        """The seconds of each batch; at least one batch runs."""
        counted_from_s = time.perf_counter() + WARM_UP_S
        counted = 0
        while (began_s := time.perf_counter()) < counted_from_s + seconds or not counted:
            fill()
            self._run(self._wide, batch)
            if began_s >= counted_from_s:
                counted += 1
                yield time.perf_counter() - began_s

    def _run(self, sessions: Sequence[Any], batch: Floats) -> None:
        for session in sessions:
            session.run(None, {self._name: batch})

    def _buffer(self, rows: int) -> Floats:
        return np.empty((rows, *self._shape), np.float32)


def _rate(frames: int, seconds: float, cpu_s: float) -> dict[str, float]:
    return {"rate": frames / seconds, "cpu_us": 1e6 * cpu_s / max(1, frames)}


def _session(path: str, threads: int, *, stop_spinning: bool = False) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if stop_spinning:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
