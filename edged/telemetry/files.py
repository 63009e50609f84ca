"""Small files of /proc, /sys and /etc below a root that tests replace; None: cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

_PIECE_BYTES = 16_384


class FileTree:
    """Paths are relative to the root, as `proc/meminfo`."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    def text(self, path: str) -> str | None:
        """The content without NULs and white space at its ends; None if it cannot be read.

        Sensors of what is switched off cannot: their drivers answer with an error.
        """
        try:
            file = os.open(f"{self.root}/{path}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            content = bytearray()
            while piece := os.read(file, _PIECE_BYTES):
                content += piece
        except OSError:
            return None
        finally:
            os.close(file)
        return content.decode(errors="replace").strip("\0 \t\n")

    def number(self, path: str) -> int | None:
        """The content as a whole number; None if it cannot be read or is none."""
        text = self.text(path)
        try:
            return None if text is None else int(text)
        except ValueError:
            return None

    def find(self, pattern: str) -> tuple[str, ...]:
        """The paths that match, in the order of their names with numbers as numbers."""
        found = [path.relative_to(self.root).as_posix() for path in self.root.glob(pattern)]
        return tuple(sorted(found, key=lambda path: (len(path), path)))


def sizes(text: str) -> dict[str, int]:
    """The bytes by name in lines as `MemTotal:   123 kB`, those of /proc/meminfo; others are not
    looked at.
    """
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB" and words[0].isdigit():
            found[name] = int(words[0]) * 1024
    return found
