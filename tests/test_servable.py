"""Manifests that describe impossible models."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from edged.errors import StoreError
from edged.manifest import Manifest, Preprocess, Value
from edged.servable import check_servable, conflicting
from tests.daemon.samples import manifest


def with_input(shape: tuple[int, ...]) -> Manifest:
    made = manifest("signal", images=False)
    return replace(made, values=(Value("image", "FP32", shape), *made.values[1:]))


@pytest.mark.parametrize("shape", [(2**40,), (3, 10**5, 10**5), (0,), (3, 0, 8)])
def test_rows_that_nobody_can_send(shape: tuple[int, ...]) -> None:
    with pytest.raises(StoreError, match="nothing can be sent for"):
        check_servable(with_input(shape))
    check_servable(with_input(()))


def test_a_value_that_no_memory_holds() -> None:
    made = manifest("signal", images=False)
    huge = replace(made.values[-1], shape=(2**40, 2**40))
    with pytest.raises(StoreError, match="no memory holds"):
        check_servable(replace(made, values=(*made.values[:-1], huge)))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"preprocess": Preprocess(9, 8)}, "not its input"),
        ({"labels": ("one",)}, "1 labels for an output"),
        ({"preprocess": Preprocess(8, 8, border=(0, 0, 256))}, "border beyond 0 to 255"),
        ({"preprocess": Preprocess(8, 8, std=(1.0, 0.0, 1.0))}, "std of 0"),
    ],
)
def test_what_contradicts_itself(fields: dict[str, Any], says: str) -> None:
    check_servable(manifest("flowers"))
    with pytest.raises(StoreError, match=says):
        check_servable(replace(manifest("flowers"), **fields))


def test_of_models_that_disagree_on_a_block_the_first_is_served() -> None:
    one, two, three = (manifest(name) for name in ("one", "two", "three"))
    changed = tuple(replace(v, shape=(5,)) if v.name == "features" else v for v in two.values)
    two = replace(two, values=changed)
    assert conflicting({"one": one, "three": three}) == {}
    bad = conflicting({"one": one, "two": two, "three": three})
    assert list(bad) == ["two"]
    assert "disagree" in str(bad["two"])
