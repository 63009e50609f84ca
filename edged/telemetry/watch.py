"""Looks at the board again and again, in a thread of its own: reading rails takes milliseconds."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from edged.telemetry.files import FileTree
from edged.telemetry.pace import BoardState, Pace
from edged.telemetry.reading import look

log = logging.getLogger("edged")

LOOK_S = 0.5  # two looks agree within a second of a change


class BoardWatch:
    """Owns the thread. `latest` may be read from any other: it is replaced as a whole."""

    def __init__(self, root: Path = Path("/")) -> None:
        """`root` is the folder of /proc, /sys and /etc."""
        self._tree = FileTree(root)
        self._pace = Pace()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="board", daemon=True)
        self.latest: BoardState | None = None  # None: the board tells nothing

    def start(self) -> None:
        """Look once, and go on where there is anything to see."""
        try:
            reading = look(self._tree)
        except OSError as error:
            log.warning("the board cannot be looked at: %s", error)
            return
        if not reading.tells_nothing:
            self.latest = self._pace.look(reading, time.monotonic())
            self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.wait(LOOK_S):
                self.latest = self._pace.look(look(self._tree), time.monotonic())
        except Exception:  # old figures would be wrong ones
            self.latest = None
            log.exception("the board is not looked at any more: this is a bug")
