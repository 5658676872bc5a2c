"""Standard normal noise as a pure function of a key and a flat position.

The bits are Threefry-2x32 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as
easy as 1, 2, 3", SC 2011) with 13 rounds, which in the authors' tests is enough for
BigCrush at the 64-bit width and for which they publish test vectors at this one (JAX
uses 20). Two words give two normal numbers (Box and Muller, "A note on the generation
of random normal deviates", 1958): one chooses the radius, the other the angle. All of
it is elementwise, without a table or a branch: XLA fuses the generator into the loop
that uses the numbers, and a kernel in another language can draw the same number at the
same position.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_PARITY = np.uint32(0x1BD11BDA)
_ROUNDS = 13

# sin t = t + t³ P(t²) and cos t = 1 + t² Q(t²) for abs(t) up to π/4, the highest power
# first: those of Cephes sinf and cosf (Moshier), relative error below 1e-7.
_SINE = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
_COSINE = (
    *(2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2),
    -0.5,
)


def _rotate_left(x: jax.Array, bits: int) -> jax.Array:
    return (x << np.uint32(bits)) | (x >> np.uint32(32 - bits))


def threefry(
    key: tuple[jax.Array, jax.Array], counter: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Two words for each counter: the cipher of the pair (counter, 0) under the key.

    Args:
      key: two uint32 scalars.
      counter: uint32 array.
    """
    keys = (*key, key[0] ^ key[1] ^ _PARITY)
    x, y = counter + keys[0], jnp.broadcast_to(keys[1], counter.shape)
    for i in range(_ROUNDS):
        x = x + y
        y = x ^ _rotate_left(y, _ROTATIONS[i % 8])
        if i % 4 == 3:
            block = i // 4 + 1
            x = x + keys[block % 3]
            y = y + (keys[(block + 1) % 3] + np.uint32(block))
    return x, y


def words(
    key: jax.Array,
    shape: tuple[int, ...],
    whole: int | None = None,
    first: jax.typing.ArrayLike = 0,
) -> tuple[jax.Array, ...]:
    """The two uniform uint32 words that each flat position is drawn from.

    Positions p and p + 16, with p mod 32 below 16, share the block with counter
    16·(p // 32) + p mod 16. So a vector of up to 16 lanes of consecutive positions
    needs no shuffling, and nothing drawn is thrown away.

    Args:
      key: a JAX random key of any implementation.
      shape: shape of the results, of fewer than 2**32 elements.
      whole: length of the last axis of a larger array, of the same axes before it, that
        this is a part of; positions are counted in that one. None: there is none.
      first: where in that axis the part begins.

    Returns:
      First word, second word, and which of the pair's numbers a position takes: 0 or 1.
    """
    number = math.prod(shape if whole is None else (*shape[:-1], whole))
    assert number < 2**32, f"32-bit positions cannot number {shape}"
    seeds = jax.random.bits(key, (2,), jnp.uint32)
    position = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    if whole is not None:
        row = position // np.uint32(max(shape[-1], 1))
        position += row * np.uint32(whole - shape[-1]) + jnp.uint32(first)
    counter = ((position >> 5) << 4) | (position & 15)
    first, second = threefry((seeds[0], seeds[1]), counter)
    return first, second, (position >> 4) & 1


def bits(
    key: jax.Array,
    shape: tuple[int, ...],
    whole: int | None = None,
    first: jax.typing.ArrayLike = 0,
) -> jax.Array:
    """Independent uniform uint32 words, one a position; see `words`."""
    one, other, which = words(key, shape, whole, first)
    return jnp.where(which == 0, one, other)


def to_normal(first: jax.Array, second: jax.Array, which: jax.Array) -> jax.Array:
    """Float32 normal numbers of uniform words: up to 6.6 on either side.

    Args:
      first: chooses the radius, of which 31 bits are used.
      second: the angle, in units of 2π / 2^32.
      which: 0 for radius times cosine, 1 for radius times sine.
    """
    uniform = (first >> 1).astype(jnp.int32).astype(jnp.float32) * 2.0**-31 + 2.0**-32
    radius = jnp.sqrt(-2.0 * jnp.log(uniform))
    # The nearest multiple of a right angle, and the rest t. cos θ = sin(θ + π/2).
    turned = second + np.uint32(1 << 29)
    rest = (turned & np.uint32((1 << 30) - 1)).astype(jnp.int32) - (1 << 29)
    t = rest.astype(jnp.float32) * np.float32(np.pi * 2.0**-31)
    z = t * t
    sine, cosine = jnp.full_like(z, _SINE[0]), jnp.full_like(z, _COSINE[0])
    for coefficient in _SINE[1:]:
        sine = sine * z + coefficient
    for coefficient in _COSINE[1:]:
        cosine = cosine * z + coefficient
    quarter = (turned >> 30) + 1 - which
    size = radius * jnp.where((quarter & 1) == 0, t + t * z * sine, 1.0 + z * cosine)
    return jnp.where((quarter & 2) == 0, size, -size)


@partial(jax.jit, static_argnames=("shape", "dtype", "whole"))
def normal(
    key: jax.Array,
    shape: tuple[int, ...],
    dtype: jax.typing.DTypeLike = jnp.float32,
    whole: int | None = None,
    first: jax.typing.ArrayLike = 0,
) -> jax.Array:
    """Independent N(0, 1) numbers; the one at a flat position depends on nothing else.

    Args:
      key: a JAX random key of any implementation.
      shape: shape of the result, of fewer than 2**32 elements.
      dtype: floating type of the result; the numbers are made in float32.
      whole: see `words`, for a part of a larger array.
      first: likewise.
    """
    return to_normal(*words(key, shape, whole, first)).astype(dtype)
