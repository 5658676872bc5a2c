"""A small fast convolutional network for laptops.

Seven 3x3 convolutions that leave the expensive resolutions early: 22.1 M multiply-adds
and 1.16 M kernel weights at width 1 for a 32x32 colour image, a 25th of ResNet-18. The
order inside a block (convolution, pooling, normalisation, activation, then the same
without pooling) is that of the CIFAR-10 speed runs (K. Jordan 2024, arXiv 2404.00498).
"""

from functools import partial

import jax
from flax import linen as nn

from ssvi_jax.networks.models.pooling import pool_2x2


class ConvNet(nn.Module):
    """A stem convolution and blocks of two convolutions, all 3x3 with batch norm.

    Attributes:
      widths: channels of the stem, then of each block.
      num_classes: number of logits.
    """

    widths: tuple[int, ...]
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps images ``[batch, h, w, c]`` to logits ``[batch, num_classes]``."""
        blocks = ((width, pool) for width in self.widths[1:] for pool in (True, False))
        layers = ((self.widths[0], True), *blocks)
        conv = partial(nn.Conv, kernel_size=(3, 3), padding=1, use_bias=False)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        for number, (features, pool) in enumerate(layers, start=1):
            x = conv(features, name=f"conv{number}")(x)
            x = pool_2x2(x) if pool else x
            x = nn.relu(norm(name=f"bn{number}")(x))
        return nn.Dense(self.num_classes, name="linear")(x.mean(axis=(1, 2)))


def convnet(num_classes: int, width: float = 1.0) -> ConvNet:
    """Channels 32 (stem), 64, 128 and 256 (blocks), times `width`."""
    widths = tuple(max(1, round(base * width)) for base in (32, 64, 128, 256))
    return ConvNet(widths, num_classes)
