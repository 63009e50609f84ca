"""Callables for `edged-export torch`: small modules, and architectures with random weights."""

from __future__ import annotations

import torch
from torch import nn


class Pictures(nn.Module):
    """A transformers model as a function of the image alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(pixel_values=image).logits
        return logits


def tiny(example_rows: int = 1) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(8 * 36, 4),
    )  # fmt: skip
    return module, torch.randn(example_rows, 3, 8, 8)


class Two(nn.Module):
    """Two inputs, and outputs with names."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        both = self.left(left) + self.right(right)
        return {"sum": both, "best": both.argmax(dim=1)}


def two() -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    return Two(), (torch.randn(2, 4), torch.randn(2, 5))


def nothing() -> None:
    pass


def resnet18(*tuned: int) -> tuple[nn.Module, torch.Tensor]:
    """A ResNet-18. The stages `tuned` (1 to 4; 0 is the head) differ from the plain network's."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(
        depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic", num_labels=10
    )
    model = ResNetForImageClassification(config)
    _tune([model.classifier, *model.resnet.encoder.stages], tuned)
    return Pictures(model), torch.randn(2, 3, 64, 64)


def swin(*tuned: int) -> tuple[nn.Module, torch.Tensor]:
    """A Swin transformer v2 of three stages; `tuned` as for the ResNet."""
    from transformers import Swinv2Config, Swinv2ForImageClassification

    torch.manual_seed(0)
    config = Swinv2Config(
        image_size=64, patch_size=4, embed_dim=24, depths=[2, 2, 2], num_heads=[2, 4, 8],
        window_size=4, num_labels=10,
    )  # fmt: skip
    model = Swinv2ForImageClassification(config)
    _tune([model.classifier, *model.swinv2.encoder.layers], tuned)
    return Pictures(model), torch.randn(2, 3, 64, 64)


def vit(*tuned: int) -> tuple[nn.Module, torch.Tensor]:
    """A small ViT of four layers; `tuned` as for the ResNet."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=128,
        image_size=64, patch_size=16, num_labels=10,
    )  # fmt: skip
    model = ViTForImageClassification(config)
    stack = getattr(model.vit, "layers", None) or model.vit.encoder.layer
    _tune([model.classifier, *stack], tuned)
    return Pictures(model), torch.randn(2, 3, 64, 64)


def _tune(stages: list[nn.Module], tuned: tuple[int, ...]) -> None:
    """Change every weight a little, differently each time, as further training would."""
    torch.manual_seed(1 + sum(10**stage for stage in tuned))
    with torch.no_grad():
        for stage in tuned:
            for parameter in stages[stage].parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
