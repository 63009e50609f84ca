"""msgspec's descriptions of types, made when a module is imported.

msgspec describes a type when a value of it is first read, and other threads see the description
before it is complete: two threads that first read the same type together end the process with
SIGSEGV (seen with msgspec 0.22). So each module that defines types for `decode`, `convert` or a
`Decoder` has them described at its end. One thread imports a module, under the import lock.
`tests/test_typeinfo.py` finds a type that was forgotten. Writing a value needs no description.
"""

from __future__ import annotations

from typing import Any

import msgspec


def describe(*types: Any) -> None:
    """Have msgspec describe these types, and those that they are made of, now."""
    for read in types:
        msgspec.msgpack.Decoder(read)
