"""The packed mean-field posterior: initialization, sampling, and unpacking."""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ssvi_jax import ops
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import (
    Gaussian,
    KernelShape,
    PackedKernel,
    Point,
    Posterior,
    Subspace,
)
from ssvi_jax.vi import dirac
from ssvi_jax.vi.priors import Prior

MIN_SIGMA = 1e-6
"""Smallest standard deviation at initialization and growth (SSVI's `eps`)."""

_TINY_RHO = -20.0  # softplus and e^rho then differ by a relative 1e-9


def to_sigma(rho: jax.Array) -> jax.Array:
    """Standard deviation softplus(rho) = log(1 + e^rho), any shape."""
    return jax.nn.softplus(rho)


def to_rho(sigma: jax.Array) -> jax.Array:
    """Inverse of `to_sigma`, stable for sigma from 1e-30 to 1e30."""
    return sigma + jnp.log(-jnp.expm1(-sigma))


def sigma_of(packed: Gaussian | Point) -> jax.Array | None:
    """Standard deviations ``[s]``; None of points, which have no noise."""
    return to_sigma(packed.rho) if isinstance(packed, Gaussian) else None


def is_random(posterior: Posterior) -> bool:
    """Whether any weight is uncertain, so that samples differ from the mean."""
    return any(isinstance(packed, Gaussian) for packed in posterior.values())


def init(
    key: jax.Array,
    subspace: Subspace,
    *,
    mean_std: float | None = None,
    sigma_init: tuple[float, float] | None = (6e-4, 5e-4),
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    means: Mapping[str, jax.Array] | None = None,
    identity: bool = False,
) -> Posterior:
    """Draws the initial means and standard deviations.

    Args:
      key: random key.
      subspace: the selected coordinates.
      mean_std: means ~ N(0, mean_std²) (0.01 in Li et al., arXiv 2402.11025); None
        scales each kernel as He et al. (arXiv 1502.01852) do, with the average number
        of *selected* inputs of an output unit as the fan-in.
      sigma_init: (a, b): standard deviations ~ abs N(a, b²), at least `MIN_SIGMA`;
        None: a point estimate, which has none.
      shapes: path → full shape; a `KernelShape` tells what an output unit sums over
        where the kernel is neither of a Dense nor of a Conv layer. None: all are.
      means: path → kernel of full shape whose selected weights are the initial means,
        as those of a trained network; None: they are drawn.
      identity: whether convolutions begin as the identity, see `dirac`.

    Returns:
      Path → `Gaussian` or `Point` of float32 ``[s]`` leaves.

    Raises:
      InputError: means that are not those of the subspace's kernels, or together with
        `mean_std`.
    """
    if means is not None:
        _check_means(means, subspace, mean_std)
    posterior = {}
    for i, (path, shape) in enumerate(subspace.shapes):
        index = subspace.index[path]
        key_mean, key_sigma = jax.random.split(jax.random.fold_in(key, i))
        if means is not None:
            mean = jnp.asarray(means[path], jnp.float32).reshape(-1)[index]
        else:
            known = KernelShape.of((shapes or {}).get(path, shape))
            std = _he_std(index.size, known) if mean_std is None else mean_std
            mean = std * jax.random.normal(key_mean, index.shape, jnp.float32)
            mean = dirac.means(mean, index, shape) if identity else mean
        if sigma_init is None:
            posterior[path] = Point(mean)
            continue
        spread = jax.random.normal(key_sigma, index.shape, jnp.float32)
        sigma = jnp.abs(sigma_init[0] + sigma_init[1] * spread)
        posterior[path] = Gaussian(mean, to_rho(jnp.maximum(sigma, MIN_SIGMA)))
    return posterior


