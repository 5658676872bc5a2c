"""Second implementations in NumPy and SciPy, written for clarity, not for speed.

Nothing here imports the package: an oracle that shares code shares its mistakes.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
from scipy import integrate, stats

# ----------------------------------------------------------------- removal scores


def removal_scores(mean: float, sigma: float, lam: float) -> dict[str, float]:
    """All six scores by Gauss-Legendre quadrature over the folded normal, σ > 0.

    Moments are central and taken of e^{λ(|θ|−|μ|)} − 1, so nothing cancels or
    overflows; accurate to about 1e-12 for |μ|/σ up to 1e4. The entry
    "log_exp_abs_mean" is the logarithm of "exp_abs_mean".
    """
    t, u = abs(mean) / sigma, lam * sigma
    x, weight = _panels(max(0.0, t - 14), t + 14 + 2 * u)
    density = weight * (stats.norm.pdf(x - t) + stats.norm.pdf(x + t))
    density /= density.sum()
    size = density @ x
    spread = math.sqrt(density @ (x - size) ** 2)
    excess = np.expm1(u * (x - t))
    exp_size = density @ excess
    exp_spread = math.sqrt(density @ (excess - exp_size) ** 2)
    log_exp_mean = math.log1p(exp_size) + u * t
    return {
        "mean": abs(mean),
        "snr": t,
        "abs_mean": sigma * size,
        "abs_snr": size / spread,
        "log_exp_abs_mean": log_exp_mean,
        "exp_abs_mean": math.exp(log_exp_mean) if log_exp_mean < 709 else math.inf,
        "exp_abs_snr": (1 + exp_size) / exp_spread,
    }


def _panels(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of 20-point Gauss-Legendre on panels of length about 1/2."""
    node, weight = np.polynomial.legendre.leggauss(20)
    edges = np.linspace(low, high, 2 * math.ceil(high - low) + 1)
    half = np.diff(edges)[:, None] / 2
    middle = (edges[:-1] + edges[1:])[:, None] / 2
    return (middle + half * node).ravel(), (half * weight).ravel()


# ---------------------------------------------------------------- layer densities


def proportional_shares(
    sizes: Mapping[str, int], raw: Mapping[str, float], budget: int
) -> dict[str, float]:
    """Real-valued counts min(size, ε · raw · size) adding up to budget, ε by bisection.

    "raw" is the density rule before scaling (Erdős-Rényi or its kernel variant).
    """

    def shares(scale: float) -> dict[str, float]:
        return {p: sizes[p] * min(1.0, scale * raw[p]) for p in sizes}

    low, high = 0.0, 2 / min(raw.values())
    for _ in range(200):
        middle = (low + high) / 2
        if sum(shares(middle).values()) < budget:
            low = middle
        else:
            high = middle
    return shares(high)


# -------------------------------------------------------------------------- priors


def kl_to_density(
    mean: float, sigma: float, log_density: Callable[[float], float]
) -> float:
    """KL(N(mean, sigma²) ‖ p) in nats by adaptive quadrature of its definition."""

    def integrand(x: float) -> float:
        log_q = float(stats.norm.logpdf(x, mean, sigma))
        return math.exp(log_q) * (log_q - log_density(x))

    low, high = mean - 12 * sigma, mean + 12 * sigma
    middle = [mean, *([0.0] if low < 0.0 < high else [])]  # 0: a kink or a narrow peak
    return integrate.quad(integrand, low, high, points=middle, limit=500)[0]


def log_scale_mixture(pi: float, std1: float, std2: float) -> Callable[[float], float]:
    """Log density of pi N(0, std1²) + (1 − pi) N(0, std2²)."""

    def log_density(x: float) -> float:
        wide = math.log(pi) + stats.norm.logpdf(x, 0, std1)
        narrow = math.log(1 - pi) + stats.norm.logpdf(x, 0, std2)
        return float(np.logaddexp(wide, narrow))

    return log_density


# ------------------------------------------------------------ removal and addition


def swap(
    mask: np.ndarray, removal: np.ndarray, addition: np.ndarray, count: int
) -> tuple[list[bool], list[int | None]]:
    """One layer's removal and addition, coordinate by coordinate.

    "removal" is in the flat order of the selected weights, "addition" of the mask's
    shape. Returns the new flat mask and, for each weight now selected in flat order,
    its rank among the old ones, None if it was not one of them.
    """
    flat = [int(i) for i, kept in enumerate(mask.reshape(-1)) if kept]
    worst = [i for _, i in sorted(zip(removal, flat, strict=True))[:count]]
    stay = [i for i in flat if i not in worst]
    free = [i for i in range(mask.size) if i not in stay]
    best = sorted(free, key=lambda i: (-addition.reshape(-1)[i], i))[:count]
    now, rank = sorted(stay + best), {i: r for r, i in enumerate(flat)}
    return [i in now for i in range(mask.size)], [rank.get(i) for i in now]
