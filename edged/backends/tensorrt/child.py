"""Has engines built in processes of their own: one at a time, cancelled, tried again, in time.

Whatever happens to a build, this process only hears of it. Knows nothing of what is built.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import msgspec
from msgspec.structs import replace

from edged.backends.base import Progress
from edged.backends.tensorrt.orders import (
    GRACE_S,
    About,
    BuildOrder,
    BuildProgress,
    Built,
    FromBuild,
    NotBuilt,
)
from edged.children import command
from edged.errors import (
    Cancelled,
    Code,
    ConfigError,
    EdgedError,
    ResourceExhausted,
    StoreError,
    Unavailable,
    Unsupported,
    from_code,
)

_TICK_S = 0.25  # pause after a look at whether to go on
_LOCK = ".build.lock"

RunBuild: TypeAlias = "Callable[[BuildOrder, Progress], Built | NotBuilt]"


class Builds:
    """Builds for one cache directory, which other daemons may share."""

    def __init__(self, folder: Path, *, timeout_s: float, run: RunBuild | None = None) -> None:
        """`run`: how one build is made, for tests; None: in a process of its own."""
        self._folder = folder
        self._timeout_s = timeout_s
        self._run = run or self._in_a_process

    @contextlib.contextmanager
    def turn(self, progress: Progress) -> Iterator[None]:
        """Nobody else builds meanwhile. Raises Cancelled where `progress` says so, and ConfigError
        where the directory cannot be written."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ConfigError(
                f"engines cannot be kept in {self._folder} ({error.strerror}): set "
                "device.cache_dir to a directory that the daemon may write"
            ) from error
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not progress("another process builds", 0.0):
                        raise Cancelled("the build was cancelled") from None
                    time.sleep(_TICK_S)
            yield
        finally:
            os.close(lock)

    def make(self, order: BuildOrder, progress: Progress) -> About:
        """Have one entry made; with less memory when the first try failed for lack of it.

        Raises the error of the build, StoreError for a file that is no block, Cancelled,
        Unavailable after the time-out, and ResourceExhausted when memory did not suffice for the
        second try.
        """
        said = self._run(order, progress)
        if isinstance(said, NotBuilt) and said.may_shrink:
            empty(Path(order.target))
            said = self._run(replace(order, pools=order.pools.halved), progress)
            if isinstance(said, NotBuilt) and said.may_shrink:
                raise ResourceExhausted(f"unbuilt: {said.message}")
        if isinstance(said, NotBuilt):
            raise (
                StoreError(said.message) if said.is_damaged else from_code(said.code, said.message)
            )
        return said.about

    def _in_a_process(self, order: BuildOrder, progress: Progress) -> Built | NotBuilt:
        if importlib.util.find_spec("onnx") is None:
            raise Unsupported(
                "to build engines backend tensorrt needs onnx, which is not installed: pip install "
                "'edged[tensorrt]'"
            )
        process = subprocess.Popen(
            command("edged.backends.tensorrt.build"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
        )
        try:
            return _Watch(process, progress, time.monotonic() + self._timeout_s).follow(order)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()


class _Watch:
    """Follows one process to its end."""

    def __init__(self, process: subprocess.Popen[bytes], progress: Progress, end_s: float) -> None:
        self._process = process
        self._progress = progress
        self._end_s = end_s
        self._last = BuildProgress("starting", 0.0)
        self._rest = b""
        self._said: Built | NotBuilt | None = None

    def follow(self, order: BuildOrder) -> Built | NotBuilt:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # how it ended says more
            self._process.stdin.write(msgspec.json.encode(order) + b"\n")
            self._process.stdin.flush()
        stopped: EdgedError | None = None
        for _ in self._ticks():
            if self._said is not None:
                break
            if stopped is None and (stopped := self._why_stop()) is not None:
                with contextlib.suppress(BrokenPipeError):
                    self._process.stdin.close()
                self._end_s = time.monotonic() + GRACE_S
            elif stopped is not None and time.monotonic() > self._end_s:
                break
        if stopped is not None:
            raise stopped
        return self._said or self._how_it_ended()

    def _why_stop(self) -> EdgedError | None:
        if not self._progress(self._last.phase, self._last.done):
            return Cancelled("the build was cancelled")
        if time.monotonic() > self._end_s:
            return Unavailable(
                "the build took longer than device.options.build_timeout_s: set a longer time"
            )
        return None

    def _ticks(self) -> Iterator[None]:
        """Again and again until the process has closed its output."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while True:
                if selector.select(_TICK_S):
                    data = os.read(self._process.stdout.fileno(), 1 << 16)
                    if not data:
                        return
                    self._hear(data)
                yield

    def _hear(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            said = msgspec.json.decode(line, type=FromBuild)
            if isinstance(said, BuildProgress):
                self._last = said
            else:
                self._said = said

    def _how_it_ended(self) -> NotBuilt:
        """It has said nothing: most likely the kernel took it for its memory."""
        status = self._process.wait()
        if status == -signal.SIGKILL:
            return NotBuilt(
                Code.RESOURCE_EXHAUSTED, "out of memory (the build was killed)", may_shrink=True
            )
        if status < 0:
            return NotBuilt(Code.INTERNAL, f"the build was ended by {signal.Signals(-status).name}")
        return NotBuilt(Code.INTERNAL, f"the build ended with status {status} and said nothing")


def empty(folder: Path) -> None:
    """Remove what a build has left in its directory."""
    for file in folder.iterdir():
        file.unlink()