def _he_std(selected: int, shape: KernelShape) -> float:
    """The standard deviation that keeps the variance of ReLUs, see `init`."""
    num_outputs = max(math.prod(shape) // max(shape.fan_in, 1), 1)
    return math.sqrt(2.0 / max(selected / num_outputs, 1.0))


def _check_means(
    means: Mapping[str, jax.Array], subspace: Subspace, mean_std: float | None
) -> None:
    if mean_std is not None:
        raise InputError(
            f"mean_std: got {mean_std} together with means, which say where to start; "
            "leave out one of them."
        )
    for path, shape in subspace.shapes:
        got = tuple(jnp.shape(means[path])) if path in means else None
        if got != shape:
            raise InputError(
                f"means[{path!r}]: got {'nothing' if got is None else f'shape {got}'}, "
                f"allowed: a kernel of shape {shape}; pass the full parameters of a "
                "network like this one."
            )


def kl(prior: Prior, posterior: Posterior, key: jax.Array) -> jax.Array:
    """KL from the prior of all Gaussians together, in nats; points have none.

    Args:
      prior: of every weight.
      posterior: packed Gaussians or points.
      key: random key, which some priors read.
    """
    total = jnp.zeros(())
    for i, packed in enumerate(posterior.values()):
        sigma = sigma_of(packed)
        if sigma is not None:
            total += prior.kl(packed.mean, sigma, jax.random.fold_in(key, i))
    return total


def scaled(packed: Gaussian | Point, factor: jax.Array) -> Gaussian | Point:
    """The distribution of factor · θ for θ ~ `packed`; all of shape ``[s]``."""
    mean, sigma = packed.mean * factor, sigma_of(packed)
    if sigma is None:
        return Point(mean)
    return Gaussian(mean, to_rho(sigma * jnp.abs(factor)))


def stretched(posterior: Posterior, factor: float) -> Posterior:
    """The posterior with all standard deviations times a factor; points stay.

    Args:
      posterior: packed Gaussians or points.
      factor: above 0; with exactly 1 nothing changes.

    Raises:
      InputError: another factor.
    """
    if not (factor > 0 and math.isfinite(factor)):
        raise InputError(f"factor: got {factor}, allowed: a finite number above 0.")
    if factor == 1.0:
        return posterior
    return {
        path: packed._replace(rho=_stretched(packed.rho, factor))
        if isinstance(packed, Gaussian)
        else packed
        for path, packed in posterior.items()
    }


@jax.jit
def _stretched(rho: jax.Array, factor: ArrayLike) -> jax.Array:
    # Far below 0 sigma is e^rho, which a float32 cannot hold where rho is below -103.
    tiny = rho < _TINY_RHO
    sigma = to_sigma(jnp.where(tiny, _TINY_RHO, rho))
    return jnp.where(tiny, rho + jnp.log(factor), to_rho(sigma * factor))


def kernels(
    posterior: Posterior,
    subspace: Subspace,
    probes: Mapping[str, jax.Array] | None = None,
    *,
    backend: str = "xla",
) -> dict[str, PackedKernel]:
    """The posterior as kernels for local reparameterization.

    Args:
      posterior: packed Gaussians or points.
      subspace: where they sit.
      probes: full-shape zeros added to the means, to differentiate with respect to.
      backend: what multiplies; see `PackedKernel`.
    """
    return {
        path: PackedKernel(
            mean=posterior[path].mean,
            sigma=sigma_of(posterior[path]),
            index=subspace.index[path],
            shape=shape,
            probe=None if probes is None else probes[path],
            backend=backend,
        )
        for path, shape in subspace.shapes
    }


def flipout_kernels(
    posterior: Posterior,
    subspace: Subspace,
    key: jax.Array,
    probes: Mapping[str, jax.Array] | None = None,
    *,
    backend: str = "xla",
) -> dict[str, PackedKernel]:
    """The draw of `packed_sample` as kernels that flip it for each example.

    Args:
      posterior: packed Gaussians or points.
      subspace: where they sit.
      key: random key.
      probes: full-shape zeros added to the means, to differentiate with respect to.
      backend: what multiplies; see `PackedKernel`.
    """
    means = kernels(posterior, subspace, probes, backend=backend)
    deviations = _deviations(posterior, key)
    return {
        path: dataclasses.replace(kernel, sigma=None, deviation=deviations.get(path))
        for path, kernel in means.items()
    }


def packed_sample(
    posterior: Posterior,
    subspace: Subspace,
    key: jax.Array | None,
    probes: Mapping[str, jax.Array] | None = None,
    *,
    backend: str = "xla",
) -> dict[str, PackedKernel]:
    """One draw of every kernel, or without a key the mean, as kernels without noise.

    Args:
      posterior: packed Gaussians or points.
      subspace: where they sit.
      key: random key, or None.
      probes: full-shape zeros added to the draw, to differentiate with respect to.
      backend: what multiplies; see `PackedKernel`.
    """
    kernels = {}
    deviations = {} if key is None else _deviations(posterior, key)
    for path, shape in subspace.shapes:
        theta = posterior[path].mean
        if path in deviations:
            theta = theta + deviations[path]
        probe = None if probes is None else probes[path]
        kernels[path] = PackedKernel(
            theta, None, subspace.index[path], shape, probe, backend
        )
    return kernels


_WHOLE = 4096
"""Numbers drawn are a multiple of this: XLA's CPU code for a loop of another length
than whole vectors takes four times as long."""


def _deviations(posterior: Posterior, key: jax.Array) -> dict[str, jax.Array]:
    """A draw of every Gaussian less its mean; one loop is faster than one for each."""
    gaussians = {
        path: packed.rho
        for path, packed in sorted(posterior.items())
        if isinstance(packed, Gaussian)
    }
    if not gaussians:
        return {}
    ends = np.cumsum([rho.size for rho in gaussians.values()])
    padding = jnp.zeros(-int(ends[-1]) % _WHOLE, jnp.float32)
    sigma = to_sigma(jnp.concatenate([*gaussians.values(), padding]))
    drawn = sigma * ops.noise.normal(key, sigma.shape)
    return dict(zip(gaussians, jnp.split(drawn, ends)[:-1], strict=True))


def sample(
    posterior: Posterior, subspace: Subspace, key: jax.Array | None
) -> dict[str, jax.Array]:
    """One draw of every kernel at full shape; weights outside the masks are 0.

    Without a key it is the mean.
    """
    return full_kernels(packed_sample(posterior, subspace, key))


def full_kernels(kernels: Mapping[str, PackedKernel]) -> dict[str, jax.Array]:
    """The means of packed kernels at full shape, with their probes added."""
    return {path: ops.unpack(kernel)[0] for path, kernel in kernels.items()}
