"""Small files of /proc, /sys and /etc below a root that tests replace; None: cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FileTree:
    """Paths are relative to the root, as `proc/meminfo`."""

    root: Path = Path("/")

    def text(self, path: str) -> str | None:
        """The content without NULs and white space at its ends; None if it cannot be read.

        Sensors of what is switched off cannot: their drivers answer with an error.
        """
        try:
            return (self.root / path).read_text(errors="replace").strip("\0 \t\n")
        except (OSError, ValueError):
            return None

    def number(self, path: str) -> int | None:
        """The content as a whole number; None if it cannot be read or is none."""
        text = self.text(path)
        try:
            return None if text is None else int(text)
        except ValueError:
            return None

    def find(self, pattern: str) -> Iterator[str]:
        """The paths that match, in the order of their names with numbers as numbers."""
        found = [path.relative_to(self.root).as_posix() for path in self.root.glob(pattern)]
        return iter(sorted(found, key=lambda path: (len(path), path)))


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
