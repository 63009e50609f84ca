"""The canonical form of layers and blocks: equal content gives equal bytes, whatever its names.

A layer is a piece of a graph that is never cut further, known by the digest of its operators,
attributes, topology, weights and the types at its border. The digest does not depend on names, on
the order of operators that do not depend on each other, on defaults that are spelt out, and on the
opset where the operators mean the same. A block is a run of layers as one ONNX file that says where
its layers end, so that it can be split.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from onnx import numpy_helper as arrays

from edged.errors import StoreError
from export.graph import OLDEST_OPSET, ir_version_of, named

_FORM = 1  # version of the canonical form, part of each digest; raised when the form changes
_LAYERS = "edged.layers"  # metadata of a block: operators, reads and writes of each layer
_ROWS = "rows"


@dataclass(frozen=True, slots=True)
class Type:
    """The type of a tensor at the border of a layer."""

    element: int  # TensorProto.DataType
    shape: tuple[int, ...]  # the row axis is not included
    rows: int | None = None  # None if any number of rows can run


@dataclass(frozen=True, slots=True)
class CanonicalLayer:
    """A layer whose inputs are named x0, x1, ..., other values v0, v1, ..., weights by digest."""

    digest: str
    inputs: tuple[Type, ...]
    outputs: tuple[Type, ...]
    names: tuple[str, ...]  # names of the outputs
    nodes: tuple[NodeProto, ...]
    weights: dict[str, TensorProto]
    opsets: dict[str, int]  # the oldest versions in which the operators mean what they mean here

    @property
    def weight_bytes(self) -> int:
        return sum(len(tensor.raw_data) for tensor in self.weights.values())


@dataclass(frozen=True, slots=True)
class Port:
    """The source of a layer's input in a block: output `index` of `layer`, or the block's input."""

    layer: int | None  # None for an input of the block
    index: int


def make_layer(
    nodes: Sequence[NodeProto],
    weights: Mapping[str, TensorProto],
    inputs: Sequence[tuple[str, Type]],
    outputs: Sequence[tuple[str, Type]],
    opsets: Mapping[str, int],
) -> tuple[CanonicalLayer, tuple[str, ...]]:
    """The canonical layer, and the given names of its outputs in canonical order.

    `nodes` are sorted. `inputs` keep their order, which tells them apart.
    """
    found = _Identities(weights, opsets, [n for n, _ in inputs], {n for n, _ in outputs})
    for node in nodes:
        found.see(node)
    ordered = sorted(outputs, key=lambda output: found.of[output[0]])
    roots = [found.of[name] for name, _ in ordered]
    names = {f"x{i}": f"x{i}" for i in range(len(inputs))}
    body, used = [], dict[str, TensorProto]()
    for key in found.order(roots):
        node = NodeProto()
        node.CopyFrom(found.makers[key])
        for i, name in enumerate(node.input):
            if found.of[name] in found.tensors:
                used[found.of[name]] = found.tensors[found.of[name]]
            node.input[i] = names.get(found.of[name], found.of[name])
        for i, name in enumerate(node.output):
            if name:
                names[f"{key}.{i}"] = node.output[i] = f"v{len(names)}"
        body.append(node)
    border = [[dataclasses.astuple(kind) for _, kind in side] for side in (inputs, ordered)]
    layer = CanonicalLayer(
        digest=_digest([_FORM, border, roots]),
        inputs=tuple(kind for _, kind in inputs),
        outputs=tuple(kind for _, kind in ordered),
        names=tuple(names[root] for root in roots),
        nodes=tuple(body),
        weights=used,
        opsets=found.needed,
    )
    return layer, tuple(name for name, _ in ordered)


def join(
    layers: Sequence[CanonicalLayer], reads: Sequence[Sequence[Port]], writes: Sequence[Port]
) -> bytes:
    """The block that runs `layers` one after the other; x0, x1, ... are its inputs, y0, .. outputs.

    `reads[i][j]` is the source of input j of layer i; inputs of the block are numbered in the order
    of their first use. `writes` are the outputs of layers that leave the block.
    """
    names = {port: f"y{i}" for i, port in enumerate(writes)}
    for i, layer in enumerate(layers):
        for j in range(len(layer.names)):
            names.setdefault(Port(i, j), f"z{i}.{j}")
    writer = _BlockWriter(names)
    for i, (layer, ports) in enumerate(zip(layers, reads, strict=True)):
        writer.add(i, layer, ports)
    return writer.block([names[port] for port in writes])


class _BlockWriter:
    """Collects the layers of a block. `names` are the block's names of its layers' outputs."""

    def __init__(self, names: Mapping[Port, str]) -> None:
        self._names = names
        self._types: dict[str, Type] = {}
        self._weights: dict[str, str] = {}  # names of weights by digest
        self._tensors: list[TensorProto] = []
        self._nodes: list[NodeProto] = []
        self._spans: list[dict[str, object]] = []
        self._opsets: dict[str, int] = {}

    def add(self, i: int, layer: CanonicalLayer, ports: Sequence[Port]) -> None:
        """Append layer i, whose inputs come from `ports`."""
        sources = [f"x{port.index}" if port.layer is None else self._names[port] for port in ports]
        targets = [self._names[Port(i, j)] for j in range(len(layer.names))]
        types = zip([*sources, *targets], [*layer.inputs, *layer.outputs], strict=True)
        self._types |= dict(types)
        rename = {f"x{j}": source for j, source in enumerate(sources)}
        rename |= dict(zip(layer.names, targets, strict=True))
        for digest, tensor in layer.weights.items():
            if digest not in self._weights:
                self._weights[digest] = f"w{len(self._weights)}"
                self._tensors.append(named(tensor, self._weights[digest]))
            rename[digest] = self._weights[digest]
        self._nodes += [
            _renamed(node, rename, prefix=f"n{i}.", name=f"{i}.{k}")
            for k, node in enumerate(layer.nodes)
        ]
        self._spans.append({"operators": len(layer.nodes), "reads": sources, "writes": targets})
        for domain, version in layer.opsets.items():
            self._opsets[domain] = max(version, self._opsets.get(domain, version))

    def block(self, outputs: Sequence[str]) -> bytes:
        """The block's file."""
        types, opsets = self._types, self._opsets
        inputs = sorted((name for name in types if name.startswith("x")), key=lambda x: int(x[1:]))
        graph = helper.make_graph(
            self._nodes,
            "block",
            [_value(name, types[name]) for name in inputs],
            [_value(name, types[name]) for name in outputs],
            self._tensors,
            value_info=[_value(name, kind) for name, kind in types.items() if name.startswith("z")],
        )
        model = helper.make_model(
            graph,
            opset_imports=[
                helper.make_opsetid(domain, opsets[domain]) for domain in sorted(opsets)
            ],
            ir_version=ir_version_of(opsets),
            producer_name="edged",
        )
        helper.set_model_props(model, {_LAYERS: json.dumps(self._spans)})
        data: bytes = model.SerializeToString(deterministic=True)
        return data


