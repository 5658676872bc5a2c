"""The factor on all standard deviations of a trained network.

See `metrics.sigma_factor` for what it means and how it is searched.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import ApplyFn, Masks, Weights
from ssvi_jax.metrics import sigma_factor
from ssvi_jax.metrics.scores import nll
from ssvi_jax.metrics.sigma_factor import SigmaFactor
from ssvi_jax.vi import likelihoods, predictions, predictive
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi import posterior as posterior_lib

MIN_EXAMPLES = 20
"""Fewer say hardly anything of a network's uncertainty."""

_SCORED = (
    likelihoods.Categorical,
    likelihoods.Bernoulli,
    likelihoods.Normal,
    likelihoods.Poisson,
)

_BORDERS = {
    "lower": "; the smallest factor tried is as good, and so the mean network",
    "upper": "; the largest factor tried is as good: are there enough examples?",
    "both": (
        "; the smallest and the largest factor tried are as good, and so the mean "
        "network: these examples do not tell factors apart"
    ),
    "": "",
}

_WIDE = 1.1
"""Ratio of equally good factors from which a sentence names them: near a minimum those
of the last steps of the search are as good too."""


def fit(
    likelihood: likelihoods.Likelihood,
    apply_fn: ApplyFn,
    weights: Weights,
    masks: Masks,
    data: tuple[Any, Any],
    *,
    key: jax.Array,
    num_samples: int,
    batch_size: int,
    backend: str,
) -> SigmaFactor:
    """The factor that gives a network's samples the least NLL on data.

    It is relative to `weights` (see `trained`). Every factor is tried with the same
    key, hence the same standard normal draws.

    Args:
      likelihood: of the labels.
      apply_fn: the network's function.
      weights: with a posterior that has Gaussians; points in it stay points, and
        parameters outside of it (rank-1 factors) are not touched.
      masks: what the posterior is packed by.
      data: inputs and labels, not trained on.
      key: random key of the draws.
      num_samples: draws of each member.
      batch_size: inputs per call.
      backend: what multiplies.

    Raises:
      InputError: no Gaussian, a likelihood without scores, labels that it does not
        allow, fewer than `MIN_EXAMPLES` of them, or what `predictions.predict` refuses.
    """
    x, y = data
    y = np.asarray(y)
    _check(likelihood, weights, x, y)
    subspace = masks_lib.to_subspace(masks)

    def nll_of(factor: float) -> float:
        posterior = posterior_lib.stretched(weights.posterior, factor)
        try:
            found = predictions.predict(
                likelihood,
                apply_fn,
                weights._replace(posterior=posterior),
                subspace,
                x,
                key=key,
                num_samples=num_samples,
                batch_size=batch_size,
                backend=backend,
            )
        except InputError:
            # A network that could predict may overflow with larger weights.
            if factor == 1.0:
                raise
            return math.inf
        return nll(found, y)

    return sigma_factor.fit(nll_of)


def trained(weights: Weights, about: Mapping[str, Any]) -> Weights:
    """The weights before an earlier calibration, whose factor is taken back.

    So a factor is relative to what was trained however often one is searched.

    Args:
      weights: of a network, calibrated or not.
      about: what is said of it.

    Raises:
      InputError: see `check`.
    """
    check(about)
    posterior = posterior_lib.stretched(
        weights.posterior, 1.0 / (factor_in(about) or 1.0)
    )
    return weights._replace(posterior=posterior)


def describe(found: SigmaFactor, *, examples: int, samples: int) -> dict[str, Any]:
    """What a model file says of it, under "calibration".

    Args:
      found: the factor, of the network as it was trained.
      examples: how many chose it.
      samples: draws of each member.
    """
    return {
        "sigma_factor": found.factor,
        "temperature": found.temperature,
        "nll": found.nll,
        "nll_before": found.nll_before,
        "border": found.border,
        "as_good": list(found.as_good),
        "examples": examples,
        "samples": samples,
    }


def factor_in(about: Mapping[str, Any]) -> float | None:
    """The factor that a description of a network names.

    None: it was not calibrated, or what it says of that is damaged (see `check`).
    """
    found = about.get("calibration")
    value = found.get("sigma_factor") if isinstance(found, Mapping) else None
    if not isinstance(value, float | int) or isinstance(value, bool):
        return None
    return float(value) if 0 < value < math.inf else None


def check(about: Mapping[str, Any], where: object = "about") -> None:
    """Refuses a description whose calibration is damaged.

    Args:
      about: what is said of a network.
      where: what says it, for the message: an argument's name, or a file's path.

    Raises:
      InputError: there is a calibration without a factor above 0.
    """
    if about.get("calibration") is not None and factor_in(about) is None:
        raise InputError(
            f"{where}: got the calibration {about['calibration']!r:.100}, allowed: one "
            "with a sigma_factor that is a finite number above 0, as `calibrate` "
            "makes it; calibrate the network as it was trained."
        )


def sentence(said: Mapping[str, Any]) -> str:
    """What `describe` says, for people: one line."""
    factor, temperature = said["sigma_factor"], said["temperature"]
    text = (
        f"sigma × {factor:.4g} of what was trained (temperature {temperature:.4g}): "
        f"NLL {said['nll_before']:.4f} → {said['nll']:.4f} nats"
    )
    low, high = said["as_good"]
    if high > _WIDE * low:
        text += f"; factors from {low:.3g} to {high:.3g} are as good"
    return text + _BORDERS[said["border"]]


def _check(
    likelihood: likelihoods.Likelihood, weights: Weights, x: Any, y: np.ndarray
) -> None:
    if not posterior_lib.is_random(weights.posterior):
        raise InputError(
            "model: got a network without Gaussian kernels, which has no sigma to "
            "scale, allowed: a posterior of SSVI, SVD, IVON and the like (the factors "
            "of rank-1 networks are not scaled)."
        )
    if type(likelihood) not in _SCORED:
        raise InputError(
            f"likelihood: got {type(likelihood).__name__}, which has no scores, "
            f"allowed: {', '.join(kind.__name__ for kind in _SCORED)}."
        )
    rows = predictive.num_inputs(x)
    if y.shape[:1] != (rows,):
        raise InputError(
            f"y: got shape {list(y.shape)} for {rows} inputs, allowed: [{rows}, ...]."
        )
    if rows < MIN_EXAMPLES:
        raise InputError(
            f"x, y: got {rows} examples, allowed: {MIN_EXAMPLES} or more, none of them "
            "trained on."
        )
    likelihoods.check_labels(likelihood, y, "y")
