"""Monte Carlo dropout (Gal and Ghahramani, ICML 2016, arXiv 1506.02142).

A dense point estimate trained with dropout before every Dense and Conv layer but the
first, at `--dropout-rate`, of any unmodified model. A posterior sample is a pass with
dropout on, the mean network one with dropout off. Rate 0 is `deterministic`.
"""

from ssvi_jax.methods import deterministic
from ssvi_jax.methods.base import POSTERIOR, SWAPS, Problem, check_unused
from ssvi_jax.training.run_config import Config


def build(config: Config, problem: Problem) -> deterministic.Deterministic:
    """Builds training with dropout; the network drops (see `network.NetworkSpec`).

    Raises:
      InputError: see `deterministic.build`; or settings of a posterior or of swaps.
    """
    check_unused(config, POSTERIOR, "its kernels are point estimates")
    check_unused(config, SWAPS, "it is dense")
    return deterministic.build(config, problem)
