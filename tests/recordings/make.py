"""Make the recordings beside this file anew: `python -m tests.recordings.make [NAME ..]`.

They hold the decisions of the code as it was when they were made, which is what they are for: make
one anew only after a change that is meant to decide otherwise, and say so with the change.
"""

from __future__ import annotations

import argparse
import gzip
import tempfile
from pathlib import Path

from edged.observe.recording import replay
from tests.recordings.live import LIVE
from tests.recordings.simulated import SIMULATED, write

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    names = (*LIVE, *SIMULATED)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"by default all: {names}")
    chosen = parser.parse_args().names or names
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            made = make(name, Path(folder))
            turns = replay(made)
            packed = HERE / f"{name}.jsonl.gz"
            packed.write_bytes(gzip.compress(made.read_bytes(), 9, mtime=0))
        print(f"{packed.name}: {turns} turns, {packed.stat().st_size} bytes")


def make(name: str, folder: Path) -> Path:
    """The recording of this name, written somewhere below an empty directory."""
    if name in LIVE:
        return LIVE[name](folder)
    return write(SIMULATED[name], folder / "run.jsonl")


if __name__ == "__main__":
    main()
