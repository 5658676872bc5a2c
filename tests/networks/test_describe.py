"""What a network says of its kernels, and why some go without the sparse ones."""

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
