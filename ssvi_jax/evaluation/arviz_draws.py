"""Draws of a trained posterior for ArviZ."""

import inspect
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core import optional
from ssvi_jax.core.errors import InputError, check_choice, check_count
from ssvi_jax.core.keys import check_key
from ssvi_jax.core.types import Gaussian
from ssvi_jax.training.fitted import Fitted
from ssvi_jax.vi import posterior as posterior_lib

MOST_VALUES = 10**8
"""Of all draws together: 400 MB."""


def from_ssvi(
    fitted: Fitted,
    kernels: str | Sequence[str] | None = None,
    *,
    draws: int = 1000,
    key: jax.Array | None = None,
) -> Any:
    """Posterior draws of the weights that are kept, as ArviZ takes them.

    They are independent draws of the Gaussians that were trained, so one chain of them;
    statistics of how chains mix say nothing here. Weights that are not kept are 0 and
    are left out.

    Args:
      fitted: a trained network.
      kernels: paths of kernels (as in `fitted.masks`); None: all that are random.
      draws: how many.
      key: random key; None: ``jax.random.key(0)``.

    Returns:
      `arviz.InferenceData`, from ArviZ 1 on an `xarray.DataTree`. Its group `posterior`
      has a variable for each kernel, named by its path with "." for "/":
      ``[1, draws, s]``, whose last coordinate is the weight's flat position in the
      kernel.

    Raises:
      InputError: no such kernel, one that is a point estimate, too many draws to hold,
        or ArviZ is not installed.
    """
    draws = check_count("draws", draws)
    key = jax.random.key(0) if key is None else key
    check_key("key", key)
    posterior = fitted.weights.posterior
    random = [path for path, one in posterior.items() if isinstance(one, Gaussian)]
    names = [kernels] if isinstance(kernels, str) else list(kernels or random)
    if not random:
        raise InputError(
            "fitted: got a network of point estimates, allowed: one that has a "
            "posterior, as of SSVI."
        )
    for name in names:
        check_choice("kernels", name, random)
    number = draws * sum(len(posterior[name].mean) for name in names)
    if number > MOST_VALUES:
        raise InputError(
            f"draws: got {draws}, which make {number:,} values, allowed: up to "
            f"{MOST_VALUES:,}; take fewer, or fewer kernels."
        )
    arviz = optional.load("arviz", "from_ssvi", "arviz")
    values, dims, coords = {}, {}, {}
    for number, name in enumerate(names):
        packed = posterior[name]
        variable = name.replace("/", ".")
        noise = jax.random.normal(
            jax.random.fold_in(key, number), (draws, len(packed.mean))
        )
        sigma = posterior_lib.sigma_of(packed)
        assert sigma is not None
        drawn = jnp.expand_dims(packed.mean, 0) + jnp.expand_dims(sigma, 0) * noise
        values[variable] = np.asarray(drawn)[None]
        dims[variable] = [f"{variable}.position"]
        coords[f"{variable}.position"] = np.flatnonzero(fitted.masks[name])
    groups = {"posterior": values}
    if "posterior" in inspect.signature(arviz.from_dict).parameters:  # before ArviZ 1
        return arviz.from_dict(**groups, coords=coords, dims=dims)
    return arviz.from_dict(groups, coords=coords, dims=dims)
