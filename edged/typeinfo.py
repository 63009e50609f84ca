"""What msgspec knows of the types that values are read as, made before threads can ask for it.

msgspec describes a type when it is first read, and other threads see the description before it is
whole: two that read the same type for the first time together end the process with SIGSEGV (seen
with msgspec 0.22). So each module that defines types which are read, by `decode`, `convert` or a
`Decoder`, has them described at its end: a module is imported by one thread, under the import lock.
`tests/test_typeinfo.py` finds a type that was forgotten. To write a value needs no description.
"""

from __future__ import annotations

from typing import Any

import msgspec


def describe(*types: Any) -> None:
    """Have these types described now, and all that they are made of."""
    for read in types:
        msgspec.msgpack.Decoder(read)
