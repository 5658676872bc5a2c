"""Where the kept weights are, in almost as few bits as possible.

Positions become the gaps between them, one byte a gap. A byte of 255 says "255 more
and go on", so a long gap takes several. Which weights are kept has no pattern, so the
gaps are independent and Huffman coding the bytes comes within 1 % of the entropy
H(density)/density bits a position, for densities from 0.2 % to 50 %. Above one half the
removed positions are coded in place of the kept ones; a layer kept whole costs nothing.
"""

import math

import numpy as np

_MORE = 255


def encode(index: np.ndarray, size: int) -> np.ndarray:
    """Gap bytes of sorted positions.

    Args:
      index: integer ``[s]``, ascending without repeats, each in [0, size).
      size: number of weights of the layer.

    Returns:
      uint8 ``[n]`` with n at most min(s, size − s) + size / 255.
    """
    coded = index if 2 * len(index) <= size else _others(index, size)
    gaps = np.diff(np.asarray(coded, np.int64), prepend=-1) - 1
    num_more, rest = np.divmod(gaps, _MORE)
    gap_bytes = np.full(np.sum(num_more + 1), _MORE, np.uint8)
    gap_bytes[np.cumsum(num_more + 1) - 1] = rest
    return gap_bytes


def decode(gap_bytes: np.ndarray, count: int, size: int) -> np.ndarray:
    """Positions from their gap bytes.

    Args:
      gap_bytes: uint8 ``[n]`` from `encode`.
      count: number of positions.
      size: number of weights of the layer.

    Returns:
      int32 ``[count]``, ascending.

    Raises:
      ValueError: the bytes do not describe `count` positions below `size`.
    """
    num_coded = min(count, size - count)
    ends = np.flatnonzero(gap_bytes != _MORE)
    if len(ends) != num_coded or (gap_bytes[-1:] == _MORE).any():
        raise ValueError("wrong number of positions")
    skipped = np.cumsum(gap_bytes, dtype=np.int64)[ends]
    coded = skipped + np.arange(num_coded)
    if num_coded and coded[-1] >= size:
        raise ValueError("a position beyond the end of its layer")
    index = coded if 2 * count <= size else _others(coded, size)
    return index.astype(np.int32)


def entropy_bits(count: int, size: int) -> float:
    """Bits that any lossless code needs on average: log₂ of "size choose count"."""
    nats = math.lgamma(size + 1) - math.lgamma(count + 1)
    return (nats - math.lgamma(size - count + 1)) / math.log(2)


def _others(index: np.ndarray, size: int) -> np.ndarray:
    """The positions below `size` that are not in `index`, ascending."""
    others = np.ones(size, bool)
    others[index] = False
    return np.flatnonzero(others)
