"""What the daemon can be asked for: tasks, the models that serve them, and what a request needs.

Pure: made once of the manifests of a store. Does not know which models are loaded.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from edged import manifest as manifests
from edged.core.events import Part
from edged.daemon.models.fitting import check_inputs, check_output, check_rows, signature
from edged.daemon.models.held_store import Unusable, no_model_left
from edged.device.inputs import preparations
from edged.errors import InvalidArgument, NotFound, StoreError
from edged.link import messages as link
from edged.manifest import Manifest
from edged.wire import (
    InputTensor,
    ModelIndex,
    ModelMetadataReply,
    RequestedOutput,
    TensorMetadata,
)

_RESOLVED = 1024  # kinds of requests whose needs are remembered
NOT_LOADED = "unloaded by an administrator; to take that back: edged load"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A requested output: the task, and the model that is to do it."""

    task: str
    model: str
    key: str  # scheduler and worker know the model's version by this name


@dataclass(frozen=True, slots=True)
class Resolved:
    """An INFER request in the daemon's own terms."""

    rows: int
    staging_rows: int
    parts: tuple[Part, ...]  # the scheduler's: models by their first block
    inputs: tuple[link.Input, ...]  # the worker's
    asks: tuple[link.Ask, ...]
    outputs: tuple[Wanted, ...]  # ordered as in the request


class Catalog:
    """Tasks and models by name; they stay as they are."""

    def __init__(
        self,
        manifests: Mapping[str, Manifest],
        block_bytes: Mapping[str, int],
        keys: Mapping[str, str],
        unusable: Mapping[str, Unusable] | None = None,
    ) -> None:
        """`keys` of the versions that `manifests` are, both by name of the model; `unusable`: other
        models of the store, which are listed with the reason and not served.

        Raises NotFound where there is no model at all, StoreError where none can be served.
        """
        self._unusable = dict(unusable or {})
        if not manifests and not self._unusable:
            raise NotFound("the store holds no model; add one with edged-export")
        if not manifests:
            raise no_model_left({name: model.reason for name, model in self._unusable.items()})
        self.models = dict(manifests)
        self._block_bytes = dict(block_bytes)  # bytes of each block's file
        self._keys = dict(keys)
        self.tasks: dict[str, list[str]] = {}  # models of each task, the default one first
        known = [m.manifest for m in self._unusable.values() if m.manifest is not None]
        for manifest in sorted([*manifests.values(), *known], key=_preference):
            self.tasks.setdefault(manifest.task, []).append(manifest.name)
        self._users = Counter(
            block for m in manifests.values() for block in {step.block for step in m.steps}
        )
        # What the inputs and outputs of an INFER need: a camera asks for the same in the same
        # shape, again and again. Raises NotFound, InvalidArgument, or StoreError for a model that
        # cannot be served.
        self.resolve = lru_cache(_RESOLVED)(self._resolve)

    def preferred(self) -> tuple[str, ...]:
        """All models that can be served; the default one of each task before the others."""
        ranked = sorted(
            served for of in self.tasks.values() if (served := [m for m in of if m in self.models])
        )
        first = [models[0] for models in ranked]
        return (*first, *(model for models in ranked for model in models[1:]))

    def group(self, model: str) -> str:
        """The block that the model begins with: rows of one group can share a batch."""
        return self.models[model].steps[0].block

    def find(self, name: str) -> Manifest:
        """The model called `name`, or the default model of the task called so.

        Raises NotFound, or StoreError for one that cannot be served.
        """
        model = self.tasks[name][0] if name in self.tasks else name
        self._check_usable(model)
        if model in self.models:
            return self.models[model]
        raise NotFound(f"no task or model {name!r} is served here; there are {_listed(self.tasks)}")

    def _resolve(
        self, tensors: tuple[InputTensor, ...], asked: tuple[RequestedOutput, ...]
    ) -> Resolved:
        rows = tensors[0].shape[0]
        outputs = tuple(map(self._choose, asked))
        manifests = [self.models[wanted.model] for wanted in outputs]
        if len({wanted.model for wanted in outputs}) < len(outputs):
            raise InvalidArgument("two outputs ask for the same model: ask for it once")
        inputs = _inputs(tensors, manifests)
        check_inputs(tensors, manifests)
        for manifest, output in zip(manifests, asked, strict=True):
            check_output(manifest, output.parameters)
            check_rows(manifest, rows)
            if inputs[0].kind != "tensor" and manifest.preprocess is None:
                raise InvalidArgument(
                    f"task {manifest.task!r} takes no images, only tensors: "
                    f"{signature(manifest, manifest.inputs)}"
                )
        groups: dict[tuple[str, bool], list[str]] = {}
        for manifest in manifests:
            key = (self.group(manifest.name), manifest.rows_at_once is not None)
            groups.setdefault(key, []).append(self._keys[manifest.name])
        images = inputs[0].kind != "tensor"
        return Resolved(
            rows=rows,
            staging_rows=rows * len(preparations(manifests, images=images)),
            parts=tuple(
                Part(group, tuple(names), alone) for (group, alone), names in groups.items()
            ),
            inputs=inputs,
            asks=tuple(
                link.Ask(wanted.key, output.parameters.classification, output.parameters.softmax)
                for wanted, output in zip(outputs, asked, strict=True)
            ),
            outputs=outputs,
        )

    def metadata(self, name: str, id: str) -> ModelMetadataReply:
        """The reply to MODEL_METADATA."""
        manifest = self.find(name)

        def tensors(names: tuple[str, ...]) -> tuple[TensorMetadata, ...]:
            values = [manifest.value(value) for value in names]
            return tuple(
                TensorMetadata(v.name, v.datatype, (-1, *manifest.client_shape(v.name)))
                for v in values
            )

        return ModelMetadataReply(
            id=id,
            name=manifest.name,
            task=manifest.task,
            platform="onnx_onnxv1",
            inputs=tensors(manifest.inputs),
            outputs=tensors(manifest.answers),
            max_rows=manifest.rows_at_once,
            labels=manifest.labels,
            preprocess=_plain(manifest.preprocess),
            accuracy=_plain(manifest.accuracy),
        )

    def index(
        self,
        state: str,
        reason: str,
        idle: Mapping[str, str] | None = None,
        pinned: Collection[str] = (),
    ) -> tuple[ModelIndex, ...]:
        """The rows of REPOSITORY_INDEX, by task and preference. `idle`: models that are not served
        at present, and why. The last rows are of models of which nothing but the name is known.
        """
        whys = {**(idle or {}), **{name: m.reason for name, m in self._unusable.items()}}
        rows = [
            self._state(
                self._manifest(model),
                *(("UNAVAILABLE", whys[model]) if model in whys else (state, reason)),
                default=model == models[0],
                pinned=model in pinned,
            )
            for _, models in sorted(self.tasks.items())
            for model in models
        ]
        for name, model in self._unusable.items():
            if model.manifest is None:
                rows.append(ModelIndex(name, "", "UNAVAILABLE", model.reason, default=False))
        return tuple(rows)

    def _manifest(self, name: str) -> Manifest:
        unusable = self._unusable.get(name)
        if unusable is not None and unusable.manifest is not None:
            return unusable.manifest
        return self.models[name]

    def _check_usable(self, model: str) -> None:
        """Raise StoreError for a model that cannot be served."""
        if model in self._unusable:
            raise StoreError(
                f"model {model!r} cannot be served: {self._unusable[model].reason}; when that is "
                "mended, an administrator can: edged reload"
            )

    def _state(
        self, manifest: Manifest, state: str, reason: str, *, default: bool, pinned: bool
    ) -> ModelIndex:
        blocks = {step.block for step in manifest.steps}
        return ModelIndex(
            name=manifest.name,
            task=manifest.task,
            state=state,
            reason=reason,
            default=default,
            pinned=pinned,
            precision=manifest.precision,
            version=version_of(manifest),
            total_bytes=(
                sum(self._block_bytes[b] for b in blocks)
                if blocks <= self._block_bytes.keys()
                else None
            ),
            shared_bytes=sum(self._block_bytes.get(b, 0) for b in blocks if self._users[b] > 1),
        )

    def _choose(self, output: RequestedOutput) -> Wanted:
        models = self.tasks.get(output.name)
        if models is None:
            self._check_usable(output.name)
            raise NotFound(
                f"no task {output.name!r} is served here; there are {_listed(self.tasks)}"
            )
        model = output.parameters.model or models[0]
        if model not in models:
            raise NotFound(f"task {output.name!r} has no model {model!r}, only {_listed(models)}")
        self._check_usable(model)
        return Wanted(output.name, model, self._keys[model])


