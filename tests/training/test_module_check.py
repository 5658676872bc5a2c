"""A model file is read with the module that was trained, or with a sentence."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from digits_fits import KEY, X, Y, linen, mlp
from flax import nnx

import ssvi_jax
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.structure import Structure
from ssvi_jax.io import artifact
from ssvi_jax.networks.adapters import LinenModel
from ssvi_jax.training import module_check

OTHERS = {
    "no bias": (
        lambda: nn.Sequential(
            [nn.Dense(16, use_bias=False), nn.relu, nn.Dense(10, use_bias=False)]
        ),
        r"layers_0/bias: \[16\] in the file, none here; layers_2/bias: \[10\]",
    ),
    "cut off": (
        lambda: nn.Sequential([nn.Dense(16), nn.relu]),
        r"layers_2/bias: \[10\] in the file, none here; layers_2/kernel: \[16, 10\]",
    ),
    "longer": (
        lambda: nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(10), nn.Dense(10)]),
        r"layers_3/bias: none in the file, \[10\] here",
    ),
    "wider": (
        lambda: mlp(10, 17),
        r"layers_0/bias: \[16\] in the file, \[17\] here; .*; give the module",
    ),
    "nnx": (
        lambda: nnx.Linear(64, 10, rngs=nnx.Rngs(0)),
        r"bias: none in the file, \[10\] here; .*; and 2 more\)",
    ),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    found = tmp_path_factory.mktemp("models") / "model.ssvi"
    net = linen(mlp(10, 16), X)
    ssvi_jax.fit(ssvi_jax.SSVI(sparsity=0.9), net, (X, Y), steps=2).save(found)
    return found


@pytest.mark.parametrize("name", OTHERS)
def test_another_module_is_refused(name, path):
    build, differ = OTHERS[name]
    module = build()
    match = rf"module: {type(module).__name__} has other weights than .*{differ}"
    with pytest.raises(InputError, match=match):
        ssvi_jax.load(path, module)


STRUCTURES = {
    "members": (ssvi_jax.DeepEnsemble(members=2), ssvi_jax.Categorical()),
    "members and noise": (ssvi_jax.SSVIEnsemble(members=2), ssvi_jax.Normal()),
    "factors": (ssvi_jax.Rank1(members=2), ssvi_jax.Categorical()),
    "factors and noise": (ssvi_jax.BatchEnsemble(members=2), ssvi_jax.Normal()),
    "dropout": (ssvi_jax.MCDropout(), ssvi_jax.Categorical()),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_what_a_method_adds_is_expected(name, tmp_path):
    method, likelihood = STRUCTURES[name]
    is_number = isinstance(likelihood, ssvi_jax.Normal)
    outputs, y = (1, Y / 10) if is_number else (10, Y)
    net = linen(mlp(outputs, 16), X)
    fit = ssvi_jax.fit(method, net, (X, y), steps=2, likelihood=likelihood)
    fit.save(tmp_path / "model.ssvi", half=False)
    again = ssvi_jax.load(tmp_path / "model.ssvi", mlp(outputs, 16))
    assert again.evaluate(X[:50], y[:50]) == fit.evaluate(X[:50], y[:50])
    with pytest.raises(InputError, match=r"has other weights than .*layers_0/kernel"):
        ssvi_jax.load(tmp_path / "model.ssvi", mlp(outputs, 17))


def test_inputs_of_64_bits(path):
    file = artifact.load(path)
    file.config["inputs"] = [[[1, 64], "float64"]]
    same, wider = LinenModel(mlp(10, 16)), LinenModel(mlp(10, 17))
    module_check.check_weights(same, Structure(), file, path, "it")
    with pytest.raises(InputError, match="module: it has other weights"):
        module_check.check_weights(wider, Structure(), file, path, "it")


UNKNOWN = [None, 3, [], [["a"]], [[[1, "b"], "float32"]], [[[1, 64], "none"]], "ab"]


@pytest.mark.parametrize("inputs", UNKNOWN)
def test_inputs_that_are_not_told_are_not_compared(path, inputs):
    file = artifact.load(path)
    file.config["inputs"] = inputs
    model = LinenModel(mlp(10, 17))
    module_check.check_weights(model, Structure(), file, path, "it")


class OfOne(nn.Module):
    """Of a dictionary, of which a file has the shape but not the name."""

    @nn.compact
    def __call__(self, inputs):
        return nn.Dense(10)(inputs["pixels"])


def test_one_array_in_a_dictionary_loads(tmp_path):
    x = {"pixels": np.asarray(X)}
    net = ssvi_jax.from_flax(OfOne(), jax.tree.map(lambda a: a[:1], x), key=KEY)
    fit = ssvi_jax.fit(ssvi_jax.SSVI(sparsity=0.5), net, (x, Y), steps=2)
    fit.save(tmp_path / "model.ssvi", half=False)
    again = ssvi_jax.load(tmp_path / "model.ssvi", OfOne())
    assert again.evaluate(x, Y) == fit.evaluate(x, Y)
