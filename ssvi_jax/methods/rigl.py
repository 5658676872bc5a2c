"""Sparse point estimates from the first step on: SSVI's peers without uncertainty.

The masks live as SSVI's do: random at first with the density rule's counts, and between
phases of M steps a fraction r_t of each layer's weights is replaced by new ones that
start at 0 with no momentum.

* ``rigl``: the smallest abs(w) leave, the largest abs(dense gradient) enter (Evci et
  al., "Rigging the Lottery", ICML 2020); by default r_t is theirs, 0.3/2 · (1 + cos),
  until 75 % of the steps.
* ``set``: the smallest abs(w) leave, random ones enter (Mocanu et al., Nature
  Communications 9, 2018), at RigL's r_t, as Evci et al. compare them.
* ``static``: the random masks stay.
"""

from ssvi_jax.methods import ssvi
from ssvi_jax.methods.base import POSTERIOR, SWAPS, Problem, check_unused
from ssvi_jax.training.run_config import Config

_POINT = "it trains a point estimate"


def build_rigl(config: Config, problem: Problem) -> ssvi.SSVI:
    """Builds RigL.

    Raises:
      InputError: see `ssvi.build`; or settings of a posterior or another criterion.
    """
    check_unused(config, POSTERIOR, _POINT)
    chosen = ("removal", "removal_lambda", "addition")
    check_unused(config, chosen, "what it swaps is what makes it RigL")
    return ssvi.build(config, problem, points=True)


def build_set(config: Config, problem: Problem) -> ssvi.SSVI:
    """Builds SET.

    Raises:
      InputError: see `ssvi.build`; or settings of a posterior or another criterion.
    """
    check_unused(config, POSTERIOR, _POINT)
    chosen = ("removal", "removal_lambda", "addition", "grow_batches")
    check_unused(config, chosen, "what it swaps is what makes it SET")
    return ssvi.build(config, problem, points=True)


def build_static(config: Config, problem: Problem) -> ssvi.SSVI:
    """Builds training on fixed random masks.

    Raises:
      InputError: see `ssvi.build`; or settings of a posterior or of swaps.
    """
    check_unused(config, POSTERIOR, _POINT)
    check_unused(config, SWAPS, "its masks never change")
    return ssvi.build(config, problem, points=True)
