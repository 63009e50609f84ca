"""Small manifests and blocks for the tests of the store; a block here is any bytes."""

from __future__ import annotations

import hashlib

from edged.manifest import SCHEMA, Layer, Manifest, PathStep, Value


def model(name: str, *blocks: bytes, labels: tuple[str, ...] = ()) -> Manifest:
    """A chain of `blocks`, each of which is its own only layer."""
    names = ["x", *(f"v{i}" for i in range(len(blocks)))]
    steps = tuple(
        PathStep(id, (read,), (write,), (Layer(id, (read,), (write,), 0),))
        for id, read, write in zip(map(block_id, blocks), names, names[1:], strict=False)
    )
    return Manifest(
        schema=SCHEMA,
        name=name,
        task=name,
        precision="fp32",
        inputs=("x",),
        outputs=(names[-1],),
        values=tuple(Value(value, "FP32", (4,)) for value in names),
        steps=steps,
        whole_bytes=sum(map(len, blocks)),
        labels=labels,
    )


def block_id(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
