"""A block's ONNX file as a torch module: its nodes in their order, its constants as buffers.

Shapes are computed in host memory, so that nothing waits for the device to learn an extent. Values
that depend on constants alone are computed once, when the module is made. Weights that lie in files
of their own are mapped, not read. Knows no backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

import onnx
import onnx.inliner
import torch
from onnx.external_data_helper import uses_external_data
from torch import Tensor

from edged.backends.signature import Arg
from edged.backends.torch_operators import HOST, OPERATORS
from edged.backends.torch_values import Operator, constant, place_of
from edged.errors import StoreError, Unsupported
from edged.manifest import DataType

_OLDEST_OPSET = 13
_DATATYPES: dict[int, DataType] = {
    onnx.TensorProto.BOOL: "BOOL", onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.UINT16: "UINT16", onnx.TensorProto.UINT32: "UINT32",
    onnx.TensorProto.UINT64: "UINT64", onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.INT16: "INT16", onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT64: "INT64", onnx.TensorProto.FLOAT16: "FP16",
    onnx.TensorProto.FLOAT: "FP32", onnx.TensorProto.DOUBLE: "FP64",
}  # fmt: skip
Weights: TypeAlias = "WeakValueDictionary[str, Tensor]"
"""Weights on the device by where they lie in the store, as long as a block has them."""

_ABSENT = "absent_input"  # stands for an optional input that a node does not have
_PRODUCTS = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))  # in float16, if asked for


@dataclass(frozen=True, slots=True)
class _Node:
    """One operator on named values."""

    kind: str
    operator: Operator
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, inputs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        result = self.operator(self.attributes, *inputs)
        return result if isinstance(result, tuple) else (result,)


@dataclass(frozen=True, slots=True)
class _Step:
    """A node whose constants have a place."""

    node: _Node
    inputs: tuple[str, ...]
    moved: frozenset[int]  # positions of inputs that must be copied to the device
    last_used: tuple[str, ...]  # values that no later node needs


class TorchGraph(torch.nn.Module):
    """A block as a module: called with its inputs in order, it returns its outputs in order."""

    def __init__(
        self,
        model: onnx.ModelProto,
        device: torch.device,
        *,
        half: bool = False,
        folder: Path | None = None,
    ) -> None:
        """`half`: products and convolutions in float16, the rest as torch.autocast decides.
        `folder`: of the file that the model was read from, for this alone. Weights may lie there
        instead of in the model, and those in the model are given up.

        Raises Unsupported for an operator or an opset that has no functions here.
        """
        super().__init__()
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        _check_opsets(model)
        self._device = device
        self._half = half
        # Copies on the device of values that were computed on the host.
        self._copies: dict[tuple[torch.dtype, torch.Size, bytes], Tensor] = {}
        self._to_upload: list[str] = []  # names of buffers
        self._keys: dict[tuple[str, bool], str] = {}  # buffer by constant, and whether on the host
        self.args = (
            [_arg(value) for value in model.graph.input],
            [_arg(value) for value in model.graph.output],
        )
        self._apart: dict[str, str] = {}  # where weights lie that have a file, by name
        self._places: dict[str, str] = {}  # the same by buffer
        constants = self._constants(model, folder)
        nodes = _fold([_node(proto) for proto in model.graph.node], constants)
        self._steps = self._place(nodes, constants)

    def _constants(self, model: onnx.ModelProto, folder: Path | None) -> dict[str, Tensor]:
        found = {}
        for proto in model.graph.initializer:
            found[proto.name] = constant(proto, folder)
            if uses_external_data(proto):
                self._apart[proto.name] = place_of(proto)
            elif folder is not None:
                proto.ClearField("raw_data")  # or all weights would be there twice
        return found

    def upload(
        self, copy: Callable[[Sequence[Tensor]], Sequence[Tensor]], weights: Weights
    ) -> dict[str, int]:
        """Bring the constants to the device by `copy`. Call it once, before the first run.

        What another block has brought is in `weights` and is not brought again. Returns the bytes
        of each weight that blocks may share.
        """
        found = {key: weights.get(self._places.get(key, "")) for key in self._to_upload}
        missing = {
            key: value
            for key in self._to_upload
            if found[key] is None and (value := self._buffers[key]) is not None
        }
        found.update(zip(missing, copy([*missing.values()]), strict=True))
        self._buffers.update(found)
        shared = {}
        for key, place in self._places.items():
            value = found.get(key)
            if value is not None:
                weights[place] = value
                shared[place] = value.nbytes
        return shared

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if not self._half:
            return self._computed(inputs)
        with torch.autocast(self._device.type, torch.float16, cache_enabled=False):
            return self._computed(inputs)

    def _computed(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        names = (arg.name for arg in self.args[0])
        values: dict[str, Tensor | None] = dict(zip(names, inputs, strict=True))
        constants = self._buffers
        for step in self._steps:
            found = [values[name] if name in values else constants[name] for name in step.inputs]
            for position in step.moved:
                host = found[position]
                assert host is not None
                found[position] = self._on_device(host)
            values.update(zip(step.node.outputs, step.node.run(found), strict=False))
            for name in step.last_used:
                del values[name]
        outputs = [values[name] if name in values else constants[name] for name in self._results]
        return tuple(
            self._on_device(output) if name in self._from_host else output
            for name, output in zip(self._results, outputs, strict=True)
            if output is not None
        )

    def _on_device(self, host: Tensor) -> Tensor:
        """A copy on the device of a value that was computed on the host, made once.

        Such values follow from shapes, so a repeated run finds its copies here: a copy from the
        host could not be part of a CUDA graph.
        """
        key = host.dtype, host.shape, host.reshape(-1).view(torch.uint8).numpy().tobytes()
        copy = self._copies.get(key)
        if copy is None:
            copy = self._copies[key] = host.to(self._device)
        return copy

    def _place(self, nodes: Sequence[_Node], constants: Mapping[str, Tensor]) -> list[_Step]:
        """Decide for each value whether it is in host memory, and register constants there."""
        self.register_buffer(_ABSENT, None)
        on_host: set[str] = set()
        steps: list[_Step] = []
        outputs = [arg.name for arg in self.args[1]]
        uses = _last_uses(nodes, keep={*constants, *outputs, _ABSENT})
        if self._half:
            constants = _halved(nodes, constants, outputs)
        for at, node in enumerate(nodes):
            variables = set(node.inputs) - {*constants, _ABSENT}
            is_host = node.kind in ("Shape", "Size") or on_host.issuperset(variables)
            if is_host:
                on_host.update(node.outputs)
            inputs, moved = [], set()
            for position, name in enumerate(node.inputs):
                stays = is_host or position in HOST.get(node.kind, ())
                if name in constants:
                    name = self._constant(name, constants[name], on_host=stays)
                elif name in on_host and not stays:
                    moved.add(position)
                inputs.append(name)
            steps.append(_Step(node, tuple(inputs), frozenset(moved), uses[at]))
        self._from_host = on_host.intersection(outputs)
        self._results = [
            self._constant(name, constants[name], on_host=False) if name in constants else name
            for name in outputs
        ]
        return steps

    def _constant(self, name: str, value: Tensor, *, on_host: bool) -> str:
        key = self._keys.setdefault((name, on_host), f"constant_{len(self._keys)}")
        if key not in self._buffers:
            self.register_buffer(key, value)
            if not on_host:
                self._to_upload.append(key)
                if name in self._apart:  # as it is now: the same weight may be in two precisions
                    self._places[key] = f"{self._apart[name]} {value.dtype} {value.stride()}"
        return key


def load(path: Path, device: torch.device, *, half: bool = False) -> TorchGraph:
    """The module of a block's file, still in host memory.

    Raises StoreError if the file is not ONNX, and Unsupported as TorchGraph does.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except OSError:
        raise
    except Exception as error:  # protobuf has no common type of error
        raise StoreError(f"{path} is not an ONNX file: export its models again") from error
    return TorchGraph(model, device, half=half, folder=path.parent).eval()


