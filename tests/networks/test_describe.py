"""What a network says of its kernels, and why some go without the sparse ones."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ssvi_jax
from ssvi_jax.core.errors import InputError
from ssvi_jax.networks.adapters import from_flax
from ssvi_jax.networks.describe import describe
from ssvi_jax.ops import custom_calls

needs_kernels = pytest.mark.skipif(
    not custom_calls.available(), reason="the sparse kernels were not compiled"
)


class Own(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x @ self.param("kernel", nn.initializers.lecun_normal(), (8, 8))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3), name="plain")(x)
        x = nn.Conv(8, (3, 3), feature_group_count=4, name="grouped")(x)
        x = nn.Conv(8, (3, 3), kernel_dilation=2, name="dilated")(x)
        x = nn.WeightNorm(nn.Dense(8, name="normed"))(x.mean((1, 2)))
        x = nn.remat(nn.Dense)(8, name="again")(x)
        x = Own(name="own")(x)
        x = nn.Dense(8, dtype=jnp.bfloat16, name="half")(x)
        return nn.Dense(3, name="out")(x)


X = np.zeros((2, 6, 6, 3), np.float32)
REFUSED = {
    "grouped": "4 groups, needed: 1",
    "dilated": "a dilated window",
    "normed": "the layer changes its kernel before it multiplies",
    "again": "inside scan, vmap, jit or remat",
    "own": "a layer of another kind than those that take packed kernels",
    "half": "bfloat16 inputs, needed: float32",
}


@pytest.fixture(scope="module")
def network():
    return from_flax(Net(), X, key=jax.random.key(0))


def masks_of(network, density):
    rng = np.random.default_rng(0)
    shapes = network[0].kernel_shapes
    return {path: rng.random(shape) < density for path, shape in shapes.items()}


def rows(text):
    lines = text.splitlines()
    named = (line.split(maxsplit=1) for line in lines[1:-1])
    return {path.removesuffix("/kernel"): rest for path, rest in named}


@needs_kernels
def test_every_kernel_that_falls_back_says_why(network):
    text = describe(network, X, masks_of(network, 0.2))
    found = rows(text)
    assert [*found] == [
        *("plain", "grouped", "dilated", "normed", "again", "own", "half", "out")
    ]
    why = {
        path: row.split("dense product: ")[1]
        for path, row in found.items()
        if "dense product" in row
    }
    assert why == REFUSED
    assert text.splitlines()[-1].startswith("backend sparse")


def test_what_is_kept_is_counted(network):
    masks = masks_of(network, 0.2)
    kept = int(masks["plain/kernel"].sum())
    row = rows(describe(network, X, masks))["plain"].split()
    assert row[:3] == ["3×3×3×8", f"{kept}", f"{kept / 216:.4f}"]


def test_a_network_without_masks_is_dense(network):
    found = rows(describe(network, X))
    assert found["out"].split() == ["8×3", "24", "1.0000"]


def test_xla_is_explained(network):
    def last(density, backend="auto"):
        text = describe(network, X, masks_of(network, density), backend=backend)
        return text.splitlines()[-1]

    assert last(0.2, "xla") == "backend xla: dense products, as asked for"
    assert "is above 0.5" in last(0.9)


def test_kernels_that_were_not_compiled_are_said(network, monkeypatch):
    monkeypatch.setattr(custom_calls, "available", lambda: False)
    monkeypatch.setattr(custom_calls, "why_not", lambda: "there is no compiler")
    text = describe(network, X, masks_of(network, 0.2))
    assert text.endswith("dense products, as there is no compiler")
    with pytest.raises(InputError, match=r"^backend: got sparse"):
        describe(network, X, masks_of(network, 0.2), backend="sparse")


@needs_kernels
@pytest.mark.parametrize("library", ["linen", "nnx"])
@pytest.mark.parametrize(
    "method",
    [
        ssvi_jax.Rank1(members=2, sparsity=0.8),
        ssvi_jax.SSVIEnsemble(members=2, sparsity=0.8),
        ssvi_jax.SSVIEnsemble(members=1, sparsity=0.8),
    ],
)
def test_networks_of_members_are_described(method, library, caplog):
    module = Small() if library == "linen" else SmallNnx(nnx.Rngs(0))
    network = from_flax(module, X[:1], key=jax.random.key(0))
    with caplog.at_level("INFO", logger="ssvi_jax"):
        if library == "nnx" and getattr(method.structure, "copies", 0) == 2:
            with pytest.raises(InputError, match=r"^network: got an nnx module, whose"):
                ssvi_jax.fit(method, network, (X, np.zeros(2, int)), steps=2)
            return
        ssvi_jax.fit(method, network, (X, np.zeros(2, int)), steps=2)
    assert "2 groups, needed: 1" in caplog.text
    assert "backend sparse" in caplog.text


class Small(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3))(x)
        x = nn.Conv(8, (3, 3), feature_group_count=2)(x)
        return nn.Dense(3)(x.mean((1, 2)))


class SmallNnx(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.second = nnx.Conv(8, 8, (3, 3), feature_group_count=2, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.second(self.first(x)).mean((1, 2)))


def test_a_plain_function_is_described_by_its_parameters():
    params = {"dense": {"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4)}}
    text = describe((lambda *args, **options: None, params, {}), X)  # type: ignore[arg-type]
    assert rows(text)["dense"].split() == ["3×4", "12", "1.0000"]


# What is refused ----------------------------------------------------------------------


def dense(width=4):
    module = nn.Sequential([nn.Dense(width), nn.relu, nn.Dense(3)])
    return from_flax(module, X[:1, 0, 0], key=jax.random.key(0))


SMALL, SMALL_X = dense(), X[:, 0, 0]
GOOD = masks_of(SMALL, 0.9)
FIRST, LAST = GOOD
BAD_MASKS = {
    "another width": (masks_of(dense(8), 0.9), "^masks: differ from .*'layers_0/k"),
    "other names": ({"a": np.ones(3, bool)}, r"^masks: differ from .*\('a', \(3,\)\)"),
    "one missing": ({FIRST: GOOD[FIRST]}, f"^masks: differ from .*'{LAST}'"),
    "another shape": ({**GOOD, LAST: np.ones(3, bool)}, f"^masks: differ .*'{LAST}'"),
    "keys of two kinds": ({**GOOD, 3: np.ones(3, bool)}, r"differ .*\(3, \(3,\)\)"),
    "0 and 1": ({**GOOD, LAST: GOOD[LAST] * 1}, r"\]: got dtype int64, allowed: bool"),
    "no array": ({**GOOD, LAST: [True]}, r"\]: got a list, allowed: a boolean array"),
    "nothing kept": (
        {path: np.zeros_like(mask) for path, mask in GOOD.items()},
        "^masks: got none that keeps a weight",
    ),
    "a list": ([*GOOD.values()], "^masks: got a list, allowed: kernel path"),
    "an empty list": ([], "^masks: got a list, allowed: kernel path"),
}


@pytest.mark.parametrize("case", BAD_MASKS)
def test_masks_of_another_network_are_refused(case):
    masks, words = BAD_MASKS[case]
    with pytest.raises(InputError, match=words):
        describe(SMALL, SMALL_X, masks)


def test_a_trained_network_is_no_masks():
    fit = ssvi_jax.fit(
        ssvi_jax.Static(sparsity=0.5), SMALL, (SMALL_X, np.zeros(2, int)), steps=1
    )
    given: Any = fit
    with pytest.raises(InputError, match=r"^masks: got a Fitted, .*fit\.masks"):
        describe(SMALL, SMALL_X, given)
    assert "0.5" in describe(SMALL, SMALL_X, fit.masks)


def test_a_kernel_that_stays_dense_has_a_mask_that_says_so():
    masks = {**GOOD, LAST: np.ones_like(GOOD[LAST])}
    assert describe(SMALL, SMALL_X, masks).splitlines()[2].split()[2:] == [
        *("12", "1.0000")
    ]


BAD_INPUTS = {
    "another length": (np.zeros((2, 7)), r"^example: got inputs of \[7\] .*fails"),
    "none": (None, r"^example: got no array, allowed: inputs \[batch"),
    "text": ("abc", "^example: got a str, allowed: arrays"),
    "a number": (np.float32(1), "^example: got a ndarray, allowed: arrays"),
    "no axes": (jax.ShapeDtypeStruct((), np.float32), "got an array without axes"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_inputs_that_the_network_does_not_take_are_refused(case):
    x, words = BAD_INPUTS[case]
    with pytest.raises(InputError, match=words):
        describe(SMALL, x)


def test_one_image_is_no_batch(network):
    with pytest.raises(InputError, match=r"^example: got inputs of \[6, 3\] .*fails"):
        describe(network, X[0])


def test_an_unknown_backend_is_refused_without_masks_too():
    with pytest.raises(InputError, match=r"^backend: got 'foo', allowed: auto"):
        describe(SMALL, SMALL_X, backend="foo")
