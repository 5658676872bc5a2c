"""Rank-1 Bayesian networks and BatchEnsemble as methods (arXiv 2005.07186).

The members are the network's affair (`networks.rank1_factors`), so training is that of
another method with two terms changed: the KL of the factors, and the likelihood of K
members. Dense kernels are trained as by `deterministic`; with a sparsity they are
points on a subspace, of which the smallest leave and those with the largest gradient
enter.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import ApplyFn, ModelState, PackedKernel, Params
from ssvi_jax.methods import deterministic, ssvi
from ssvi_jax.methods.base import Problem, check_unused
from ssvi_jax.networks.network import ImageNetwork
from ssvi_jax.networks.rank1_factors import Rank1Spec
from ssvi_jax.networks.rank1_priors import FastPrior, check_pair
from ssvi_jax.ops import shard
from ssvi_jax.training.presets import RANK1_METHODS
from ssvi_jax.training.run_config import Config
from ssvi_jax.vi import likelihoods, schedules


def spec(config: Config) -> Rank1Spec | None:
    """The factors that a configuration asks for; None with any other method."""
    if config.method not in RANK1_METHODS:
        return None
    is_point = config.method == "batch_ensemble"
    return Rank1Spec(
        num_members=config.members,
        posterior="point" if is_point else config.fast_posterior,
        relative=config.fast_relative_sigma,
        init=config.fast_init,
        sign_probability=config.fast_sign_probability,
        sigma_init=config.fast_sigma_init,
    )


_KERNELS_UNUSED = (
    *("estimator", "prior", "prior_std", "sigma_init", "growth_init"),
    "grow_at_mean",
)
_FACTORS_UNUSED = (
    *("kl_scale", "kl_warmup", "sigma_learning_rate", "fast_posterior"),
    *("fast_prior", "fast_prior_scale", "fast_sigma_init", "fast_relative_sigma"),
)


def build(config: Config, problem: Problem) -> deterministic.Deterministic | ssvi.SSVI:
    """Builds either method from a configuration.

    Raises:
      InputError: settings that do not fit together, or that would be ignored.
    """
    network = problem.apply_fn
    assert isinstance(network, ImageNetwork)
    check_unused(config, _KERNELS_UNUSED, "its kernels are point estimates")
    if not network.is_random:
        check_unused(config, _FACTORS_UNUSED, "its factors are point estimates")
    tile = config.member_batch == "tile"
    if not tile and config.batch_size % config.members:
        raise InputError(
            f"--batch-size: got {config.batch_size} for --members {config.members}, "
            "allowed: a multiple of it (or --member-batch tile)."
        )
    if config.bound == "mixture" and not tile:
        raise InputError(
            "--bound: got mixture with --member-batch split, allowed: tile (every "
            "member must see every example)."
        )
    if config.sparsity or config.densities.endswith(".json"):
        base = ssvi.build(config, problem, points=True)
    else:
        base = deterministic.build(config, problem)
    changes = {}
    if network.is_random:
        check_pair(config.fast_posterior, config.fast_prior)
        prior = FastPrior(config.fast_prior, config.fast_prior_scale)
        changes["params_kl"] = partial(network.kl, prior)
        changes["kl_weight"] = schedules.kl_weight(
            config.kl_scale, problem.total_steps, config.kl_warmup
        )
    if tile:
        changes["apply_fn"] = Tiled(network, config.members)
        changes["log_likelihood"] = BOUNDS[config.bound]
    inference = dataclasses.replace(base.inference, **changes)
    return dataclasses.replace(base, inference=inference)


@dataclasses.dataclass(frozen=True, eq=False)
class Tiled:
    """An `ApplyFn` that gives every example to every one of K members.

    Attributes:
      network: cuts its batch into K equal blocks, one a member.
      num_members: K.
    """

    network: ApplyFn
    num_members: int

    def __call__(
        self,
        params: Params,
        model_state: ModelState,
        x: jax.Array,
        *,
        train: bool,
        key: jax.Array,
        kernels: Mapping[str, PackedKernel] | None = None,
    ) -> tuple[jax.Array, ModelState]:
        """See `types.ApplyFn`, but for logits ``[batch, K, classes]``."""
        options = {"kernels": kernels} if kernels else {}
        tiled = jnp.tile(x, (self.num_members, *(1,) * (x.ndim - 1)))
        with shard.tiled(self.num_members):
            logits, model_state = self.network(
                params, model_state, tiled, train=train, key=key, **options
            )
        members = logits.reshape(self.num_members, len(x), *logits.shape[1:])
        return members.swapaxes(0, 1), model_state


def average_log_likelihood(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over K members of log p(y|x), ``[batch]`` in nats.

    Args:
      logits: ``[batch, K, classes]``.
      labels: integers ``[batch]``.
    """
    return jnp.mean(_each_log_likelihood(logits, labels), axis=-1)


def mixture_log_likelihood(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Log of the mean over K members of p(y|x), likewise; at least their average."""
    each = _each_log_likelihood(logits, labels)
    return jax.nn.logsumexp(each, axis=-1) - jnp.log(each.shape[-1])


def _each_log_likelihood(logits: jax.Array, labels: jax.Array) -> jax.Array:
    labels = jnp.broadcast_to(labels[:, None], logits.shape[:-1])
    return likelihoods.categorical_log_likelihood(logits, labels)


BOUNDS = {"average": average_log_likelihood, "mixture": mixture_log_likelihood}
