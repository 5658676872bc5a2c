"""IVON, improved variational online Newton (Shen et al., ICML 2024, arXiv 2402.17641).

A dense Gaussian posterior, of which the Hessian of the loss makes the standard
deviations: σ² = 1 / (N (h + δ)), with δ the weight decay of the training, that is a
prior N(0, 1/(N δ)). See `algorithms.ivon_step` for the step. The defaults are the
authors' for ResNet-20.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ssvi_jax.core.errors import InputError, check_positive
from ssvi_jax.core.settings import fraction, not_negative, positive, setting
from ssvi_jax.methods.base import Method, register

if TYPE_CHECKING:
    from ssvi_jax.methods.algorithms.ivon_step import Ivon
    from ssvi_jax.methods.algorithms.sgd import Sgd
    from ssvi_jax.methods.algorithms.swapping import Swapping
    from ssvi_jax.methods.problem import Problem


@register
@dataclasses.dataclass(frozen=True)
class IVON(Method):
    """A dense Gaussian posterior, its standard deviations by the Hessian."""

    name: ClassVar[str] = "ivon"
    training: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 0.2,
        "nesterov": False,
        "weight_decay": 2e-4,
    }

    hess_init: float = setting(0.5, positive)
    """Initial Hessian h₀; σ² = 1 / (N (h + weight decay))."""
    beta2: float = setting(0.99999, fraction)
    """How slowly the Hessian follows its estimates."""
    clip_radius: float = setting(0.0, not_negative)
    """Largest change of a weight, over learning rate and h₀; 0: any."""
    mean_init: float = setting(0.0, not_negative)
    """Standard deviation of the initial means; 0: He initialization by fan-in."""

    def optimizer(self) -> "Sgd":
        """See `Method.optimizer`: it takes its rate, momentum and decay from `Sgd`."""
        from ssvi_jax.methods.algorithms.sgd import Sgd

        return Sgd(**self.training)

    def build(self, problem: "Problem") -> "Swapping":
        """See `Method.build`; also an optimizer that is not `Sgd`, or no decay."""
        from ssvi_jax.methods.algorithms.gaussians import kl_weight
        from ssvi_jax.methods.algorithms.swapping import Swapping
        from ssvi_jax.vi.priors import GaussianPrior

        ivon = self._step(problem)
        inference = problem.inference(
            ivon.transformation(),
            prior=GaussianPrior(ivon.prior_std),
            estimator="weight_sample",
            kl_weight=kl_weight(0.0, problem.total_steps, 0.0),
        )
        sigma = float(ivon.sigma(ivon.hess_init))
        return Swapping(
            problem,
            inference,
            counts={path: math.prod(shape) for path, shape in problem.shapes.items()},
            sigma_init=(sigma, 0.0),
            mean_init=self.mean_init,
        )

    def _step(self, problem: "Problem") -> "Ivon":
        from ssvi_jax.methods.algorithms.ivon_step import Ivon
        from ssvi_jax.methods.algorithms.sgd import Sgd

        sgd = problem.optimizer
        if not isinstance(sgd, Sgd):
            raise InputError(
                "optimizer: got one of your own, allowed with IVON: Sgd, of which it "
                "takes rate, momentum and decay (it is an optimizer itself)."
            )
        if sgd.nesterov:
            raise InputError(
                "nesterov: got True, allowed with ivon: False (its momentum is an "
                "average)."
            )
        check_positive("weight_decay", sgd.weight_decay)
        return Ivon(
            learning_rate=sgd.rate(problem.total_steps),
            ess=problem.num_data,
            hess_init=self.hess_init,
            beta1=sgd.momentum,
            beta2=self.beta2,
            weight_decay=sgd.weight_decay,
            clip_radius=self.clip_radius,
        )
