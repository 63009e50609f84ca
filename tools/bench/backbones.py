"""Models that the benchmarks serve: a backbone and a random head for each task, and their store.

Weights are random or published, heads are random: times and memory do not depend on their values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edged.manifest import SCHEMA, Manifest, PathStep, Preprocess, Value
from edged.store import Store

if TYPE_CHECKING:
    import torch

CLASSES = 10
NOTHING = "nothing"


def store_of(models: Sequence[Path], folder: Path, preprocess: Preprocess | None = None) -> Path:
    """A store in `folder` with these models; one that is there already is kept."""
    from export.add import add_models
    from export.source import Source

    store = Store(folder).create()
    if not store.names():
        add_models(store, [Source(path.stem, path, preprocess=preprocess) for path in models])
    return folder


def chain_of(name: str, blocks: Sequence[str], shape: tuple[int, ...]) -> Manifest:
    """A model of these blocks one after the other, each from FP32 `shape` to the same shape."""
    values = ["x", *(f"v{i}" for i in range(len(blocks)))]
    return Manifest(
        schema=SCHEMA,
        name=name,
        task=name,
        precision="fp32",
        inputs=("x",),
        outputs=(values[-1],),
        values=tuple(Value(value, "FP32", shape) for value in values),
        steps=tuple(
            PathStep(block, (read,), (write,))
            for block, read, write in zip(blocks, values, values[1:], strict=False)
        ),
        whole_bytes=0,
    )


def whole_models(
    name: str, tasks: int, folder: Path, seed: int, side: int | None = None
) -> list[Path]:
    """Uncut models as ONNX files in `folder`, kept if they are there. `side` in pixels."""
    import onnx
    from onnx import numpy_helper

    paths = [folder / f"task{number}.onnx" for number in range(tasks)]
    if all(path.exists() for path in paths):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    module, example = MODELS[name](seed)
    if side is not None:
        example = example.new_zeros(2, 3, side, side)
    whole = exported(module, example, folder / "whole.onnx")
    (head,) = [w for w in whole.graph.initializer if len(w.dims) == 2 and CLASSES in w.dims]
    for number, path in enumerate(paths):
        random = np.random.default_rng([seed, number])
        weights = random.standard_normal(tuple(head.dims)).astype(np.float32) / 32
        head.CopyFrom(numpy_helper.from_array(weights, head.name))
        onnx.save(whole, path)
    return paths


def exported(module: torch.nn.Module, example: torch.Tensor, path: Path) -> Any:
    """The module as an ONNX model that takes any number of rows."""
    import onnx
    import torch

    rows = torch.export.Dim("rows", min=1, max=64)
    program = torch.onnx.export(
        module.eval(),
        (example,),
        dynamo=True,
        dynamic_shapes=({0: rows},),
        input_names=["x"],
        output_names=["y"],
        verbose=False,
    )
    assert program is not None
    program.save(path, external_data=False)
    return onnx.load(path)


def _swinv2_base(seed: int) -> tuple[torch.nn.Module, torch.Tensor]:
    """Swin Transformer V2, base, window 8, 256 px (arXiv:2111.09883), 87 million random weights."""
    return _swinv2(
        seed,
        image_size=256,
        window_size=8,
        embed_dim=128,
        depths=[2, 2, 18, 2],
        num_heads=[4, 8, 16, 32],
    )


def _swinv2_micro(seed: int) -> tuple[torch.nn.Module, torch.Tensor]:
    """The same network with 32 thousand weights, for trials."""
    return _swinv2(
        seed, image_size=64, window_size=4, embed_dim=16, depths=[1, 2], num_heads=[1, 2]
    )


def _swinv2(seed: int, *, image_size: int, **sizes: Any) -> tuple[torch.nn.Module, torch.Tensor]:
    import torch
    from transformers import Swinv2Config, Swinv2ForImageClassification

    torch.manual_seed(seed)
    config = Swinv2Config(image_size=image_size, **{**sizes, "num_labels": CLASSES})
    example = torch.zeros(2, 3, image_size, image_size)
    return _logits(Swinv2ForImageClassification(config)), example


def _vit_micro(seed: int) -> tuple[torch.nn.Module, torch.Tensor]:
    """A vision transformer (arXiv:2010.11929) of four layers, for trials."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"image_size": 64, "patch_size": 16, "intermediate_size": 128}
    config = ViTConfig(
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        **{**sizes, "num_labels": CLASSES},
    )
    return _logits(ViTForImageClassification(config)), torch.zeros(2, 3, 64, 64)


def _logits(model: torch.nn.Module) -> torch.nn.Module:
    """The model of pictures as one from pixels to a plain tensor."""
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(pixels).logits
            return logits

    return Logits()


def _efficientnet_lite0(seed: int) -> tuple[torch.nn.Module, torch.Tensor]:
    """The backbone of `make demo`."""
    import torch

    from tools.demo.backbone import efficientnet_lite0

    torch.manual_seed(seed)
    module, example = efficientnet_lite0()
    module._fc = torch.nn.Linear(1280, CLASSES)
    return module, example


def _nothing(seed: int) -> tuple[torch.nn.Module, torch.Tensor]:
    """One small layer, so that only the cost of the processes remains."""
    import torch

    torch.manual_seed(seed)
    return torch.nn.Linear(4, CLASSES), torch.zeros(2, 4)


MODELS: dict[str, Callable[[int], tuple[torch.nn.Module, torch.Tensor]]] = {
    "swinv2-base": _swinv2_base,
    "swinv2-micro": _swinv2_micro,
    "vit-micro": _vit_micro,
    "efficientnet-lite0": _efficientnet_lite0,
    NOTHING: _nothing,
}
