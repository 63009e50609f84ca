"""Whether a model can be served, as far as its manifest says. Pure.

One place for all such checks: whoever serves models looks here first, at the start and at each
reload, and lists those that cannot be served with the reason.
"""

from __future__ import annotations

from edged.errors import StoreError
from edged.manifest import Manifest


def check_servable(manifest: Manifest) -> None:
    """Raise StoreError where a model says of itself what cannot be."""
    _check_preprocess(manifest)
    _check_labels(manifest)


def _check_preprocess(manifest: Manifest) -> None:
    spec = manifest.preprocess
    if spec is None:
        return
    plane = (spec.height, spec.width)
    shape = (3, *plane) if spec.layout == "NCHW" else (*plane, 3)
    inputs = [manifest.value(value) for value in manifest.inputs]
    if [(v.datatype, v.shape) for v in inputs] != [("FP32", shape)]:
        raise StoreError(
            f"model {manifest.name!r} has a preprocessing that makes FP32 {list(shape)}, which is "
            "not its input; export it again"
        )


def _check_labels(manifest: Manifest) -> None:
    first = manifest.value(manifest.outputs[0])
    if manifest.labels and (not first.shape or first.shape[-1] != len(manifest.labels)):
        raise StoreError(
            f"model {manifest.name!r} has {len(manifest.labels)} labels for an output of shape "
            f"{list(first.shape)}; export it again"
        )