def version_of(manifest: Manifest) -> str:
    """What people see of a version: the beginning of the manifest's digest in the store."""
    return hashlib.sha256(manifests.encode(manifest)).hexdigest()[:12]


def _preference(manifest: Manifest) -> tuple[float, str]:
    """The most accurate model of a task is its default; without figures the first by name."""
    return (-(manifest.accuracy.value if manifest.accuracy else 0.0), manifest.name)


def _inputs(tensors: tuple[InputTensor, ...], manifests: list[Manifest]) -> tuple[link.Input, ...]:
    """Say of each input whether it holds files, pixels or a model's own tensor."""
    images = all(manifest.preprocess is not None for manifest in manifests)
    converted = []
    for tensor in tensors:
        if tensor.datatype == "BYTES":
            converted.append(link.Input(tensor.name, "encoded", "UINT8", tensor.shape))
        elif images and _are_pixels(tensor, manifests):
            converted.append(link.Input(tensor.name, "pixels", "UINT8", tensor.shape))
        else:
            converted.append(link.Input(tensor.name, "tensor", tensor.datatype, tensor.shape))
    if len(converted) > 1 and any(item.kind != "tensor" for item in converted):
        raise InvalidArgument("images must be the only input: stack them as rows of one input")
    return tuple(converted)


def _are_pixels(tensor: InputTensor, manifests: list[Manifest]) -> bool:
    """Whether a tensor for models that take images holds decoded ones.

    A model's own input may be bytes as well. It goes by the model's name for it, but a client that
    names no input calls its images "image".
    """
    if tensor.datatype != "UINT8" or len(tensor.shape) != 4:
        return False
    own = all(
        tensor.name == manifest.inputs[0]
        and manifest.value(manifest.inputs[0]).datatype == "UINT8"
        and manifest.value(manifest.inputs[0]).shape == tensor.shape[1:]
        for manifest in manifests
    )
    return not own or (tensor.name == "image" and tensor.shape[3] == 3)


def _listed(names: Mapping[str, object] | list[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:10]) + (f" and {len(shown) - 10} more" if len(shown) > 10 else "")


def _plain(value: msgspec.Struct | None) -> dict[str, object] | None:
    """A struct as plain data; None stays None."""
    plain: dict[str, object] | None = msgspec.to_builtins(value)
    return plain
