import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssvi_jax.core.errors import InputError
from ssvi_jax.data import load
from ssvi_jax.data.dataset import channel_moments, stratified_split


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def test_digits_are_scikit_learns(digits):
    from sklearn.datasets import load_digits

    grey, target = load_digits(return_X_y=True)
    raw = np.rint(grey * 255 / 16).astype(np.uint8)
    images = np.concatenate(
        [digits.train_images, digits.val_images, digits.test_images]
    )
    labels = np.concatenate(
        [digits.train_labels, digits.val_labels, digits.test_labels]
    )
    assert images.dtype == np.uint8
    assert images.shape == (1797, 8, 8, 1)
    ours = sorted(zip(labels, map(bytes, images[..., 0]), strict=True))
    theirs = sorted(zip(target, map(bytes, raw), strict=True))
    assert ours == theirs
    assert images.max() == 255


def test_digits_facts(digits):
    assert digits.name == "digits"
    assert digits.num_classes == 10
    assert (digits.pad, digits.flip) == (1, False)
    assert "scikit-learn" in digits.source
    assert len(digits.test_labels) == 360
    assert len(digits.val_labels) == 143
    assert digits.train_labels.dtype == np.int32


def test_every_split_has_every_class_in_proportion(digits):
    whole = np.bincount(
        np.concatenate([digits.train_labels, digits.val_labels, digits.test_labels])
    )
    for labels in (digits.train_labels, digits.val_labels, digits.test_labels):
        share = whole * len(labels) / 1797
        assert np.abs(np.bincount(labels) - share).max() < 2


def test_moments_are_those_of_the_training_images(digits):
    pixels = digits.train_images / 255.0
    np.testing.assert_allclose(digits.mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(digits.std, pixels.std((0, 1, 2)), rtol=1e-6)


def test_loading_twice_gives_the_same_and_the_test_set_is_fixed(digits):
    again = load("digits")
    other = load("digits", split_seed=1)
    np.testing.assert_array_equal(again.val_images, digits.val_images)
    np.testing.assert_array_equal(again.train_labels, digits.train_labels)
    np.testing.assert_array_equal(other.test_images, digits.test_images)
    assert not np.array_equal(other.val_images, digits.val_images)


def test_the_splits_are_the_same_on_every_machine(digits):
    # Results of different NumPy versions must stay comparable.
    assert digits.test_labels[:12].tolist() == [5, 9, 0, 2, 9, 8, 7, 3, 2, 7, 8, 2]
    assert digits.val_labels[:12].tolist() == [3, 1, 9, 8, 1, 9, 0, 5, 2, 6, 6, 8]


def test_no_validation_images_on_request():
    whole = load("digits", validation=0.0)
    assert whole.train_images.shape == (1437, 8, 8, 1)
    assert whole.val_images.shape == (0, 8, 8, 1)


def test_unknown_name_lists_the_known():
    with pytest.raises(InputError, match=r"'mnist'.*auto, cifar10, cifar100, digits"):
        load("mnist")


@pytest.mark.parametrize("validation", [-0.1, 1.0, float("nan")])
def test_validation_is_a_fraction(validation):
    with pytest.raises(InputError, match="validation"):
        load("digits", validation=validation)


def test_importing_the_package_is_light():
    heavy = "{'jax', 'sklearn', 'tensorflow', 'tensorflow_datasets', 'PIL'}"
    code = f"import sys, ssvi_jax.data; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
    st.integers(0, 100),
    st.data(),
)
def test_stratified_split_is_a_fair_partition(labels, seed, data):
    labels = np.array(labels)
    count = data.draw(st.integers(0, len(labels)))
    rest, drawn = stratified_split(labels, count, seed)
    assert len(drawn) == count
    whole = np.concatenate([rest, drawn])
    assert np.array_equal(np.sort(whole), np.arange(len(labels)))
    assert np.array_equal(rest, np.sort(rest))
    assert np.array_equal(drawn, np.sort(drawn))
    sizes = np.bincount(labels)
    fraction = sizes / len(labels)
    # Each class rounds n_c t for a common t, so it is off by at most 1/2, and t by the
    # sum of all of these: |taken - share| <= 1/2 + (classes - 2) / 2 * n_c / n.
    slack = 0.5 + 0.5 * (np.count_nonzero(sizes) - 2) * fraction
    taken = np.bincount(labels[drawn], minlength=len(sizes))
    assert np.all(
        np.abs(taken - fraction * count)[sizes > 0] <= slack[sizes > 0] + 1e-9
    )


def test_stratified_split_draws_every_member_equally_often():
    labels = np.repeat([0, 1], [30, 10])
    drawn = [stratified_split(labels, 8, seed)[1] for seed in range(1000)]
    counts = np.bincount(np.concatenate(drawn), minlength=40)
    # Each is drawn with probability 1/5: 200 times, standard deviation 12.6.
    assert np.abs(counts - 200).max() < 4.5 * 12.7


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 1000))
def test_channel_moments_agree_with_float64(num_images, num_channels, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num_images, 4, 3, num_channels), dtype=np.uint8)
    mean, std = channel_moments(images)
    assert mean.dtype == std.dtype == np.float32
    pixels = images / 255.0
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, pixels.std((0, 1, 2)), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("value", range(0, 256, 5))
def test_a_constant_channel_has_no_deviation(value):
    mean, std = channel_moments(np.full((7, 3, 3, 1), value, np.uint8))
    np.testing.assert_allclose(mean, [value / 255], rtol=1e-6)
    np.testing.assert_allclose(std, [0.0], atol=1e-7)


def test_channel_moments_of_several_chunks():
    images = np.zeros((2500, 1, 1, 2), np.uint8)
    images[::2] = 255
    images[:, :, :, 1] = 255
    mean, std = channel_moments(images)
    np.testing.assert_allclose(mean, [0.5, 1.0])
    np.testing.assert_allclose(std, [0.5, 0.0])
