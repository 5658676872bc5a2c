"""Monte Carlo dropout (Gal and Ghahramani, ICML 2016, arXiv 1506.02142).

A dense point estimate trained with dropout before every Dense and Conv layer but the
first, of any unmodified model. A posterior sample is a pass with dropout on, the mean
network one with dropout off. Rate 0 is `deterministic`.
"""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from ssvi_jax.core.settings import fraction, setting
from ssvi_jax.core.structure import Structure
from ssvi_jax.methods.base import Method, register

if TYPE_CHECKING:
    from ssvi_jax.methods.algorithms.dense import Dense
    from ssvi_jax.methods.problem import Problem


@register
@dataclasses.dataclass(frozen=True)
class MCDropout(Method):
    """A dense point estimate with dropout, in predictions too."""

    name: ClassVar[str] = "mc_dropout"

    dropout_rate: float = setting(0.1, fraction)
    """Probability that an input of a layer is dropped, in [0, 1)."""

    @property
    def structure(self) -> Structure:
        """See `Method.structure`."""
        return Structure(dropout=self.dropout_rate)

    def build(self, problem: "Problem") -> "Dense":
        """See `Method.build`; also the sparse backend."""
        from ssvi_jax.methods.algorithms.dense import dense

        return dense(problem)
