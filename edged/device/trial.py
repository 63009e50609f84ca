"""A process that opens a backend as a worker would, says what came of it, and ends.

`python -m edged.device.trial` reads a worker's settings on standard input and writes a `Trial` to
standard output.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import msgspec

from edged import backends
from edged.device.failures import typed
from edged.device.settings import Settings, Trial


def attempt(settings: Settings) -> Trial:
    """Open the backend that the settings name, and close it again."""
    try:
        with tempfile.TemporaryDirectory() as empty:  # a backend may tidy up its cache directory
            backend = backends.create(
                settings.backend,
                settings.options,
                threads=settings.threads,
                cache_dir=Path(empty),
            )
            trial = Trial(device=backend.device, lanes=backend.lanes)
            backend.close()
        return trial
    except Exception as caught:
        error = typed(caught, f"backend {settings.backend} does not come up")
        return Trial((error.code.value, str(error)))


def main() -> int:
    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=Settings)
    sys.stdout.buffer.write(msgspec.json.encode(attempt(settings)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
