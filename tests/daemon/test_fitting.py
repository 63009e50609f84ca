"""What a request brings and asks for is checked against its models before it is admitted."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from edged import wire
from edged.daemon.models.catalog import Catalog
from edged.errors import InvalidArgument
from edged.manifest import Manifest, Value
from tests.daemon.samples import manifest


def model(
    name: str = "signal",
    *,
    output: tuple[int, ...] = (2,),
    inputs: tuple[str, ...] = ("image",),
) -> Manifest:
    """A model whose first output is [rows, *output], with inputs of these names."""
    made = manifest(name, images=False)
    values = [
        *(Value(input, "FP32", (3, 8, 8)) for input in inputs),
        *(v for v in made.values if v.name not in ("image", "logits")),
        Value("logits", "FP32", output),
    ]
    first, *rest = made.steps
    labels = made.labels if output[-1:] == (2,) else ()
    return replace(
        made,
        inputs=inputs,
        values=tuple(values),
        steps=(replace(first, reads=inputs), *rest),
        labels=labels,
    )


def resolve(*models: Manifest, inputs: tuple[str, ...] = ("image",), **how: object) -> object:
    parameters = wire.OutputParameters(**how)  # type: ignore[arg-type]
    served = Catalog(
        {m.name: m for m in models},
        {step.block: 1 for m in models for step in m.steps},
        {m.name: m.name for m in models},
    )
    tensors = tuple(wire.InputTensor(name, "FP32", (1, 3, 8, 8)) for name in inputs)
    asked = tuple(wire.RequestedOutput(m.task, parameters) for m in models)
    return served.resolve(tensors, asked)


@pytest.mark.parametrize("output", [(), (2, 2), (100, 6), (21, 64, 64)])
def test_classes_are_only_asked_of_an_output_of_classes(output: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgument, match=r"'signal' has logits FP32 \[rows.*without class"):
        resolve(model(output=output), classification=1)
    assert resolve(model(output=output))


def test_one_task_without_classes_refuses_the_request_that_asks_for_them() -> None:
    with pytest.raises(InvalidArgument, match="'boxes'"):
        resolve(model(), model("boxes", output=(100, 6)), classification=1)
    assert resolve(model(), classification=1)


@pytest.mark.parametrize("output", [(), (0,), (2, 0)])
def test_softmax_never_goes_over_the_rows(output: tuple[int, ...]) -> None:
    """Over the last axis of [rows] it would mix the answers of one batch."""
    with pytest.raises(InvalidArgument, match="softmax"):
        resolve(model(output=output), softmax=True)


def test_softmax_goes_over_the_last_of_several_axes() -> None:
    assert resolve(model(output=(100, 6)), softmax=True)


def test_an_input_that_no_model_has_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"input 'z' .* image FP32 \[rows, 3, 8, 8\]"):
        resolve(model(), inputs=("image", "z"))
    both = model(inputs=("left", "right"))
    with pytest.raises(InvalidArgument, match="input 'z'"):
        resolve(both, inputs=("left", "z", "right"))
    assert resolve(both, inputs=("left", "right"))


def test_each_input_may_be_of_another_model() -> None:
    assert resolve(model(), model("sound", inputs=("wave",)), inputs=("image", "wave"))


def test_the_name_of_a_single_input_is_not_looked_at() -> None:
    assert resolve(model(), inputs=("whatever",))
