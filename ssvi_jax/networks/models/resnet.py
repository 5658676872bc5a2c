"""ResNet-18 and ResNet-34 in their CIFAR form, with the layer names of PyTorch.

A 3x3 stem without pooling instead of the 7x7 stem of the ImageNet form, as is usual
for 32x32 images. Source: He et al. 2016, "Deep Residual Learning for Image
Recognition", Table 1 (blocks) and section 4.2 (small images).
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
from flax import linen as nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them.

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
        y = conv((3, 3), strides=self.stride, padding=1, name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y))
        y = conv((3, 3), padding=1, name="conv2")(y)
        y = norm(name="bn2")(y)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = conv((1, 1), strides=self.stride, padding=0, name="shortcut")(x)
            x = norm(name="shortcut_bn")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Stem, stages of basic blocks, global mean, dense layer.

    Attributes:
      stage_sizes: number of blocks of each stage; every stage but the first halves
        the resolution.
      num_classes: number of logits.
      num_filters: channels of the first stage, doubled from stage to stage.
    """

    stage_sizes: tuple[int, ...]
    num_classes: int
    num_filters: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps images ``[batch, h, w, c]`` to logits ``[batch, num_classes]``."""
        stem = nn.Conv(
            self.num_filters, (3, 3), padding=1, use_bias=False, name="conv1"
        )
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="bn1")
        x = nn.relu(norm(stem(x)))
        x = stages(x, BasicBlock, self.stage_sizes, self.num_filters, train=train)
        return nn.Dense(self.num_classes, name="linear")(x.mean(axis=(1, 2)))


def stages(
    x: jax.Array,
    block: Callable[..., nn.Module],
    stage_sizes: Sequence[int],
    num_filters: int,
    *,
    train: bool,
) -> jax.Array:
    """Applies the blocks of all stages, inside a network's compact call.

    Args:
      x: ``[batch, h, w, c]``.
      block: module of `features`, `stride` and `name`, called with `train`.
      stage_sizes: number of blocks of each stage.
      num_filters: features of the first stage, doubled from stage to stage.
      train: whether batch statistics are used and updated.
    """
    for stage, num_blocks in enumerate(stage_sizes):
        for number in range(num_blocks):
            x = block(
                features=num_filters * 2**stage,
                stride=2 if stage > 0 and number == 0 else 1,
                name=f"layer{stage + 1}_{number}",
            )(x, train=train)
    return x


def resnet18(num_classes: int, width: float = 1.0) -> ResNet:
    """ResNet-18: 11,164,352 kernel weights at width 1, 10 classes, 3 channels."""
    return ResNet((2, 2, 2, 2), num_classes, max(1, round(64 * width)))


def resnet34(num_classes: int, width: float = 1.0) -> ResNet:
    """ResNet-34: 21,265,088 kernel weights at width 1, 10 classes, 3 channels."""
    return ResNet((3, 4, 6, 3), num_classes, max(1, round(64 * width)))
