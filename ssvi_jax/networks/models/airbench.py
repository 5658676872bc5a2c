"""The network of the CIFAR-10 speed records, for small images.

Source: K. Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU"
(arXiv 2404.00498): a whitening convolution that is not trained, then blocks of 3x3
convolutions, of which the first ends with pooling, so that full resolution is kept
long, and the third with a residual; batch norm without scale, whose running statistics
follow fast; logits divided by 9. Unlike there pooling averages, activations are ReLUs
(`ops.fuse_training` knows them), and the first block, whose weights cost the most, has
the channels of the record for 94 % and two convolutions, the others those of the record
for 96 %.

The filters of the whitening convolution are those of `whitening`; until they are set,
they are a fixed orthogonal basis of patches.
"""

from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ssvi_jax.networks.models import pooling
from ssvi_jax.vi import dirac

_SAME: dict[str, Any] = {"padding": 1}
_HALVED: dict[str, Any] = {"strides": 2, "padding": "VALID"}

FILTERS = "whitening"
"""The collection of a model's state that holds filters that are not trained."""


class Airbench(nn.Module):
    """See the module.

    Attributes:
      widths: channels of the blocks.
      depths: convolutions of each block, 1 to 3.
      num_classes: number of logits.
      dirac: its convolutions begin as the identity (see `vi.dirac`), whatever the mask.
      fast_statistics: its running statistics are those of few batches, so that they
        are gathered again when it is trained (see `vi.statistics`).
    """

    dirac: ClassVar[bool] = True
    fast_statistics: ClassVar[bool] = True

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps images ``[batch, h, w, c]`` to logits ``[batch, num_classes]``."""
        conv = partial(
            nn.Conv,
            kernel_size=(3, 3),
            use_bias=False,
            kernel_init=_identity_first,
        )
        norm = partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.6,
            use_scale=False,
        )
        x = nn.relu(Whiten(name="whiten")(x))
        blocks = zip(self.widths, self.depths, strict=True)
        layers = [(width, place) for width, depth in blocks for place in range(depth)]
        for number, (features, place) in enumerate(layers, start=1):
            # The average of 2x2 results, computed from averages of what is read.
            halved = place == 0 and not pooling.is_tiny(x)
            read, window = (pooling.smooth_2x2(x), _HALVED) if halved else (x, _SAME)
            y = conv(features, name=f"conv{number}", **window)(read)
            y = norm(name=f"bn{number}")(y)
            x = nn.relu(y + x if place == 2 else y)
        head = nn.Dense(self.num_classes, use_bias=False, name="linear")
        return head(x.max(axis=(1, 2))) / 9


def _identity_first(
    key: jax.Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32
) -> jax.Array:
    """He initialization, and the identity in the first filters (see `vi.dirac`)."""
    drawn = nn.initializers.he_normal()(key, shape, dtype).reshape(-1)
    return dirac.means(drawn, jnp.arange(drawn.size), shape).reshape(shape)


class Whiten(nn.Module):
    """A 2x2 convolution with fixed filters, without padding or bias.

    Nothing in it is trained, so that the first convolution behind it, at the largest
    resolution, needs no gradient of its input.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, c]`` to ``[batch, h - 1, w - 1, 8 c]``."""
        number = 4 * x.shape[-1]

        def basis() -> jax.Array:
            half = jnp.eye(number).reshape(2, 2, x.shape[-1], number)
            return jnp.concatenate([half, -half], axis=-1)

        filters = self.variable(FILTERS, "filters", basis).value
        # A product of so few channels is faster as a sum that XLA fuses, in whatever
        # memory layout the next layer wants.
        kernel = filters.astype(x.dtype)[:, :, :, None, None, None]
        rows, columns = x.shape[1] - 1, x.shape[2] - 1
        first, *others = (
            x[:, r : r + rows, c : c + columns, i, None] * kernel[r, c, i]
            for r, c, i in np.ndindex(2, 2, x.shape[-1])
        )
        return sum(others, start=first)


def airbench(num_classes: int, width: float = 1.0) -> Airbench:
    """Channels 64, 256 and 512, times `width`, in 2, 3 and 3 convolutions."""
    widths = tuple(max(1, round(base * width)) for base in (64, 256, 512))
    return Airbench(widths, (2, 3, 3), num_classes)
