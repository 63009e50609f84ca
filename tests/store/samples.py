"""Small manifests and blocks for the tests of the store; a block here is any bytes."""

from __future__ import annotations

from edged.manifest import SCHEMA, Layer, Manifest, PathStep, Value
from edged.store import SCHEMA as STORE_SCHEMA
from edged.store import Store
from edged.store_blocks import split


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
    """The id of a block in a store of the newest schema."""
    return split(data, STORE_SCHEMA).block


def with_weight(content: bytes) -> bytes:
    """The least that an ONNX file with one weight can be, as long as nobody runs it."""

    def field(number: int, data: bytes) -> bytes:
        size = len(data)
        return bytes([number << 3 | 2, size & 127 | 128, size >> 7 & 127 | 128, size >> 14]) + data

    model_graph, initializer, raw_data = 7, 5, 9  # of onnx.proto
    return b"\x08\x09" + field(model_graph, field(initializer, field(raw_data, content)))


def as_of_schema_1(store: Store) -> Store:
    """An empty store as older versions made it."""
    root = store.path / "store.json"
    root.write_text(root.read_text().replace(f'"schema": {STORE_SCHEMA}', '"schema": 1'))
    (store.path / "blocks" / "tensors").rmdir()
    return store