def _halved(
    nodes: Sequence[_Node], constants: Mapping[str, Tensor], outputs: Sequence[str]
) -> dict[str, Tensor]:
    """The constants, in float16 those that only products and convolutions read.

    Weights of two-dimensional convolutions with their channels last: what float16 units read.
    """
    others = {name for node in nodes if node.kind not in _PRODUCTS for name in node.inputs}
    weights = {node.inputs[1] for node in nodes if node.kind == "Conv"}
    found = dict(constants)
    for name in {name for node in nodes for name in node.inputs}.difference(others, outputs):
        if name not in constants or constants[name].dtype != torch.float32:
            continue
        found[name] = constants[name].half()
        if name in weights and found[name].dim() == 4:
            found[name] = found[name].contiguous(memory_format=torch.channels_last)
    return found


def _check_opsets(model: onnx.ModelProto) -> None:
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version < _OLDEST_OPSET:
            raise Unsupported(
                f"the block has ONNX opset {opset.version}, the torch backend reads "
                f"{_OLDEST_OPSET} and later: export its model again"
            )


def _node(proto: onnx.NodeProto) -> _Node:
    if proto.domain not in ("", "ai.onnx") or (
        proto.op_type not in OPERATORS and proto.op_type != "Constant"
    ):
        name = f"{proto.domain}.{proto.op_type}".lstrip(".")
        raise Unsupported(
            f"the torch backend has no operator {name}: use backend onnxruntime for this model"
        )
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
    operator = _constant_node if proto.op_type == "Constant" else OPERATORS[proto.op_type]
    inputs = tuple(name or _ABSENT for name in proto.input)
    return _Node(proto.op_type, operator, attributes, inputs, tuple(proto.output))


def _constant_node(attributes: Mapping[str, Any]) -> Tensor:
    (value,) = attributes.values()
    if isinstance(value, onnx.TensorProto):
        return constant(value)
    kind = torch.float32 if "float" in next(iter(attributes)) else torch.int64
    return torch.tensor(value, dtype=kind)


def _arg(value: onnx.ValueInfoProto) -> Arg:
    tensor = value.type.tensor_type
    return Arg(
        value.name,
        _DATATYPES.get(tensor.elem_type),
        tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim),
    )


def _fold(nodes: Iterable[_Node], constants: dict[str, Tensor]) -> list[_Node]:
    """Compute the nodes that depend on constants alone, add their outputs, return the others."""
    left = []
    for node in nodes:
        if all(name in constants or name == _ABSENT for name in node.inputs):
            results = node.run([constants.get(name) for name in node.inputs])
            constants.update(zip(node.outputs, results, strict=False))
        else:
            left.append(node)
    return left


def _last_uses(nodes: Sequence[_Node], *, keep: set[str]) -> list[tuple[str, ...]]:
    """The values that are not needed after each node."""
    last: dict[str, int] = {}
    for at, node in enumerate(nodes):
        last.update(dict.fromkeys((*node.inputs, *node.outputs), at))
    found: list[list[str]] = [[] for _ in nodes]
    for name, at in last.items():
        if name not in keep:
            found[at].append(name)
    return [tuple(names) for names in found]
