"""Wide residual networks for CIFAR: few blocks, many channels, activation first.

Source: Zagoruyko and Komodakis 2016, "Wide Residual Networks" (arXiv 1605.07146),
Table 1; without dropout, as in the comparisons of Bayesian networks.
"""

from functools import partial

import jax
from flax import linen as nn

from ssvi_jax.core.errors import InputError


class WideBlock(nn.Module):
    """Twice batch norm, ReLU and a 3x3 convolution, and a shortcut around them.

    Attributes:
      features: number of output channels.
      stride: stride of the first convolution and of the shortcut.
    """

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps ``[batch, h, w, c]`` to ``[batch, h/stride, w/stride, features]``."""
        conv = partial(nn.Conv, self.features, use_bias=False)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        active = nn.relu(norm(name="bn1")(x))
        y = conv((3, 3), strides=self.stride, padding=1, name="conv1")(active)
        y = nn.relu(norm(name="bn2")(y))
        y = conv((3, 3), padding=1, name="conv2")(y)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = conv((1, 1), strides=self.stride, padding=0, name="shortcut")(active)
        return x + y


class WideResNet(nn.Module):
    """Stem, three groups of blocks, batch norm, global mean, dense layer.

    Attributes:
      depth: number of convolutions on the longest path and the dense layer, 6 n + 4.
      num_filters: channels of the first group, doubled from group to group.
      num_classes: number of logits.
      num_stem_filters: channels of the stem.

    Raises:
      InputError: a depth that no number of blocks gives.
    """

    depth: int
    num_filters: int
    num_classes: int
    num_stem_filters: int = 16

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps images ``[batch, h, w, c]`` to logits ``[batch, num_classes]``."""
        blocks, rest = divmod(self.depth - 4, 6)
        if blocks < 1 or rest:
            raise InputError(f"depth: got {self.depth}, allowed: 10, 16, 22, 28, …")
        stem = partial(nn.Conv, self.num_stem_filters, (3, 3), padding=1)
        x = stem(use_bias=False, name="conv1")(x)
        for group in range(3):
            for block in range(blocks):
                x = WideBlock(
                    features=self.num_filters * 2**group,
                    stride=2 if group > 0 and block == 0 else 1,
                    name=f"group{group + 1}_{block:0{len(str(blocks - 1))}d}",
                )(x, train=train)
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="bn")
        return nn.Dense(self.num_classes, name="linear")(
            nn.relu(norm(x)).mean(axis=(1, 2))
        )


def wrn28(num_classes: int, width: float = 1.0) -> WideResNet:
    """WRN-28-k, k the width: 36,479,194 parameters at width 10 and 10 classes.

    The stem keeps 16 channels at any width of at least 1, as in the paper.
    """
    stem = max(1, round(16 * min(width, 1.0)))
    return WideResNet(28, max(1, round(16 * width)), num_classes, stem)
