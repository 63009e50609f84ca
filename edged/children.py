"""How to run one of our modules in a process of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_ROOT = str(Path(__file__).parents[1])  # that `edged` lies in

# As `python -m`, but for where modules are looked for: `-c` and `-m` begin with the working
# directory, and whoever may write there could put a module in the place of a library.
_RUN = (
    "import sys; sys.path[:] = {path}; import runpy; "
    "runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
)


def command(module: str) -> list[str]:
    """How to run a module in a process of its own, which imports from where this one does."""
    path = [os.path.abspath(entry) for entry in sys.path if entry]
    if _ROOT not in path:
        path.insert(0, _ROOT)
    run = _RUN.format(path=path, module=module)
    return [sys.executable, "-c", run, "-m", module]  # the last two for whoever lists processes
