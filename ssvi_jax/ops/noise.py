"""Standard normal noise as a pure function of a key and a flat position.

The bits are Threefry-2x32 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as
easy as 1, 2, 3", SC 2011) with 13 rounds, which in the authors' tests is enough for
BigCrush at the 64-bit width and for which they publish test vectors at this one (JAX
uses 20). The normal number is the inverse distribution function of one 32-bit word.
All of it is elementwise, without a table or a branch: XLA fuses the generator into the
loop that uses the numbers, and a kernel in another language can draw the same number
at the same position.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_PARITY = np.uint32(0x1BD11BDA)
_ROUNDS = 13

# Φ⁻¹ of the tail p over 2p − 1, as polynomials (highest power first): least squares on
# Chebyshev nodes, relative error below 6e-7, for w = −log(4p(1 − p)). The form is that
# of Giles, "Approximating the erfinv function", 2010; its coefficients stop at 2^-24.
_CENTRE = (  # in w − 2.5, for w in [0, 5]
    *(4.6426282551692566e-07, -4.4888174670632e-06, -5.978737135592382e-06),
    *(3.072049585171044e-04, -1.773759606294334e-03, -5.905766971409321e-03),
    *(3.4880325198173523e-01, 2.1233131885528564),
)
_TAIL = (  # in sqrt(w) − 3, for w in [5, 21.6], where p = 2^-33
    *(-2.5350271607749164e-04, 1.6715876990929246e-03, -4.7515141777694225e-03),
    *(8.158339187502861e-03, -1.0927814990282059e-02, 1.3349693268537521e-02),
    *(1.41659414768219, 4.006434440612793),
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


def bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform uint32 words.

    The word at flat position p is one half of the block with counter 16·(p // 32) + p
    mod 16: the first if p mod 32 < 16, else the second. So a vector of up to 16 lanes
    of consecutive positions needs no shuffling, and nothing drawn is thrown away.

    Args:
      key: a JAX random key of any implementation.
      shape: shape of the result, of fewer than 2**32 elements.
    """
    assert math.prod(shape) < 2**32, f"32-bit positions cannot number {shape}"
    words = jax.random.bits(key, (2,), jnp.uint32)
    position = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    counter = ((position >> 5) << 4) | (position & 15)
    first, second = threefry((words[0], words[1]), counter)
    return jnp.where((position & 16) == 0, first, second)


def to_normal(word: jax.Array) -> jax.Array:
    """Float32 normal numbers of uniform words: up to 6.3 on either side.

    Bit 0 is the sign, the other 31 bits are the probability of the tail.
    """
    tail = ((word >> 1).astype(jnp.int32).astype(jnp.float32) + 0.5) * 2.0**-32
    w = -jnp.log(4.0 * tail * (1.0 - tail))
    centre, far = jnp.full_like(w, _CENTRE[0]), jnp.full_like(w, _TAIL[0])
    root = jnp.sqrt(jnp.maximum(w, 5.0)) - 3.0
    for a, b in zip(_CENTRE[1:], _TAIL[1:], strict=True):
        centre, far = centre * (w - 2.5) + a, far * root + b
    size = jnp.where(w < 5.0, centre, far) * (1.0 - 2.0 * tail)
    return jnp.where((word & 1) == 0, size, -size)


@partial(jax.jit, static_argnames=("shape", "dtype"))
def normal(
    key: jax.Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32
) -> jax.Array:
    """Independent N(0, 1) numbers; the one at a flat position depends on nothing else.

    Args:
      key: a JAX random key of any implementation.
      shape: shape of the result, of fewer than 2**32 elements.
      dtype: floating type of the result; the numbers are made in float32.
    """
    return to_normal(bits(key, shape)).astype(dtype)
