"""Swaps by moves of a Metropolis-Hastings chain over masks (see `mask_chain`).

A swap makes `grow_batches` moves: k of a layer's weights leave and as many enter, k
from 1 to round(r_t · s_l). In a move θ are the means of the kept weights' Gaussians,
which phases of variational inference train. The target of moves is not tempered,
whatever the weight of the KL is.

Each move has two batches of its own, not augmented: one gives the gradients, times N,
the other judges.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core.rows import rows_of
from ssvi_jax.core.types import Data, Gaussian, Masks, Point, Subspace, Weights
from ssvi_jax.methods.algorithms import mask_chain
from ssvi_jax.methods.algorithms.swapping import Swapping
from ssvi_jax.metrics.cost import Growth
from ssvi_jax.ops import accumulate, shard
from ssvi_jax.vi import VI, State, subspace
from ssvi_jax.vi.forward import forward


@dataclasses.dataclass(frozen=True, eq=False)
class MaskMoves(Swapping):
    """`Swapping` with another swap.

    Attributes:
      slab_std: τ, standard deviation of the prior of kept weights.
      spike_std: ψ, size of weights that enter, and of those likely to leave.
    """

    slab_std: float = 0.1
    spike_std: float = 3e-3

    @property
    def growth(self) -> Growth | None:
        """Two gradients and two forward passes a move."""
        if not self.num_growth_batches(0):
            return None
        moves = 2 * self.grow_batches
        return Growth(self.problem.inner_steps, moves, True, moves)

    def num_growth_batches(self, step: int) -> int:
        """Two for each move."""
        return 2 * super().num_growth_batches(step)

    def swap(
        self,
        state: State,
        masks: Masks,
        data: Data,
        batch_index: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[State, Masks, dict[str, float]]:
        """One move for two batches; new weights start with no moments."""
        rate = self.rate(int(state.step))
        layers = start(state, masks)
        most = {
            path: max(subspace.num_swaps(mask, rate), int(not mask.all()))
            for path, mask in masks.items()
        }
        chain = mask_chain.Chain(
            self.slab_std, self.spike_std, self.problem.num_data, most
        )
        num_accepted, pairs = 0, batch_index.reshape(-1, 2, batch_index.shape[-1])
        for guide, judge in pairs:
            evaluate = partial(self.evaluate, state, masks, data, (guide, judge))
            layers, accepted = chain.move(layers, evaluate, rng)
            num_accepted += int(accepted)
        event = {
            "replacement_rate": rate,
            "num_swapped": sum(
                int(np.sum(layer.source == subspace.NEW)) for layer in layers.values()
            ),
            "acceptance_rate": num_accepted / len(pairs),
        }
        return *self.finish(state, masks, layers), event

    def evaluate(
        self,
        state: State,
        masks: Masks,
        data: Data,
        rows: tuple[np.ndarray, np.ndarray],
        layers: mask_chain.Layers,
        path: str,
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `mask_chain.Evaluate`: of the mean network.

        Args:
          state: the rest of the network.
          masks: for the kernels' shapes.
          data: the training set on the device.
          rows: int32 ``[batch]`` each, of the examples that guide and that judge.
          layers: the chain.
          path: the kernel of which the gradient is asked for.
        """
        points = {name: Point(jnp.asarray(q.mean)) for name, q in layers.items()}
        index = {name: jnp.asarray(q.index, jnp.int32) for name, q in layers.items()}
        shapes = tuple((name, masks[name].shape) for name in sorted(masks))
        weights = Weights(points, state.params, state.model_state)
        execution = self.inference.execution
        operands = execution.placed(
            (weights, state.key), Subspace(index, shapes), data, np.stack(rows)
        )
        nll, gradients = execution.local(_evaluate(self.inference, *operands))
        gradient = np.asarray(gradients[path], np.float64).reshape(-1)
        return np.asarray(nll, np.float64), -self.problem.num_data * gradient

    def finish(
        self, state: State, masks: Masks, layers: mask_chain.Layers
    ) -> tuple[State, Masks]:
        """The training state (donated) and masks where the chain has gone."""
        sources = {
            path: jnp.asarray(layer.source, jnp.int32) for path, layer in layers.items()
        }
        state = subspace.move(state, sources, self.rule)
        posterior, new_masks = {}, {}
        for path, layer in layers.items():
            packed = state.posterior[path]
            assert isinstance(packed, Gaussian)
            posterior[path] = packed._replace(mean=jnp.asarray(layer.mean))
            new_masks[path] = np.zeros(masks[path].shape, bool)
            new_masks[path].reshape(-1)[layer.index] = True
        return state._replace(posterior=posterior), new_masks


def start(state: State, masks: Masks) -> mask_chain.Layers:
    """The chain at a training state."""
    layers = {}
    for path, mask in sorted(masks.items()):  # the order in which rng is used
        index = np.flatnonzero(mask)
        mean = np.array(state.posterior[path].mean)
        layers[path] = mask_chain.Layer(index, mean, np.arange(index.size))
    return layers


@partial(jax.jit, static_argnums=0)
def _evaluate(inference: VI, model, subspace, data, rows):
    """The negative log-likelihoods of some examples, the gradients of others."""

    def of_part(model, subspace, data, rows):
        weights, key = model

        def nll(rows, probes=None):
            x, labels = rows_of(data, rows)
            output, _ = forward(
                inference.apply_fn,
                weights,
                subspace,
                x,
                key=key,
                estimator="mean",
                train=True,
                probes=probes,
                backend=inference.execution.multiplies(inference.apply_fn, subspace),
            )
            return -inference.log_prob(output, labels)

        def gradient(rows):
            return jax.grad(lambda probes: jnp.mean(nll(rows, probes)))(zeros)

        number = inference.execution.accumulate
        guide, judge = rows
        zeros = {path: jnp.zeros(shape) for path, shape in subspace.shapes}
        gradients = shard.mean(accumulate.mean(gradient, guide, number))
        return accumulate.each(nll, judge, number), gradients

    return inference.execution.over_devices(of_part)(model, subspace, data, rows)
