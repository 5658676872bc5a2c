"""With JAX_ENABLE_X64=1 everything trains, and what is trained stays float32."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TRAINING = """
import flax.linen as nn, jax, jax.numpy as jnp, numpy as np, optax
from flax import nnx
from ssvi_jax import vi
from ssvi_jax.networks import adapters
from ssvi_jax.vi import masks, subspace

class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
        return nn.Dense(3)(nn.relu(x))

class NnxNet(nnx.Module):
    def __init__(self):
        self.hidden = nnx.Linear(5, 8, rngs=nnx.Rngs(0))
        self.norm = nnx.BatchNorm(8, rngs=nnx.Rngs(0))
        self.out = nnx.Linear(8, 3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.out(nnx.relu(self.norm(self.hidden(x))))

rng, key = np.random.default_rng(0), jax.random.key(0)
x, y = jnp.asarray(rng.normal(size=(20, 5))), jnp.asarray(rng.integers(0, 3, 20))
assert x.dtype == jnp.float64
rows = rng.integers(0, 20, (5, 4))
for module, estimator in ((Net(), "local_reparam"), (NnxNet(), "flipout")):
    net, params, model_state = adapters.from_flax(module, x[:1], key=key)
    b = vi.VI(net, optax.adamw(optax.cosine_decay_schedule(0.1, 100)), 20,
              estimator=estimator)
    kept = masks.create(b.kernel_shapes(params), 0.5, rng)
    state = b.init(key, params, model_state, kept)
    for _ in range(2):
        state, metrics = b.inner_loop(state, kept, (x, y), rows)
        gradients = jax.device_get(b.dense_gradient(state, kept, (x, y), rows))
        assert {g.dtype.name for g in gradients.values()} == {"float32"}
        state, kept, _ = subspace.removal_addition(
            state, kept, gradients, rate=0.3, rule=subspace.Rule(), rng=rng)
    assert np.isfinite(metrics["loss"]).all()
    trained = jax.tree.leaves((state.posterior, state.params, state.model_state))
    assert {leaf.dtype.name for leaf in trained} == {"float32"}
"""


def run(*arguments):
    environment = {**os.environ, "JAX_ENABLE_X64": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_networks_with_batch_norm_train():
    run("-c", TRAINING)


@pytest.mark.slow
@pytest.mark.system
def test_the_command_trains(tmp_path):
    options = ["--preset", "smoke", "--dataset", "digits", "--model", "convnet"]
    options += ["--width", "0.25", "--epochs", "1"]
    out = run("experiments/cifar10.py", *options, "--out", str(tmp_path / "run"))
    assert "accuracy" in out
