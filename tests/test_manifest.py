"""What a manifest says of outputs of free length, and of whole numbers for trials."""

from __future__ import annotations

import msgspec
import pytest

from edged import manifest as manifests
from edged.errors import StoreError
from edged.manifest import FreeLength, Manifest, NumberSpan, PathStep, Value

LENGTH = FreeLength("boxes", (0,), "boxes.length")


def detector(**changes: object) -> Manifest:
    made = Manifest(
        schema=manifests.SCHEMA,
        name="m",
        task="m",
        precision="fp32",
        inputs=("x",),
        outputs=("boxes", "boxes.length"),
        values=(
            Value("x", "FP32", (3, 8, 8)),
            Value("boxes", "FP32", (300, 4)),
            Value("boxes.length", "INT64", (1,)),
        ),
        steps=(PathStep("0" * 64, ("x",), ("boxes", "boxes.length")),),
        whole_bytes=10,
        max_rows=1,
        lengths=(LENGTH,),
        spans=(NumberSpan("x", 1, 2),),
    )
    return msgspec.structs.replace(made, **changes)


def test_what_clients_get_of_an_output_of_free_length() -> None:
    model = manifests.decode(manifests.encode(detector()))
    assert model == detector()
    assert model.answers == ("boxes",)
    assert model.client_shape("boxes") == (-1, 4)
    assert model.client_shape("x") == (3, 8, 8)
    assert (model.span("x"), model.span("y")) == ((1, 2), None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"max_rows": None}, "which needs max_rows 1"),
        ({"lengths": (FreeLength("x", (0,), "boxes.length"),)}, "told by no output that fits"),
        ({"lengths": (FreeLength("boxes", (2,), "boxes.length"),)}, "told by no output that fits"),
        ({"lengths": (FreeLength("boxes", (), "boxes.length"),)}, "told by no output that fits"),
        ({"lengths": (FreeLength("boxes", (0, 1), "boxes.length"),)}, "told by no output"),
        ({"lengths": (FreeLength("boxes", (0,), "boxes"),)}, "told by no output that fits"),
        ({"lengths": (FreeLength("nose", (0,), "boxes.length"),)}, "contradicts itself|told by no"),
    ],
)
def test_a_length_that_nothing_tells_is_refused(changes: dict[str, object], says: str) -> None:
    data = msgspec.json.encode(detector(**changes))
    with pytest.raises(StoreError, match=says):
        manifests.decode(data)
