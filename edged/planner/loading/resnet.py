"""Bytes of each layer of ResNet-18, -34 and -50, bottom to top: the models of the figures.

A layer is a convolution with its batch normalisation, or the classifier; weights are fp32. The
layer sizes are those of He et al., "Deep Residual Learning for Image Recognition" (2016), Table 1.
PartialLoading does not say what it counts as a layer; we count a downsampling convolution as one.
"""

from __future__ import annotations

_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
_FLOAT_BYTES = 4


def layer_bytes(depth: int, classes: int = 10) -> tuple[int, ...]:
    """Bytes of each layer of the ResNet of that depth (18, 34 or 50)."""
    bottleneck = depth == 50
    layers = [_convolution(3, 64, 7)]
    channels = 64
    for stage, blocks in enumerate(_STAGES[depth]):
        width = 64 * 2**stage
        out = 4 * width if bottleneck else width
        for block in range(blocks):
            if bottleneck:
                layers.append(_convolution(channels, width, 1))
                layers.append(_convolution(width, width, 3))
                layers.append(_convolution(width, out, 1))
            else:
                layers.append(_convolution(channels, width, 3))
                layers.append(_convolution(width, width, 3))
            if block == 0 and channels != out:
                layers.append(_convolution(channels, out, 1))
            channels = out
    layers.append((channels + 1) * classes * _FLOAT_BYTES)
    return tuple(layers)


def _convolution(channels_in: int, channels_out: int, kernel: int) -> int:
    """Bytes of the weights, and of scale, shift, mean and variance of the batch normalisation."""
    return (channels_in * kernel**2 + 4) * channels_out * _FLOAT_BYTES
