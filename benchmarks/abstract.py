"""Networks and training states of which only shapes are computed, for counting."""

from typing import NamedTuple

import jax
import numpy as np

from ssvi_jax import vi
from ssvi_jax.core.types import Masks, Subspace
from ssvi_jax.methods.algorithms.sgd import sgd
from ssvi_jax.networks.network import ImageNetwork, NetworkSpec
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi.execution import Execution


class Training(NamedTuple):
    """SSVI on one network; nothing of the state is computed."""

    network: ImageNetwork
    inference: vi.VI
    masks: Masks
    subspace: Subspace
    state: vi.State


def training(spec: NetworkSpec, sparsity: float, devices: int = 1) -> Training:
    """A training of the network at its start, on so many devices that run XLA."""
    network = ImageNetwork(spec)
    params, model_state = jax.eval_shape(network.init, jax.random.key(0))
    execution = Execution("xla", devices=devices)
    inference = vi.VI(network, sgd(0.1), num_data=50_000, execution=execution)
    shapes = inference.kernel_shapes(params)
    masks = masks_lib.create(shapes, sparsity, np.random.default_rng(0))

    def init(params, model_state):
        return inference.init(jax.random.key(0), params, model_state, masks)

    state = jax.eval_shape(init, params, model_state)
    return Training(network, inference, masks, masks_lib.to_subspace(masks), state)
