"""What a weight is worth: the scores by which weights are removed and added.

A selected weight is θ ~ N(μ, σ²). Removal scores are closed forms in μ and σ, float64,
on the host; the higher the score, the better the reason to keep the weight. Written
naively they overflow, cancel or divide by zero where training goes (σ → 0,
abs(μ)/σ → 10⁴), so everything here is built from three dimensionless numbers

    t = abs(μ)/σ,    u = λσ,    ut = λ abs(μ)

and one positive function, the variance of abs(z), z ~ N(t, 1), under the tilt
e^{s abs(z)} (`_tilted_variance`), which stays between 0.36 and 1.05 and never cancels.

Scores are always finite: a score beyond the range of float64 is returned as the
largest float64 (ties are broken elsewhere, by flat index), one below it as 0.

Source of the scores: Li, Miao, Qiu and Zhang, "Training Bayesian Neural Networks with
Sparse Subspace Variational Inference", ICLR 2024, arXiv 2402.11025, section 4.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from ssvi_jax.core.errors import InputError, check_choice, check_positive

_MAX = np.finfo(np.float64).max
_TINY = 1e-150  # its square is still a normal float64
_SMALL = 0.1  # largest u = λσ for which `_log_dispersion` integrates

# Gauss-Legendre nodes of ∫₀² (1 − |1 − x|) f(x) dx on [0, 1] and [1, 2].
_LEGENDRE_X, _LEGENDRE_W = np.polynomial.legendre.leggauss(4)
_TRIANGLE_X = np.concatenate([(1 + _LEGENDRE_X) / 2, (3 + _LEGENDRE_X) / 2])
_TRIANGLE_W = np.tile(_LEGENDRE_W / 2, 2) * (1 - np.abs(1 - _TRIANGLE_X))


def _cdf(x: np.ndarray) -> np.ndarray:
    """Standard normal distribution function Φ(x)."""
    from scipy import special  # only now: importing the core loads no SciPy

    return special.ndtr(x)


def _pdf(x: np.ndarray) -> np.ndarray:
    """Standard normal density φ(x)."""
    return math.sqrt(0.5 / math.pi) * np.exp(-0.5 * x * x)


def _ratio(mean: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Returns t = |μ|/σ, at most the largest float64; 0 where μ = 0, also at σ = 0."""
    size = np.abs(mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(size > 0, np.minimum(size / sigma, _MAX), 0.0)


def _tilted_variance(t: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Variance of |z| for z ~ N(t, 1) reweighted by e^{s|z|}, with t, s >= 0.

    It is K''(s) of the cumulant function K(s) = log E e^{s|z|}. With
    S = Φ(t+s) + e^{−2st}Φ(s−t), p = φ(t+s)/S, b = e^{−2st}Φ(s−t)/S and h = p − tb it
    equals 1 − 2sp − 4h(t+h).
    """
    negative = np.exp(-2 * s * t) * _cdf(s - t)
    total = _cdf(t + s) + negative
    p = _pdf(t + s) / total
    h = p - t * (negative / total)
    return 1 - 2 * s * p - 4 * h * (t + h)


def _log_mass(t: np.ndarray, u: np.ndarray, ut: np.ndarray) -> np.ndarray:
    """log(Φ(t+u) + e^{−2ut}Φ(u−t)), in [0, log 2]: log E e^{u|z|} − ut − u²/2."""
    return np.log(_cdf(t + u) + np.exp(-2 * ut) * _cdf(u - t))


def _log_dispersion(t: np.ndarray, u: np.ndarray, ut: np.ndarray) -> np.ndarray:
    """D = log(E e^{2u|z|} / (E e^{u|z|})²) = log(1 + squared coefficient of variation).

    D = K(2u) − 2K(u) loses all digits as u → 0, so for small u it is taken as the
    integral of a positive function, u² ∫₀² (1 − |1 − x|) K''(ux) dx.
    """
    large = u > _SMALL
    s = np.where(large, 0.0, u)
    dispersion = sum(
        w * _tilted_variance(t, s * x)
        for x, w in zip(_TRIANGLE_X, _TRIANGLE_W, strict=True)
    ) * (u * u)
    if large.any():
        t, u, ut = t[large], u[large], ut[large]
        mass = _log_mass(t, 2 * u, 2 * ut) - 2 * _log_mass(t, u, ut)
        dispersion[large] = u * u + mass
    return dispersion


def _abs_mean(mean: np.ndarray, sigma: np.ndarray, lam: float) -> np.ndarray:
    del lam
    t = _ratio(mean, sigma)
    return np.abs(mean) * (1 - 2 * _cdf(-t)) + 2 * sigma * _pdf(t)


def _abs_snr(mean: np.ndarray, sigma: np.ndarray, lam: float) -> np.ndarray:
    del lam
    t = _ratio(mean, sigma)
    h = _pdf(t) - t * _cdf(-t)  # E max(−z, 0), z ~ N(t, 1), so E |z| = t + 2h
    return (t + 2 * h) / np.sqrt(1 - 4 * h * (t + h))  # Var |z| = 1 + t² − (t + 2h)²


def _exp_abs_mean(mean: np.ndarray, sigma: np.ndarray, lam: float) -> np.ndarray:
    u, ut = lam * sigma, lam * np.abs(mean)
    return np.exp(u * u / 2 + ut + _log_mass(_ratio(mean, sigma), u, ut))


def _exp_abs_snr(mean: np.ndarray, sigma: np.ndarray, lam: float) -> np.ndarray:
    u, ut = np.maximum(lam * sigma, _TINY), lam * np.abs(mean)
    dispersion = _log_dispersion(_ratio(mean, sigma), u, ut)
    # 1/sqrt(e^D − 1) without overflow for large D
    return np.exp(-dispersion / 2) / np.sqrt(-np.expm1(-dispersion))


RemovalFn = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
"""Score of (mean ``[s]``, sigma ``[s]``, λ): float64 ``[s]``, higher = keep."""

REMOVAL: dict[str, RemovalFn] = {
    "mean": lambda mean, sigma, lam: np.abs(mean),
    "snr": lambda mean, sigma, lam: _ratio(mean, sigma),
    "abs_mean": _abs_mean,
    "abs_snr": _abs_snr,
    "exp_abs_mean": _exp_abs_mean,
    "exp_abs_snr": _exp_abs_snr,
}

ADDITION: tuple[str, ...] = ("gradient", "random")
"""Names of the addition scores; computed elsewhere, as they need the network."""


def removal_scores(
    name: str, mean: ArrayLike, sigma: ArrayLike, lam: float = 1.0
) -> np.ndarray:
    """Scores the selected weights θ ~ N(μ, σ²); the lowest are removed first.

    ============== ======================================================
    `mean`         abs(μ)
    `snr`          abs(μ)/σ
    `abs_mean`     E abs(θ)
    `abs_snr`      E abs(θ) over the standard deviation of abs(θ)
    `exp_abs_mean` E e^{λ abs(θ)}
    `exp_abs_snr`  the above over the standard deviation of e^{λ abs(θ)}
    ============== ======================================================

    Scores are even in μ and finite. At σ = 0 they take their limit for σ → 0 at
    fixed μ (an infinite one is the largest float64, about 1e150 for `exp_abs_snr`).
    `exp_abs_mean` saturates at the largest float64 once λ·abs(μ) + λ²σ²/2 exceeds
    about 709, and `exp_abs_snr` at 0 once λσ exceeds about 38. For λ·abs(θ) ≪ 1 it is
    1/(λ · standard deviation of abs(θ)) and says nothing of the mean: choose λ of the
    order of 1 over the typical weight.

    Args:
      name: a key of `REMOVAL`.
      mean: ``[s]`` (any shape), finite.
      sigma: standard deviations of the same shape, finite, >= 0.
      lam: λ > 0 of the exponential scores, in 1/weight; the others ignore it.

    Returns:
      float64 scores of the same shape, >= 0.

    Raises:
      InputError: unknown name, different shapes, a mean or sigma that is not finite,
        a negative sigma, or a λ that is not finite and positive.
    """
    check_choice("removal", name, REMOVAL)
    check_positive("lam", lam)
    mean, sigma = np.asarray(mean, np.float64), np.asarray(sigma, np.float64)
    if mean.shape != sigma.shape:
        raise InputError(
            f"removal: mean has shape {mean.shape} and sigma {sigma.shape}, "
            "allowed: equal shapes."
        )
    _check_finite("mean", mean)
    _check_finite("sigma", sigma)
    if (sigma < 0).any():
        raise InputError(
            f"sigma: got {sigma.min()}, allowed: standard deviations >= 0 "
            "(pass softplus(rho), not rho)."
        )
    with np.errstate(over="ignore", under="ignore"):
        scores = REMOVAL[name](np.atleast_1d(mean), np.atleast_1d(sigma), lam)
    return np.minimum(scores, _MAX).reshape(mean.shape)


def _check_finite(argument: str, values: np.ndarray) -> None:
    bad = values.size - np.count_nonzero(np.isfinite(values))
    if bad:
        raise InputError(
            f"{argument}: got {bad} of {values.size} entries that are not finite, "
            "allowed: finite numbers; training has diverged, go back to the last "
            "checkpoint with a lower learning rate."
        )
