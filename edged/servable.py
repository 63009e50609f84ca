"""Whether models can be served, judged by their manifests. Pure.

All such checks are here. The daemon makes them at the start and at each reload, and lists the
models that cannot be served with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping

from edged.errors import StoreError
from edged.manifest import Manifest
from edged.paths.layout import Tensor
from edged.paths.trie import Trie

_MAX_ROW_BYTES = 1 << 30  # limit for one row of an input, far above what a message can carry
_MAX_VALUE_BYTES = 1 << 32  # limit for one row of any value


def check_servable(manifest: Manifest) -> None:
    """Raise StoreError if a manifest describes an impossible model."""
    _check_inputs(manifest)
    _check_values(manifest)
    _check_preprocess(manifest)
    _check_labels(manifest)


def conflicting(manifests: Mapping[str, Manifest]) -> dict[str, StoreError]:
    """Models that cannot be served together with those before them, and the reason."""
    bad: dict[str, StoreError] = {}
    try:
        Trie(manifests)
    except StoreError:
        good: dict[str, Manifest] = {}
        for name, manifest in manifests.items():
            try:
                Trie({**good, name: manifest})
            except StoreError as error:
                bad[name] = error
            else:
                good[name] = manifest
    return bad


def _check_inputs(manifest: Manifest) -> None:
    for value in map(manifest.value, manifest.inputs):
        row_bytes = Tensor(value.datatype, value.shape).row_bytes
        if not 0 < row_bytes <= _MAX_ROW_BYTES:
            raise StoreError(
                f"model {manifest.name!r} has an input {value.name!r} of {list(value.shape)}, "
                f"{row_bytes} bytes a row, which nothing can be sent for; export it again"
            )


def _check_values(manifest: Manifest) -> None:
    """No honest value is larger; one that is would leave no memory for all other models."""
    for value in manifest.values:
        if Tensor(value.datatype, value.shape).row_bytes > _MAX_VALUE_BYTES:
            raise StoreError(
                f"model {manifest.name!r} has a value {value.name!r} of {list(value.shape)}, which "
                "no memory holds; export it again"
            )


def _check_preprocess(manifest: Manifest) -> None:
    spec = manifest.preprocess
    if spec is None:
        return
    if not all(0 <= level <= 255 for level in spec.border) or 0.0 in spec.std:
        raise StoreError(
            f"model {manifest.name!r} has a preprocessing with a border beyond 0 to 255, or a std "
            "of 0; export it again"
        )
    inputs = [manifest.value(value) for value in manifest.inputs]
    if [(v.datatype, v.shape) for v in inputs] != [(spec.datatype, spec.shape)]:
        raise StoreError(
            f"model {manifest.name!r} has a preprocessing that makes {spec.datatype} "
            f"{list(spec.shape)}, which is not its input; export it again"
        )


def _check_labels(manifest: Manifest) -> None:
    first = manifest.value(manifest.outputs[0])
    if manifest.labels and (not first.shape or first.shape[-1] != len(manifest.labels)):
        raise StoreError(
            f"model {manifest.name!r} has {len(manifest.labels)} labels for an output of shape "
            f"{list(first.shape)}; export it again"
        )
