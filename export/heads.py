"""Linear heads on frozen features: trained in seconds, a few kilobytes each.

A head is bound to the features that it was trained on by `edged.manifest.features_digest`, which
covers the layers below it, the precision and the preprocessing. A head on other features would
answer with confidence and be wrong, so it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path as File

import msgspec
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edged import manifest as manifests
from edged.errors import InvalidArgument
from edged.manifest import Accuracy, HeadOf, Layer, Value
from edged.store import Store
from export.add import Added, add_drafts
from export.assemble import whole_block
from export.blocks import MIN_BYTES
from export.canonical import CanonicalLayer, Type, make_layer
from export.check import Uncut, feeds
from export.features import Features, Floats, below, compute, images
from export.graph import OLDEST_OPSET, ir_version_of, load
from export.layers import Path, element_type
from export.probe import session
from export.source import ModelDraft
from export.training import C, fit, split

HELD_OUT = 0.3  # share of the images of each class that measures the accuracy

_META = "edged.head"  # metadata of a head's file


class Bound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The metadata of a head's file."""

    features: str  # features_digest of the features that it was trained on
    labels: tuple[str, ...]
    accuracy: Accuracy


@dataclass(frozen=True, slots=True)
class Head:
    """A linear head: logits = features @ weights.T + bias."""

    weights: Floats  # (classes, width)
    bias: Floats  # (classes,)
    bound: Bound


def train_head(
    store: Store,
    model: str,
    task: str,
    data: File,
    *,
    name: str = "",
    test: File | None = None,
    at: str | None = None,
    held_out: float = HELD_OUT,
    seed: int = 0,
    c: float = C,
    save: File | None = None,
    min_bytes: int = MIN_BYTES,
    replace: bool = False,
) -> Added:
    """Train a head for `task` on features of `model`, and add it to the store as a model.

    `data` is a folder of classes. The accuracy is measured on the share `held_out` of each class,
    or on the folder `test`. `save` names a file for the head, which `attach_head` can read.
    Raises InvalidArgument, NotFound or StoreError.
    """
    features = below(store, store.model(model), at)
    head = _train(features, data, test, held_out, seed, c)
    if save is not None:
        save.write_bytes(_encode(head))
    draft = _draft(features, head, task, name or task)
    return add_drafts(store, [draft], min_bytes=min_bytes, replace=replace).added[0]


def attach_head(
    store: Store,
    model: str,
    task: str,
    file: File,
    *,
    name: str = "",
    at: str | None = None,
    min_bytes: int = MIN_BYTES,
    replace: bool = False,
) -> Added:
    """Add a head that `train_head` saved; it is refused if the features are not its own."""
    features = below(store, store.model(model), at)
    head = _decode(file)
    if head.bound.features != _digest(features):
        raise InvalidArgument(
            f"the head in {file} was trained on other features than {features.at.name!r} of model "
            f"{model!r} (other weights, precision or preprocessing): train it again on this model"
        )
    draft = _draft(features, head, task, name or task)
    return add_drafts(store, [draft], min_bytes=min_bytes, replace=replace).added[0]


def _train(
    features: Features, data: File, test: File | None, held_out: float, seed: int, c: float
) -> Head:
    known = images(data)
    values = compute(features, known.files)
    if test is None:
        chosen, rest = split(known.targets, held_out, seed)
        seen, targets = values[rest], known.targets[rest]
        unseen, truth = values[chosen], known.targets[chosen]
        note = f"{held_out:.0%} held out, seed {seed}"
    else:
        other = images(test)
        if unknown := sorted(set(other.classes) - set(known.classes)):
            raise InvalidArgument(f"{test} has the class {unknown[0]!r}, which {data} has not")
        seen, targets = values, known.targets
        unseen = compute(features, other.files)
        truth = np.array([known.classes.index(name) for name in other.classes])[other.targets]
        note = f"test folder {test.name}"
    weights, bias = fit(seen, targets, c)
    accuracy = Accuracy(
        metric="top1",
        value=float(np.mean((unseen @ weights.T + bias).argmax(axis=1) == truth)),
        chance=float(np.bincount(truth).max() / len(truth)),
        images=len(truth),
        note=note,
    )
    return Head(weights, bias, Bound(_digest(features), known.classes, accuracy))


