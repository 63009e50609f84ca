"""`python -m edged`: as `edged`, which does not import from the working directory either."""

import os
import sys

# `-m` puts the working directory in front of all others: whoever may write there could put a module
# in the place of a library. It stays where it is what holds the program.
_is_added = not (sys.flags.isolated or getattr(sys.flags, "safe_path", False))  # 3.10 has no -P
if _is_added and sys.path[0] != os.path.dirname(os.path.dirname(__file__)):
    del sys.path[0]

from edged.cli import main  # noqa: E402

sys.exit(main())
