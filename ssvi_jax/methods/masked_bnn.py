"""A masked Bayesian network: masks sampled by Metropolis-Hastings between phases.

After Kong et al., "Masked Bayesian Neural Networks: Theoretical Guarantee and its
Posterior Inference", ICML 2023, arXiv 2305.14765. A swap makes `--grow-batches` moves
of `mask_chain`: k of a layer's weights leave and as many enter, k from 1 to
round(r_t · s_l), with τ = `--prior-std` and ψ = `--spike-std`. In a move θ are the
means of the kept weights' Gaussians, which phases of variational inference train as in
SSVI. The target of moves is not tempered, whatever `--kl-scale` is.

Each move has two batches of its own, not augmented: one gives the gradients, times N,
the other judges.

What differs from the paper: it masks nodes, whose number is random, and samples the
weights by HMC or SGLD; here weights are masked, their number in a layer is fixed, as
packed arrays need, and given a mask their distribution is a mean-field Gaussian.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax import vi
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Gaussian, Masks, Point, Subspace, Weights
from ssvi_jax.methods import mask_chain, ssvi
from ssvi_jax.methods.base import Problem, check_unused
from ssvi_jax.ops import accumulate, shard
from ssvi_jax.training.run_config import Config
from ssvi_jax.vi import subspace
from ssvi_jax.vi.forward import forward


class MaskedBNN(ssvi.SSVI):
    """SSVI with another swap; made by `build`."""

    def num_growth_batches(self, step: int) -> int:
        """Two for each move."""
        return 2 * super().num_growth_batches(step)

    def swap(
        self,
        state: vi.State,
        masks: Masks,
        data: vi.Data,
        batch_index: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[vi.State, Masks, dict[str, float]]:
        """One move for two batches; new weights start with no moments."""
        rate = self.rate(int(state.step))
        layers = start(state, masks)
        most = {
            path: max(subspace.num_swaps(mask, rate), int(not mask.all()))
            for path, mask in masks.items()
        }
        chain = mask_chain.Chain(
            self.config.prior_std, self.config.spike_std, self.problem.num_data, most
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
        state: vi.State,
        masks: Masks,
        data: vi.Data,
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
        operands = self.inference.placed(
            (weights, state.key), Subspace(index, shapes), data, np.stack(rows)
        )
        nll, gradients = self.inference.local(self._evaluate(*operands))
        gradient = np.asarray(gradients[path], np.float64).reshape(-1)
        return np.asarray(nll, np.float64), -self.problem.num_data * gradient

    @partial(jax.jit, static_argnames="self")
    def _evaluate(self, model, subspace, data, rows):
        evaluate = self.inference.over_devices(self._evaluate_part)
        return evaluate(model, subspace, data, rows)

    def _evaluate_part(self, model, subspace, data, rows):
        weights, key = model

        def nll(rows, probes=None):
            output, _ = forward(
                self.problem.apply_fn,
                weights,
                subspace,
                data[0][rows],
                key=key,
                estimator="mean",
                train=True,
                probes=probes,
                backend=self.inference.backend,
            )
            return -self.inference.log_likelihood(output, data[1][rows])

        def gradient(rows):
            return jax.grad(lambda probes: jnp.mean(nll(rows, probes)))(zeros)

        number = self.inference.accumulate
        guide, judge = rows
        zeros = {path: jnp.zeros(shape) for path, shape in subspace.shapes}
        gradients = shard.mean(accumulate.mean(gradient, guide, number))
        return accumulate.each(nll, judge, number), gradients

    def finish(
        self, state: vi.State, masks: Masks, layers: mask_chain.Layers
    ) -> tuple[vi.State, Masks]:
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


def start(state: vi.State, masks: Masks) -> mask_chain.Layers:
    """The chain at a training state."""
    layers = {}
    for path, mask in sorted(masks.items()):  # the order in which rng is used
        index = np.flatnonzero(mask)
        mean = np.array(state.posterior[path].mean)
        layers[path] = mask_chain.Layer(index, mean, np.arange(index.size))
    return layers


def build(config: Config, problem: Problem) -> MaskedBNN:
    """Builds the masked Bayesian network.

    Raises:
      InputError: see `ssvi.build`; a batch of one, another prior, or settings of what
        leaves and enters.
    """
    chosen = ("removal", "removal_lambda", "addition")
    check_unused(config, chosen, "a chain decides what leaves and enters")
    check_unused(config, ("grow_at_mean",), "its chain is at the means")
    check_unused(config, ("prior",), "its slab is Gaussian")
    if config.batch_size < 2 < problem.num_data:
        raise InputError(
            f"--batch-size: got {config.batch_size}, allowed with --method "
            f"{config.method}: 2 or more, of which a variance can be estimated."
        )
    return MaskedBNN(**vars(ssvi.build(config, problem)))