def _draft(features: Features, head: Head, task: str, name: str) -> ModelDraft:
    """The model that runs the features' layers and then the head."""
    base = features.model
    output = _free_name(features.path)
    layer = _layer(features, head)
    path = Path(
        features.path.inputs,
        (output,),
        (
            *features.path.uses,
            Layer(layer.digest, (features.at.name,), (output,), layer.weight_bytes),
        ),
        (*features.path.values, Value(output, "FP32", (len(head.bias),))),
        features.path.layers | {layer.digest: layer},
    )
    manifest = msgspec.structs.replace(
        base,
        name=manifests.check_name(name, "model"),
        task=manifests.check_name(task, "task"),
        inputs=path.inputs,
        outputs=path.outputs,
        values=path.values,
        steps=(),
        whole_bytes=0,
        labels=head.bound.labels,
        accuracy=head.bound.accuracy,
        head_of=HeadOf(base.name, head.bound.features),
        lengths=(),
    )
    whole = whole_block(path)
    uncut = Uncut(
        session(whole.data),
        {name: f"x{i}" for i, name in enumerate(whole.reads)},
        {name: f"y{i}" for i, name in enumerate(whole.writes)},
        base.max_rows,
    )
    return ModelDraft(manifest, path, tuple(map(uncut, feeds(manifest))))


def _layer(features: Features, head: Head) -> CanonicalLayer:
    """The head as the last layer of a model: one Gemm, in float32."""
    at, rows = features.at, _rows(features)
    nodes = [
        helper.make_node("Cast", ["features"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Gemm", ["floats", "weights", "bias"], ["logits"], transB=1),
    ]
    if at.datatype == "FP32":
        nodes = [helper.make_node("Gemm", ["features", "weights", "bias"], ["logits"], transB=1)]
    weights = {
        "weights": numpy_helper.from_array(head.weights),
        "bias": numpy_helper.from_array(head.bias),
    }
    reads = [("features", Type(element_type(at.datatype), at.shape, rows))]
    writes = [("logits", Type(TensorProto.FLOAT, head.bias.shape, rows))]
    return make_layer(nodes, weights, reads, writes, {"": OLDEST_OPSET})[0]


def _rows(features: Features) -> int | None:
    """The rows that the block below can run; its model may be limited to fewer."""
    name, path = features.at.name, features.path
    (below,) = [use for use in path.uses if name in use.writes]
    return path.layers[below.digest].outputs[below.writes.index(name)].rows


def _free_name(path: Path) -> str:
    taken = {value.name for value in path.values}
    name = "logits"
    while name in taken:
        name += "_"
    return name


def _digest(features: Features) -> str:
    return manifests.features_digest(features.model, features.at.name)


def _encode(head: Head) -> bytes:
    """The head as an ONNX file: the two arrays, and `bound` as metadata."""
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["features", "weights", "bias"], ["logits"], transB=1)],
        "head",
        [
            helper.make_tensor_value_info(
                "features", TensorProto.FLOAT, ["rows", head.weights.shape[1]]
            )
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", len(head.bias)])],
        [
            numpy_helper.from_array(head.weights, "weights"),
            numpy_helper.from_array(head.bias, "bias"),
        ],
    )
    opsets = {"": OLDEST_OPSET}
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(*entry) for entry in opsets.items()],
        ir_version=ir_version_of(opsets),
    )
    helper.set_model_props(model, {_META: msgspec.json.encode(head.bound).decode()})
    data: bytes = model.SerializeToString()
    return data


def _decode(file: File) -> Head:
    """The head in a file. Raises NotFound or InvalidArgument."""
    model = load(file).model
    props = {entry.key: entry.value for entry in model.metadata_props}
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    try:
        bound = msgspec.json.decode(props[_META], type=Bound)
        return Head(arrays["weights"], arrays["bias"], bound)
    except (KeyError, msgspec.DecodeError) as error:
        raise InvalidArgument(
            f"{file} does not say what it was trained on: give a head that `edged-export head "
            "--save` wrote"
        ) from error
