"""The noise generator: the cipher, the distribution, and independence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ssvi_jax.ops import noise

NUM = 1 << 18
MASK = 0xFFFFFFFF
bits = jax.jit(noise.bits, static_argnums=1)
blocks = jax.jit(noise.words, static_argnums=1)
threefry = jax.jit(noise.threefry)


def words(seed: int, num: int = NUM) -> np.ndarray:
    return np.asarray(bits(jax.random.key(seed), (num,)))


def threefry_by_hand(key, counter, rounds=13):
    """Threefry-2x32 in Python integers, as the paper writes it."""
    rotations = (13, 15, 26, 6, 17, 29, 16, 24)
    keys = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    x, y = ((c + k) & MASK for c, k in zip(counter, keys[:2], strict=True))
    for i in range(rounds):
        x = (x + y) & MASK
        r = rotations[i % 8]
        y = (((y << r) | (y >> (32 - r))) & MASK) ^ x
        if (i + 1) % 4 == 0:
            j = (i + 1) // 4
            x = (x + keys[j % 3]) & MASK
            y = (y + keys[(j + 1) % 3] + j) & MASK
    return x, y


def assert_uniform(counts: np.ndarray) -> None:
    assert stats.chisquare(counts.ravel()).pvalue > 1e-4


def test_hand_written_cipher_gives_the_published_vectors():
    # Known answers of Random123 for Threefry-2x32 with 13 and with 20 rounds.
    assert threefry_by_hand((0, 0), (0, 0)) == (0x9D1C5EC6, 0x8BD50731)
    assert threefry_by_hand((0, 0), (0, 0), 20) == (0x6B200159, 0x99BA4EFE)
    assert threefry_by_hand((MASK, MASK), (MASK, MASK)) == (0xFD36D048, 0x2D17272C)
    key, counter = (0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3)
    assert threefry_by_hand(key, counter) == (0xBA3E4725, 0xF27D669E)


@given(
    st.integers(0, MASK),
    st.integers(0, MASK),
    st.lists(st.integers(0, MASK), min_size=8, max_size=8),
)
def test_cipher_equals_python_integers(k0, k1, counters):
    key = (jnp.uint32(k0), jnp.uint32(k1))
    x, y = threefry(key, jnp.array(counters, jnp.uint32))
    expected = [threefry_by_hand((k0, k1), (c, 0)) for c in counters]
    assert list(zip(x.tolist(), y.tolist(), strict=True)) == expected


def test_position_alone_decides():
    key = jax.random.key(3)
    flat = np.stack(blocks(key, (4096,)))
    np.testing.assert_array_equal(np.stack(blocks(key, (8, 512))).reshape(3, -1), flat)
    np.testing.assert_array_equal(np.stack(blocks(key, (1000,))), flat[:, :1000])
    seeds = jax.random.bits(key, (2,), jnp.uint32).tolist()
    for position in (0, 15, 16, 31, 32, 4095):
        counter = position // 32 * 16 + position % 16
        block = threefry_by_hand(tuple(seeds), (counter, 0))
        assert flat[:, position].tolist() == [*block, position // 16 % 2]


def test_no_word_of_a_block_is_used_twice():
    # 2^18 words of a random function: about n²/2^33 = 8 pairs are equal by chance.
    assert NUM - np.unique(words(5)).size < 30


@pytest.mark.parametrize("which", [0, 1])
def test_normal_is_radius_times_cosine_or_sine(which):
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 1 << 32, (2, 300_000), np.uint32)
    first[:2000], first[2000:4000] = np.arange(2000), MASK - np.arange(2000)
    edges = (np.arange(16)[:, None] << 28) + np.arange(-40, 41) & MASK
    second[: edges.size] = edges.ravel()  # around multiples of π/8
    # The radius is that of the word as a float32 number, whose spacing near 1 is 2^-24.
    uniform = np.float32((first >> 1).astype(np.int32)) * 2.0**-31 + 2.0**-32
    radius = np.sqrt(-2.0 * np.log(np.float64(np.float32(uniform))))
    angle = second * (2 * np.pi / 2**32)
    expected = radius * (np.sin(angle) if which else np.cos(angle))
    took = jnp.asarray(which, jnp.uint32)
    got = np.asarray(noise.to_normal(jnp.asarray(first), jnp.asarray(second), took))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    largest = noise.to_normal(jnp.uint32(0), jnp.uint32(which << 30), took)
    assert float(largest) == pytest.approx(np.sqrt(64 * np.log(2)), rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_moments_and_distribution(seed):
    z = np.asarray(noise.normal(jax.random.key(seed), (NUM * 4,)), np.float64)
    n = z.size
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean() - mean) < 4 * np.sqrt(variance / n), power
    assert stats.kstest(z, "norm").pvalue > 1e-3
    for bound in (3.0, 4.0, 4.5):
        expected = 2 * n * stats.norm.sf(bound)
        assert abs((abs(z) > bound).sum() - expected) < 4 * np.sqrt(expected) + 1


def test_every_bit_is_fair_and_free_of_its_neighbours():
    num = 1 << 16
    w = words(11, num)
    planes = ((w[:, None] >> np.arange(32)) & 1).astype(np.float32) * 2 - 1
    assert abs(planes.mean(0)).max() < 4.5 / np.sqrt(num)
    for lag in (0, 1, 15, 16, 17, 32, 512):
        shifted = planes[: num - lag].T @ planes[lag:] / (num - lag)
        shifted -= np.eye(32) * (lag == 0)
        assert abs(shifted).max() < 5 / np.sqrt(num - lag), lag


def test_spectrum_of_every_bit_is_flat():
    planes = ((words(12)[:, None] >> np.arange(32)) & 1) * 2.0 - 1.0
    power = abs(np.fft.rfft(planes, axis=0)[1:-1]) ** 2 / NUM
    # Powers are exponential: the largest of n exceeds log(n) + 12 once in e^12 times.
    assert power.max() < np.log(power.size) + 12
    ranked = stats.kstest(power.ravel(), "expon")
    assert ranked.pvalue > 1e-4


@pytest.mark.parametrize("lag", [1, 16, 32])
@pytest.mark.parametrize("shift", [0, 12, 27])
def test_pairs_fill_the_square(lag, shift):
    digit = (words(13) >> shift) & 31
    starts = np.arange(0, NUM - lag, 2 * lag)
    counts = np.zeros((32, 32))
    np.add.at(counts, (digit[starts], digit[starts + lag]), 1)
    assert_uniform(counts)


def test_one_flipped_bit_of_key_or_counter_flips_half_of_the_word():
    counters = jnp.arange(2048, dtype=jnp.uint32)
    key = np.array([0x12345678, 0x9ABCDEF0], np.uint32)

    def cipher(key, counter):
        return np.asarray(threefry((key[0], key[1]), counter))

    base = cipher(jnp.asarray(key), counters)
    for bit in range(32):
        flip = np.uint32(1 << bit)
        changed = [
            cipher(jnp.asarray(key), counters ^ flip),
            cipher(jnp.asarray(key ^ np.array([flip, 0], np.uint32)), counters),
            cipher(jnp.asarray(key ^ np.array([0, flip], np.uint32)), counters),
        ]
        for other in changed:
            planes = ((base ^ other)[..., None] >> np.arange(32, dtype=np.uint32)) & 1
            # 2048 counters an output bit: a standard error of 0.011.
            assert abs(planes.mean(1) - 0.5).max() < 0.06


def _streams() -> dict[str, list[jax.Array]]:
    key = jax.random.key(7)
    raw = np.array([1, 2], np.uint32)
    single = [raw] + [raw ^ np.array([1 << b, 0], np.uint32) for b in (0, 13, 31)]
    single += [raw ^ np.array([0, 1 << b], np.uint32) for b in (0, 13, 31)]
    return {
        "layers and steps": [
            jax.random.fold_in(jax.random.fold_in(key, step), layer)
            for step in range(4)
            for layer in range(4)
        ],
        "keys one bit apart": [jax.random.wrap_key_data(jnp.array(k)) for k in single],
    }


def test_numbers_of_one_block_are_independent():
    z = np.asarray(noise.normal(jax.random.key(8), (NUM * 4,)), np.float64)
    pairs = z.reshape(-1, 2, 16).transpose(1, 0, 2).reshape(2, -1)
    n = pairs.shape[1]
    for power in (1, 2, 3):
        x, y = pairs**power
        assert abs(np.corrcoef(x, y)[0, 1]) < 4 / np.sqrt(n), power
    # Radius squared and angle of a pair are exponential and uniform, and independent.
    angle = np.arctan2(pairs[1], pairs[0])
    assert stats.kstest(angle / (2 * np.pi) + 0.5, "uniform").pvalue > 1e-3
    assert stats.kstest((pairs**2).sum(0) / 2, "expon").pvalue > 1e-3
    turns = np.cos(4 * angle)
    assert abs(np.corrcoef((pairs**2).sum(0), turns)[0, 1]) < 4 / np.sqrt(n)


@pytest.mark.parametrize("kind", ["layers and steps", "keys one bit apart"])
def test_streams_are_independent(kind):
    num = 1 << 16
    z = np.stack([noise.normal(key, (num,)) for key in _streams()[kind]])
    for rows in (z, z**2):
        correlation = np.corrcoef(rows) - np.eye(len(rows))
        assert abs(correlation).max() < 4.5 / np.sqrt(num)
    total = z.sum(0) / np.sqrt(len(z))
    assert stats.kstest(total, "norm").pvalue > 1e-3


def test_works_with_any_key_and_under_every_transformation():
    for impl in ("threefry2x32", "rbg"):
        z = noise.normal(jax.random.key(0, impl=impl), (3, 5))
        assert z.shape == (3, 5)
        assert z.dtype == jnp.float32
    keys = jax.random.split(jax.random.key(0), 4)
    batched = jax.jit(jax.vmap(lambda key: noise.normal(key, (32,))))(keys)
    # Fused or not, the same bits; float32 operations may be contracted.
    for key, row in zip(keys, batched, strict=True):
        np.testing.assert_allclose(row, noise.normal(key, (32,)), rtol=0, atol=2e-6)
    assert noise.normal(keys[0], ()).shape == ()
    assert noise.normal(keys[0], (0, 2)).shape == (0, 2)
    assert noise.normal(keys[0], (4,), jnp.bfloat16).dtype == jnp.bfloat16
