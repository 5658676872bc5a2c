"""Trains tiny networks on one and on several devices and saves what comes out.

Run by test_parallel.py, in a process where a CPU is several devices::

    python parallel_run.py OUT.npz
"""

import sys
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import traffic
from flax import nnx

from ssvi_jax import data, vi
from ssvi_jax.data.augment import crop_and_flip
from ssvi_jax.networks import adapters
from ssvi_jax.ops import custom_calls
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi.devices import Devices
from ssvi_jax.vi.execution import Execution

BATCH, STEPS = 32, 3


class Net(nn.Module):
    """Two convolutions with batch norm, and a dense layer on every pixel and on all."""

    channels: tuple[int, int] = (4, 6)

    @nn.compact
    def __call__(self, x, *, train):
        """Maps ``[batch, 8, 8, 1]`` to logits ``[batch, 10]``."""
        x = jnp.asarray(x, jnp.float32) / 16.0
        for i, channels in enumerate(self.channels):
            x = nn.Conv(channels, (3, 3), strides=i + 1, name=f"conv{i}")(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            x = nn.relu(x)
        x = nn.relu(nn.Dense(6, name="pixels")(x))
        return nn.Dense(10, name="linear")(x.mean((1, 2)))


class NnxNet(nnx.Module):
    """One convolution with batch norm, and a dense layer."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, momentum=0.9, rngs=rngs)
        self.linear = nnx.Linear(6, 10, rngs=rngs)

    def __call__(self, x):
        """Maps ``[batch, 8, 8, 1]`` to logits ``[batch, 10]``."""
        x = nnx.relu(self.norm(self.conv(jnp.asarray(x, jnp.float32) / 16.0)))
        return self.linear(x.mean((1, 2)))


CASES: dict[str, dict] = {
    "local_reparam": {},
    "flipout": {"estimator": "flipout", "library": "nnx", "accumulate": 2},
}
if custom_calls.available():
    CASES["sparse"] = {"backend": "sparse", "accumulate": 2}


def problem(
    images,
    labels,
    *,
    library="linen",
    estimator="local_reparam",
    backend="xla",
    **execution,
):
    """A VI, a function that makes its state, and its masks."""
    module = NnxNet(nnx.Rngs(0)) if library == "nnx" else Net()
    x = jnp.asarray(images[:1])
    model, params, model_state = adapters.from_flax(module, x, key=jax.random.key(0))
    inference = vi.VI(
        model,
        optax.sgd(0.05, momentum=0.9),
        num_data=len(labels),
        augment=partial(crop_and_flip, pad=1, flip=True),
        kl_weight=lambda step: 0.1,
        estimator=estimator,
        execution=Execution(backend, **execution),
    )
    rng = np.random.default_rng(0)
    shapes = inference.kernel_shapes(params)
    masks = masks_lib.create(shapes, sparsity=0.4, rng=rng)
    operands = (jax.random.key(1), params, model_state, masks)
    return inference, partial(inference.init, *operands, sigma_init=(0.2, 0.0)), masks


def results(inference, init, masks, batches):
    """Traces, state and dense gradient after some steps, by path.

    Data and rows of the first batches come from a function of their number.
    """
    growth = inference.dense_gradient(init(), masks, *batches(2))
    state, traces = inference.inner_loop(init(), masks, *batches(STEPS))
    state = state._replace(key=jax.random.key_data(state.key))
    found = {"state": state, "traces": traces, "growth": growth}
    leaves = jax.tree_util.tree_flatten_with_path(found)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def streamed(images, labels, rows, *, accumulate, **options):
    """The results of 2 devices, each of which gets its own examples only."""
    options |= {"accumulate": accumulate, "devices": 2, "streamed": True}
    inference, init, masks = problem(images, labels, **options)
    devices = Devices(2)

    def batches(number):
        taken = rows[:number, devices.columns(BATCH, accumulate)].ravel()
        examples = images[taken], labels[taken]
        placed, order = devices.place_batches(examples, number, accumulate)
        parts = {len(shard.data) for shard in placed[0].addressable_shards}
        assert parts == {number * BATCH // 2}
        return placed, order

    found = results(inference, init, masks, batches)
    return {f"streamed|2|{path}": value for path, value in found.items()}


def bytes_of_a_step(**options):
    """Bytes that the compiled inner loop and dense gradient exchange, and weights."""
    model = adapters.LinenModel(Net((128, 256)))
    x = jnp.zeros((1, 8, 8, 1))
    params, model_state = model.init(jax.random.key(0), x)
    tx, execution = optax.sgd(0.1), Execution("xla", devices=8)
    sharded = vi.VI(model, tx, num_data=100, execution=execution)
    rng = np.random.default_rng(0)
    shapes = sharded.kernel_shapes(params)
    masks = masks_lib.create(shapes, sparsity=0.95, rng=rng)
    state = sharded.init(jax.random.key(0), params, model_state, masks, **options)
    dataset = jnp.zeros((BATCH, 8, 8, 1)), jnp.zeros(BATCH, jnp.int32)
    rows = np.zeros((2, BATCH), np.int32)
    operands = execution.placed(state, masks_lib.to_subspace(masks), dataset, rows)
    loop = sharded._scan.lower(sharded, *operands)
    growth = sharded._dense_gradient.lower(sharded, *operands, sharded.estimator)
    weights = sum(mask.size for mask in masks.values())
    texts = [f.compile().as_text() or "" for f in (loop, growth)]
    return np.array([*map(traffic.message_bytes, texts), weights])


def main(out):
    """Everything, into one file."""
    digits = data.load("digits")
    images, labels = digits.train_images[:256], digits.train_labels[:256]
    dataset = jnp.asarray(images), jnp.asarray(labels)
    rng = np.random.default_rng(0)
    rows = rng.permutation(256)[: STEPS * BATCH].reshape(STEPS, BATCH)
    saved = {}
    for name, options in CASES.items():
        for number in (1, 2) if name == "flipout" else (1, 8):
            several = problem(images, labels, devices=number, **options)
            found = results(*several, lambda n: (dataset, rows[:n]))
            saved |= {f"{name}|{number}|{path}": v for path, v in found.items()}
    saved |= streamed(images, labels, rows, **CASES["flipout"])
    saved["bytes ssvi"] = bytes_of_a_step()
    saved["bytes points"] = bytes_of_a_step(sigma_init=None)
    np.savez(out, **saved)


if __name__ == "__main__":
    main(sys.argv[1])
