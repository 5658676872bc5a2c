"""Variational inference on a subspace: state, one step, M jitted steps, dense gradient.

**The scaling rule.** The objective that is minimized is per example, in nats::

    loss = mean over the batch of -log p(y | x, θ)  +  β_t / N · Σ KL(q(θ_i) ‖ p)

The sum runs over the *selected* coordinates only, N is the number of training examples
(not of batches), and β_t is `kl_weight(step)`: 1 is the exact ELBO divided by -N, below
1 is a cold posterior. (Li et al., arXiv 2402.11025, eq. 4, use β = 0.01.) Points have
no KL: with points alone the loss is the mean of -log p.

Only jax, optax and numpy are imported here; a model is any `types.ApplyFn`.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError, check_choice, check_positive, check_rows
from ssvi_jax.core.types import (
    ApplyFn,
    Augment,
    Data,
    LogLikelihood,
    Masks,
    ModelState,
    Params,
    ParamsKL,
    Subspace,
    Weights,
)
from ssvi_jax.ops import accumulate, shard
from ssvi_jax.vi import likelihoods, priors
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi import posterior as posterior_lib
from ssvi_jax.vi.forward import forward
from ssvi_jax.vi.state import State, Trainable

T = TypeVar("T")

ESTIMATORS = ("local_reparam", "flipout", "weight_sample")

DEFAULT_PRIOR = priors.GaussianPrior(std=0.1)

_GROWTH_STREAM = 0x67726F77  # separates growth from training in the key of one step


@dataclasses.dataclass(frozen=True, eq=False)
class VI:
    """Mean-field variational inference on the coordinates that masks select.

    On one device; `parallel.ShardedVI` is the same on several.

    Attributes:
      apply_fn: the network (see `adapters` for Flax models).
      tx: optimizer over `Trainable` (see `optimizers`).
      num_data: N, the number of training examples.
      prior: prior of every selected weight.
      estimator: "local_reparam", "flipout" or "weight_sample" (see `forward`).
      backend: "xla" or "sparse" (see `ops.backend.choose`).
      kl_weight: step → β_t (dimensionless), inside jit.
      augment: random transformation of a training batch, inside jit.
      log_likelihood: log p(y|x,θ) per example, in nats.
      is_bayesian: which parameters get a posterior; the rest is deterministic.
      params_kl: added to the KL, where the network's parameters are those of
        distributions that it draws from itself (see `rank1`).
      accumulate: parts that a batch is computed in (see `accumulate`); 1: at once.

    Raises:
      InputError: an unknown estimator, or N or a number of parts that is not positive.
    """

    apply_fn: ApplyFn
    tx: optax.GradientTransformation
    num_data: int
    prior: priors.Prior = DEFAULT_PRIOR
    estimator: str = "local_reparam"
    backend: str = "xla"
    kl_weight: Callable[[jax.Array], jax.typing.ArrayLike] = lambda step: 1.0
    augment: Augment | None = None
    log_likelihood: LogLikelihood = likelihoods.categorical_log_likelihood
    is_bayesian: trees.Predicate = trees.is_kernel
    params_kl: ParamsKL | None = None
    accumulate: int = 1

    def __post_init__(self):
        check_choice("estimator", self.estimator, ESTIMATORS)
        check_positive("num_data", self.num_data)
        check_positive("accumulate", self.accumulate)

    def kernel_shapes(self, params: Params) -> dict[str, tuple[int, ...]]:
        """Path → full shape of every kernel that gets a posterior.

        In the order in which the network applies them, and as it does so, if it knows
        (see `types.ApplyFn`); kernels that it does not know follow, sorted by name.
        """
        chosen, _ = trees.split(params, self.is_bayesian)
        shapes = {path: tuple(leaf.shape) for path, leaf in chosen.items()}
        known = getattr(self.apply_fn, "kernel_shapes", {})
        fitting = {p: shape for p, shape in known.items() if shapes.get(p) == shape}
        return fitting | {p: s for p, s in shapes.items() if p not in fitting}

    def init(
        self,
        key: jax.Array,
        params: Params,
        model_state: ModelState,
        masks: Masks,
        *,
        mean_std: float | None = None,
        sigma_init: tuple[float, float] | None = (6e-4, 5e-4),
        means: Params | None = None,
    ) -> State:
        """The state before the first step.

        Args:
          key: random key of the whole run.
          params: full parameters; values of Bayesian kernels are not used, even of a
            trained network: see `means`.
          model_state: initial running statistics.
          masks: boolean arrays, one for each path of `kernel_shapes`.
          mean_std: see `posterior.init`.
          sigma_init: see `posterior.init`.
          means: full parameters, as those of a trained network, whose selected weights
            are the initial means (often `params` itself); None: they are drawn.

        Raises:
          InputError: the masks, or the means, are not those of the model's kernels.
        """
        shapes = self.kernel_shapes(params)
        got = {path: tuple(mask.shape) for path, mask in masks.items()}
        if got != shapes:
            wrong = sorted(set(got.items()) ^ set(shapes.items()))
            raise InputError(
                f"masks: differ from the model's kernels at {wrong[:4]}; needed: one "
                "boolean array of the full shape for each path of kernel_shapes()."
            )
        key_posterior, key_run = jax.random.split(key)
        posterior = posterior_lib.init(
            key_posterior,
            masks_lib.to_subspace(masks),
            mean_std=mean_std,
            sigma_init=sigma_init,
            shapes=shapes,
            means=None if means is None else trees.flatten(means),
        )
        # Copies, because the inner loop donates its state and with it these buffers.
        _, rest = trees.split(params, self.is_bayesian)
        rest, model_state = jax.tree.map(jnp.array, (rest, dict(model_state)))
        opt_state = jax.tree.map(jnp.array, self.tx.init(Trainable(posterior, rest)))
        return State(
            posterior, rest, model_state, opt_state, jnp.zeros((), jnp.int32), key_run
        )

    def negative_elbo(
        self,
        trainable: Trainable,
        model_state: ModelState,
        subspace: Subspace,
        batch: Data,
        key: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], ModelState]]:
        """The loss of one batch in nats per example (see the module's scaling rule).

        Returns:
          (loss, (metrics, new running statistics)); metrics are scalars: loss, nll
          (nats per example), kl (nats, total), kl_weight (β_t / N), accuracy (fraction;
          of integer labels, else NaN).
        """
        x, labels = batch
        weights = Weights(*trainable, model_state)
        key_noise, key_prior = jax.random.split(key)
        output, model_state = forward(
            self.apply_fn,
            weights,
            subspace,
            x,
            key=key_noise,
            estimator=self.estimator,
            train=True,
            backend=self.backend,
        )
        nll = -jnp.mean(self.log_likelihood(output, labels))
        kl = self._kl(trainable, key_prior)
        kl_weight = jnp.asarray(self.kl_weight(step)) / self.num_data
        loss = nll + kl_weight * kl
        metrics = {
            "loss": loss,
            "nll": nll,
            "kl": kl,
            "kl_weight": kl_weight,
            "accuracy": likelihoods.accuracy(output, labels),
        }
        return loss, (metrics, model_state)

    def _kl(self, trainable: Trainable, key: jax.Array) -> jax.Array:
        total = jnp.zeros(())
        for i, packed in enumerate(trainable.posterior.values()):
            sigma = posterior_lib.sigma_of(packed)
            if sigma is not None:
                key_i = jax.random.fold_in(key, i)
                total += self.prior.kl(packed.mean, sigma, key_i)
        if self.params_kl is not None:
            key = jax.random.fold_in(key, len(trainable.posterior))
            total += self.params_kl(trainable.params, key)
        return total

    def update(
        self, state: State, subspace: Subspace, batch: Data
    ) -> tuple[State, dict[str, jax.Array]]:
        """One optimizer step; pure, to be called inside jit.

        The batch may be one shard of it (see `ops.shard`): what comes back is the same
        on all of them.

        Args:
          state: the training state.
          subspace: the selected coordinates, `masks.to_subspace(masks)`.
          batch: inputs ``[batch, ...]`` and labels ``[batch]``.

        Returns:
          The new state and the metrics of `negative_elbo`.
        """
        key_augment, key_loss = jax.random.split(
            jax.random.fold_in(state.key, state.step)
        )
        trainable = Trainable(state.posterior, state.params)

        def found(part):
            x, labels = part
            if self.augment is not None:
                x = self.augment(x, key_augment)
            return jax.grad(self.negative_elbo, has_aux=True)(
                *(trainable, state.model_state, subspace, (x, labels)),
                *(key_loss, state.step),
            )

        grads, (metrics, model_state) = shard.mean(
            accumulate.mean(found, batch, self.accumulate)
        )
        updates, opt_state = self.tx.update(grads, state.opt_state, trainable)
        trainable = cast(Trainable, optax.apply_updates(trainable, updates))
        state = State(*trainable, model_state, opt_state, state.step + 1, state.key)
        return state, metrics

    def inner_loop(
        self, state: State, masks: Masks, data: Data, batch_index: np.ndarray
    ) -> tuple[State, dict[str, jax.Array]]:
        """M steps with frozen masks in one jitted call.

        The state is donated: do not use the argument afterwards. Masks are an ordinary
        argument, so that rewriting them compiles nothing new.

        Args:
          state: the training state.
          masks: the basis selection.
          data: the training set on the device.
          batch_index: int32 ``[M, batch]``, the rows of each step's batch.

        Returns:
          The new state and metrics of shape ``[M]`` (see `negative_elbo`).
        """
        check_rows("batch_index", batch_index, len(data[1]))
        subspace = masks_lib.to_subspace(masks, state.posterior)
        operands = self.placed(state, subspace, data, batch_index)
        return self.local(self._scan(*operands))

    @partial(jax.jit, static_argnames="self", donate_argnames="state")
    def _scan(self, state, subspace, data, batch_index):
        steps = self.over_devices(self.steps)
        return steps(state, subspace, data, batch_index)

    def steps(
        self, state: State, subspace: Subspace, data: Data, batch_index: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        """What `inner_loop` does; pure, to be called inside jit."""

        def body(state, rows):
            return self.update(state, subspace, (data[0][rows], data[1][rows]))

        return jax.lax.scan(body, state, batch_index)

    def dense_gradient(
        self,
        state: State,
        masks: Masks,
        data: Data,
        batch_index: np.ndarray,
        *,
        at_mean: bool = False,
    ) -> dict[str, jax.Array]:
        """Abs gradient of the mean loss with respect to *every* mean, kept or not.

        Args:
          state: the training state (not changed).
          masks: the basis selection.
          data: the training set on the device.
          batch_index: int32 ``[grow_batches, batch]``.
          at_mean: differentiate the mean network instead of the sampled one.

        Returns:
          Path → float32 array of the kernel's full shape.
        """
        estimator = "mean" if at_mean else self.estimator
        check_rows("batch_index", batch_index, len(data[1]))
        subspace = masks_lib.to_subspace(masks, state.posterior)
        operands = self.placed(state, subspace, data, batch_index)
        return self.local(self._dense_gradient(*operands, estimator))

    @partial(jax.jit, static_argnames=("self", "estimator"))
    def _dense_gradient(self, state, subspace, data, batch_index, estimator):
        growth = self.over_devices(partial(self.growth, estimator=estimator))
        return growth(state, subspace, data, batch_index)

    def growth(
        self,
        state: State,
        subspace: Subspace,
        data: Data,
        batch_index: jax.Array,
        estimator: str,
    ) -> dict[str, jax.Array]:
        """What `dense_gradient` does; pure, to be called inside jit."""
        key = jax.random.fold_in(
            jax.random.fold_in(state.key, state.step), _GROWTH_STREAM
        )

        def loss(probes, rows, key):
            key_augment, key_forward = jax.random.split(key)
            x = data[0][rows]
            if self.augment is not None:
                x = self.augment(x, key_augment)
            output, _ = forward(
                self.apply_fn,
                state.weights,
                subspace,
                x,
                key=key_forward,
                estimator=estimator,
                train=True,
                probes=probes,
                backend=self.backend,
            )
            return -jnp.mean(self.log_likelihood(output, data[1][rows]))

        number, size = batch_index.shape
        parts = accumulate.cut(size, self.accumulate)

        def body(total, item):
            rows, i = item
            with shard.part(i % self.accumulate, self.accumulate):
                batch_key = jax.random.fold_in(key, i // self.accumulate)
                grads = jax.grad(loss)(zeros, rows, batch_key)
            return jax.tree.map(jnp.add, total, grads), None

        zeros = {path: jnp.zeros(s, jnp.float32) for path, s in subspace.shapes}
        number *= self.accumulate
        rows = batch_index.reshape(number, parts[1])
        total, _ = jax.lax.scan(body, zeros, (rows, jnp.arange(number)))
        return jax.tree.map(lambda g: jnp.abs(g) / number, shard.mean(total))

    def placed(
        self, state: T, subspace: Subspace, data: Data, batch_index: np.ndarray
    ) -> tuple[T, Subspace, Data, jax.typing.ArrayLike]:
        """The operands where `over_devices` wants them; here, where they are."""
        return state, subspace, data, batch_index

    def over_devices(self, function: Callable[..., T]) -> Callable[..., T]:
        """A function of such operands on what it runs on; inside jit. Here, itself.

        What it returns must be the same for every part of a batch.
        """
        return function

    def local(self, tree: T) -> T:
        """What such a function returned, as ordinary arrays."""
        return tree

    def sample(self, state: State, masks: Masks, key: jax.Array) -> Params:
        """Full parameters with one draw of the posterior; pruned weights are 0."""
        subspace = masks_lib.to_subspace(masks, state.posterior)
        draws = posterior_lib.sample(state.posterior, subspace, key)
        return trees.merge(state.params, draws)
