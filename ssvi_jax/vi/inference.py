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
from functools import cached_property, partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssvi_jax.core import trees
from ssvi_jax.core.errors import check_choice, check_positive
from ssvi_jax.core.rows import rows_of
from ssvi_jax.core.types import (
    ApplyFn,
    Augment,
    Data,
    Masks,
    ModelState,
    Params,
    ParamsKL,
    Subspace,
    Weights,
)
from ssvi_jax.ops import accumulate, shard
from ssvi_jax.vi import checks, likelihoods, optimizer_state, priors, weight_decay
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi import posterior as posterior_lib
from ssvi_jax.vi.execution import Execution
from ssvi_jax.vi.forward import forward, ordered_shapes, output_shape
from ssvi_jax.vi.state import State, Trainable

ESTIMATORS = ("local_reparam", "flipout", "weight_sample")
"""How the gradient of a random network is estimated."""

DEFAULT_PRIOR = priors.GaussianPrior(std=0.1)

_GROWTH_STREAM = 0x67726F77  # separates growth from training in the key of one step


@dataclasses.dataclass(frozen=True)
class VI:
    """Mean-field variational inference on the coordinates that masks select.

    Two of equal values share their compiled programs.

    Attributes:
      apply_fn: the network (see `adapters` for Flax models).
      tx: optimizer over `Trainable` (see `optimizers`).
      num_data: N, the number of training examples.
      prior: prior of every selected weight.
      estimator: "local_reparam", "flipout" or "weight_sample" (see `forward`).
      kl_weight: step → β_t (dimensionless), inside jit.
      augment: random transformation of a training batch, inside jit.
      likelihood: log p(y | output); a function of output and labels is taken too.
      is_bayesian: which parameters get a posterior; the rest is deterministic.
      params_kl: added to the KL, where the network's parameters are those of
        distributions that it draws from itself (see `rank1`).
      execution: what multiplies, on which devices, in how many parts.
      decay_sigma: let the optimizer's weight decay pull rho too (see `weight_decay`).
      draws: how often the noise of a step is drawn; gradients are averaged.

    Raises:
      InputError: an unknown estimator, or N or draws that are not positive.
    """

    apply_fn: ApplyFn
    tx: optax.GradientTransformation
    num_data: int
    prior: priors.Prior = DEFAULT_PRIOR
    estimator: str = "local_reparam"
    kl_weight: Callable[[jax.Array], jax.typing.ArrayLike] = lambda step: 1.0
    augment: Augment | None = None
    likelihood: likelihoods.LikelihoodLike = likelihoods.Categorical()  # noqa: RUF009
    is_bayesian: trees.Predicate = trees.is_kernel
    params_kl: ParamsKL | None = None
    execution: Execution = Execution()  # noqa: RUF009 (immutable)
    decay_sigma: bool = False
    draws: int = 1

    def __post_init__(self):
        check_choice("estimator", self.estimator, ESTIMATORS)
        check_positive("num_data", self.num_data)
        check_positive("draws", self.draws)

    def log_prob(self, output: Any, labels: Any) -> jax.Array:
        """Log p(y | output) of each example ``[batch]``, in nats."""
        values = likelihoods.as_likelihood(self.likelihood).log_prob(output, labels)
        return checks.per_example(values, labels)

    def kernel_shapes(self, params: Params) -> dict[str, tuple[int, ...]]:
        """Kernels that get a posterior, as `forward.ordered_shapes` tells them."""
        chosen, _ = trees.split(params, self.is_bayesian)
        return ordered_shapes(self.apply_fn, chosen)

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
        identity: bool = False,
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
          identity: whether convolutions begin as the identity, see `dirac`.

        Raises:
          InputError: the masks, or the means, are not those of the model's kernels, or
            the optimizer cannot train them (see `optimizer_state.traits`).
        """
        shapes = self.kernel_shapes(params)
        checks.check_masks(masks, shapes)
        key_posterior, key_run = jax.random.split(key)
        posterior = posterior_lib.init(
            key_posterior,
            masks_lib.to_subspace(masks),
            mean_std=mean_std,
            sigma_init=sigma_init,
            shapes=shapes,
            means=None if means is None else trees.flatten(means),
            identity=identity,
        )
        # Copies, because the inner loop donates its state and with it these buffers.
        _, rest = trees.split(params, self.is_bayesian)
        rest, model_state = jax.tree.map(jnp.array, (rest, dict(model_state)))
        trainable = Trainable(posterior, rest)
        traits = optimizer_state.traits(
            self.tx, trainable, decay_sigma=self.decay_sigma
        )
        opt_state = jax.tree.map(jnp.array, self.tx.init(trainable))
        step = jnp.zeros((), jnp.int32)
        return State(*trainable, model_state, opt_state, step, key_run, traits)

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
          (nats per example), kl (nats, total), kl_weight (β_t / N), and those of the
          likelihood, as accuracy (a fraction).
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
            backend=self.execution.multiplies(self.apply_fn, subspace),
        )
        nll = -jnp.mean(self.log_prob(output, labels))
        kl = self._kl(trainable, key_prior)
        kl_weight = jnp.asarray(self.kl_weight(step)) / self.num_data
        loss = nll + kl_weight * kl
        metrics = {
            "loss": loss,
            "nll": nll,
            "kl": kl,
            "kl_weight": kl_weight,
            **likelihoods.as_likelihood(self.likelihood).metrics(output, labels),
        }
        return loss, (metrics, model_state)

    def _kl(self, trainable: Trainable, key: jax.Array) -> jax.Array:
        total = posterior_lib.kl(self.prior, trainable.posterior, key)
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

            def of_draw(key):
                return jax.grad(self.negative_elbo, has_aux=True)(
                    *(trainable, state.model_state, subspace, (x, labels)),
                    *(key, state.step),
                )

            if self.draws == 1:
                return of_draw(key_loss)
            keys = jax.random.split(key_loss, self.draws)
            return accumulate.mean_over(of_draw, keys, self.draws)

        grads, (metrics, model_state) = shard.mean(
            accumulate.mean(found, batch, self.execution.accumulate)
        )
        seen = weight_decay.seen(trainable, hides_rho=state.traits.hides_rho)
        updates, opt_state = self.tx.update(grads, state.opt_state, seen)
        trainable = cast(Trainable, optax.apply_updates(trainable, updates))
        rest = model_state, opt_state, state.step + 1, state.key, state.traits
        return State(*trainable, *rest), metrics

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

        Raises:
          InputError: masks, data, rows or labels that do not fit (see `checks`).
        """
        subspace = masks_lib.to_subspace(masks, state.posterior)
        self._check(state, subspace, data, batch_index)
        operands = self.execution.placed(state, subspace, data, batch_index)
        return self.execution.local(self._scan(*operands))

    @partial(jax.jit, static_argnames="self", donate_argnames="state")
    def _scan(self, state, subspace, data, batch_index):
        steps = self.execution.over_devices(self.steps)
        return steps(state, subspace, data, batch_index)

    def steps(
        self, state: State, subspace: Subspace, data: Data, batch_index: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        """What `inner_loop` does; pure, to be called inside jit."""

        def body(state, rows):
            return self.update(state, subspace, rows_of(data, rows))

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

        Raises:
          InputError: see `inner_loop`.
        """
        estimator = "mean" if at_mean else self.estimator
        subspace = masks_lib.to_subspace(masks, state.posterior)
        self._check(state, subspace, data, batch_index)
        operands = self.execution.placed(state, subspace, data, batch_index)
        return self.execution.local(self._dense_gradient(*operands, estimator))

    @partial(jax.jit, static_argnames=("self", "estimator"))
    def _dense_gradient(self, state, subspace, data, batch_index, estimator):
        growth = self.execution.over_devices(partial(self.growth, estimator=estimator))
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
            x, labels = rows_of(data, rows)
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
                backend=self.execution.multiplies(self.apply_fn, subspace),
            )
            return -jnp.mean(self.log_prob(output, labels))

        number, size = batch_index.shape
        num_parts = self.execution.accumulate
        parts = accumulate.cut(size, num_parts)

        def body(total, item):
            rows, i = item
            with shard.part(i % num_parts, num_parts):
                batch_key = jax.random.fold_in(key, i // num_parts)
                grads = jax.grad(loss)(zeros, rows, batch_key)
            return jax.tree.map(jnp.add, total, grads), None

        zeros = {path: jnp.zeros(s, jnp.float32) for path, s in subspace.shapes}
        number *= num_parts
        rows = batch_index.reshape(number, parts[1])
        total, _ = jax.lax.scan(body, zeros, (rows, jnp.arange(number)))
        return jax.tree.map(lambda g: jnp.abs(g) / number, shard.mean(total))

    def _check(self, state, subspace, data, batch_index) -> None:
        checks.check_batches(data, batch_index)
        if isinstance(self.likelihood, likelihoods.Categorical):
            outputs = partial(
                output_shape,
                *(self.apply_fn, state.weights, subspace, data[0]),
                *(batch_index.shape[1], self.augment, self.estimator),
                self.execution.multiplies(self.apply_fn, subspace),
            )
            self._labels.check(data[1], outputs)

    @cached_property
    def _labels(self) -> checks.Labels:
        return checks.Labels()

    def sample(self, state: State, masks: Masks, key: jax.Array) -> Params:
        """Full parameters with one draw of the posterior; pruned weights are 0."""
        subspace = masks_lib.to_subspace(masks, state.posterior)
        draws = posterior_lib.sample(state.posterior, subspace, key)
        return trees.merge(state.params, draws)
