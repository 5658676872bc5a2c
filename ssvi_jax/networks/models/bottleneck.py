"""ResNet-50 in its ImageNet form, with the layer names of PyTorch.

Source: He et al. 2016, "Deep Residual Learning for Image Recognition", Table 1, with
the stride in the 3x3 convolution of a block, as every later implementation has it.
"""

from functools import partial

import jax
from flax import linen as nn

from ssvi_jax.networks.models.resnet import stages


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with batch norm, and a shortcut around them.

    Attributes:
      features: channels of the 3x3 convolution; the output has four times as many.
      stride: stride of the 3x3 convolution and of the shortcut.
    """

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps ``[batch, h, w, c]`` to ``[batch, h/stride, w/stride, 4 features]``."""
        conv = partial(nn.Conv, use_bias=False)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        wide = 4 * self.features
        y = nn.relu(norm(name="bn1")(conv(self.features, (1, 1), name="conv1")(x)))
        middle = conv(self.features, (3, 3), self.stride, padding=1, name="conv2")
        y = nn.relu(norm(name="bn2")(middle(y)))
        y = norm(name="bn3")(conv(wide, (1, 1), name="conv3")(y))
        if self.stride != 1 or x.shape[-1] != wide:
            shortcut = conv(wide, (1, 1), self.stride, padding=0, name="shortcut")
            x = norm(name="shortcut_bn")(shortcut(x))
        return nn.relu(x + y)


class BottleneckResNet(nn.Module):
    """A 7x7 stem with pooling, stages of bottleneck blocks, global mean, dense layer.

    Attributes:
      stage_sizes: number of blocks of each stage; every stage but the first halves
        the resolution.
      num_classes: number of logits.
      num_filters: channels of the stem and of the first stage's 3x3 convolutions.
    """

    stage_sizes: tuple[int, ...]
    num_classes: int
    num_filters: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps images ``[batch, h, w, c]`` to logits ``[batch, num_classes]``."""
        stem = partial(nn.Conv, self.num_filters, (7, 7), 2, padding=3)
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="bn1")
        x = nn.relu(norm(stem(use_bias=False, name="conv1")(x)))
        edge = ((1, 1), (1, 1))
        x = nn.max_pool(x, (3, 3), (2, 2), edge)  # pyright: ignore[reportArgumentType]
        x = stages(x, Bottleneck, self.stage_sizes, self.num_filters, train=train)
        return nn.Dense(self.num_classes, name="linear")(x.mean(axis=(1, 2)))


def resnet50(num_classes: int, width: float = 1.0) -> BottleneckResNet:
    """ResNet-50: 25,557,032 parameters at width 1 and 1,000 classes."""
    return BottleneckResNet((3, 4, 6, 3), num_classes, max(1, round(64 * width)))