def split(data: bytes) -> list[CanonicalLayer]:
    """The layers of a block. Raises StoreError if edged-export did not write it."""
    model = ModelProto.FromString(data)
    props = {entry.key: entry.value for entry in model.metadata_props}
    if _LAYERS not in props:
        raise StoreError("the block does not say where its layers end: export its models again")
    graph = model.graph
    values = {
        value.name: _type(value) for value in (*graph.input, *graph.value_info, *graph.output)
    }
    weights = {tensor.name: tensor for tensor in graph.initializer}
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    layers, start = [], 0
    for span in json.loads(props[_LAYERS]):
        nodes = graph.node[start : start + span["operators"]]
        start += span["operators"]
        reads, writes = ([(name, values[name]) for name in span[s]] for s in ("reads", "writes"))
        layers.append(make_layer(nodes, weights, reads, writes, opsets)[0])
    return layers


class _Identities:
    """Digests of the values of one layer, each made from all that leads to it (a Merkle tree).

    Operators that compute the same from the same inputs become one, unless each makes an output.
    """

    def __init__(
        self,
        weights: Mapping[str, TensorProto],
        opsets: Mapping[str, int],
        inputs: Sequence[str],
        outputs: set[str],
    ) -> None:
        self.of = {name: f"x{i}" for i, name in enumerate(inputs)} | {"": ""}  # given name: digest
        self.makers: dict[str, NodeProto] = {}  # operators by their digest
        self.tensors: dict[str, TensorProto] = {}  # weights by their digest
        self.needed = {"": OLDEST_OPSET}
        self._weights = weights
        self._opsets = opsets
        self._outputs = outputs
        self._ends: set[str] = set()  # digests of operators that make outputs

    def see(self, original: NodeProto) -> None:
        """Add an operator whose inputs are known."""
        node = self._plain(original)
        for name in node.input:
            if name not in self.of:
                tensor = _plain_tensor(self._weights[name])
                self.of[name] = _tensor_digest(tensor)
                self.tensors[self.of[name]] = tensor
        content = [
            node.domain,
            node.op_type,
            self._version(node),
            [a.SerializeToString(deterministic=True).hex() for a in node.attribute],
            [self.of[name] for name in node.input],
            [bool(name) for name in node.output],
        ]
        key = _digest(content)
        if self._outputs & set(node.output):
            while key in self._ends:
                key = _digest([key, "again"])
            self._ends.add(key)
        self.makers.setdefault(key, node)
        self.of |= {name: f"{key}.{i}" for i, name in enumerate(node.output) if name}

    def order(self, roots: Sequence[str]) -> list[str]:
        """Digests of the operators that lead to `roots`, each after the operators that it reads."""
        ordered: dict[str, None] = {}
        stack = [(root, False) for root in reversed(roots)]
        while stack:
            value, ready = stack.pop()
            key = value.partition(".")[0]
            if key not in self.makers or key in ordered:
                continue
            if ready:
                ordered[key] = None
                continue
            stack.append((value, True))
            stack += [(self.of[name], False) for name in reversed(self.makers[key].input)]
        return list(ordered)

    def _version(self, node: NodeProto) -> int:
        """The first version in which the operator means what it means in this opset."""
        opset = self._opsets.get(node.domain, 1)
        schema = _schema(node, opset)
        version = opset if schema is None else schema.since_version
        self.needed[node.domain] = max(version, self.needed.get(node.domain, version))
        return version

    def _plain(self, original: NodeProto) -> NodeProto:
        """The operator without names, documentation, spelt-out defaults and empty last inputs."""
        schema = _schema(original, self._opsets.get(original.domain, 1))
        node = NodeProto(domain=original.domain, op_type=original.op_type)
        node.input.extend(original.input)
        node.output.extend(original.output)
        for names in (node.input, node.output):
            while names and not names[-1]:
                names.pop()
        for attribute in sorted(original.attribute, key=lambda attribute: attribute.name):
            plain = _plain_attribute(attribute)
            if schema is None or plain != _default(schema, plain.name):
                node.attribute.append(plain)
        return node


def _schema(node: NodeProto, opset: int) -> onnx.defs.OpSchema | None:
    if not onnx.defs.has(node.op_type, node.domain):
        return None
    return onnx.defs.get_schema(node.op_type, opset, node.domain)


def _default(schema: onnx.defs.OpSchema, name: str) -> AttributeProto | None:
    known = schema.attributes.get(name)
    return None if known is None else _plain_attribute(known.default_value)


def _plain_attribute(attribute: AttributeProto) -> AttributeProto:
    plain = AttributeProto()
    plain.CopyFrom(attribute)
    plain.ClearField("doc_string")
    if plain.type == AttributeProto.TENSOR:
        plain.t.CopyFrom(_plain_tensor(attribute.t))
    return plain


def _plain_tensor(tensor: TensorProto) -> TensorProto:
    """The tensor without its name, and with its content as little-endian bytes unless strings."""
    if tensor.data_type != TensorProto.STRING and not tensor.HasField("raw_data"):
        return arrays.from_array(arrays.to_array(tensor))
    plain = TensorProto(data_type=tensor.data_type, dims=tensor.dims)
    if tensor.data_type == TensorProto.STRING:
        plain.string_data.extend(tensor.string_data)
    else:
        plain.raw_data = tensor.raw_data
    return plain


def _tensor_digest(tensor: TensorProto) -> str:
    content = hashlib.sha256(tensor.raw_data)
    for text in tensor.string_data:
        content.update(len(text).to_bytes(8, "little") + text)
    return _digest(["tensor", tensor.data_type, list(tensor.dims), content.hexdigest()])


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _renamed(node: NodeProto, names: Mapping[str, str], prefix: str, name: str) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name = name
    for side in (copy.input, copy.output):
        for i, old in enumerate(side):
            if old:
                side[i] = names.get(old, prefix + old)
    return copy


def _value(name: str, kind: Type) -> ValueInfoProto:
    rows = _ROWS if kind.rows is None else kind.rows
    return helper.make_tensor_value_info(name, kind.element, [rows, *kind.shape])


def _type(value: ValueInfoProto) -> Type:
    tensor = value.type.tensor_type
    rows, *shape = tensor.shape.dim
    extents = tuple(dim.dim_value for dim in shape)
    return Type(tensor.elem_type, extents, None if rows.dim_param else rows.dim_value)
