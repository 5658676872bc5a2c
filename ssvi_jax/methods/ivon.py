"""IVON, improved variational online Newton (Shen et al., ICML 2024, arXiv 2402.17641).

A Gaussian posterior, of which the Hessian of the loss makes the standard deviations:
σ² = 1 / (λ (h + δ)), with λ = N / T and δ the weight decay of the training, that is a
prior N(0, 1/(λ δ)). See `algorithms.ivon_step` for the step.

* `IVON`: dense; the defaults are the authors' for ResNet-20, but that the Hessian is
  replaced, but for 14 %, in a training of any length (theirs is for 200 epochs).
* `SSVIIvon`: on a subspace that moves as SSVI's does (Li et al., arXiv 2402.11025). A
  weight leaves by its signal to noise, SNR² = λ m² (h + δ), which for this posterior is
  the saliency of Optimal Brain Damage (LeCun et al., NIPS 1989), m² h / 2, up to a
  factor. A new weight has the mean h of its layer.
"""

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ssvi_jax.core.errors import InputError, check_positive
from ssvi_jax.core.settings import (
    Settings,
    fraction,
    not_negative,
    optional,
    positive,
    setting,
)
from ssvi_jax.methods.base import Method, register
from ssvi_jax.methods.groups import Criteria, Growth, Replacement, Sparsity

if TYPE_CHECKING:
    from ssvi_jax.methods.algorithms.ivon_step import Ivon
    from ssvi_jax.methods.algorithms.sgd import Sgd
    from ssvi_jax.methods.algorithms.swapping import Swapping
    from ssvi_jax.methods.problem import Problem
    from ssvi_jax.vi import VI


_LARGEST_STEP = 0.01
"""Of a weight, where nothing else is asked for and labels are no classes."""

_OPTIMIZER = "for fit, change what method.optimizer() has, by dataclasses.replace"


@dataclasses.dataclass(frozen=True)
class Newton(Settings):
    """How the Hessian is found, and what is made of it."""

    name: ClassVar[str]

    hess_init: float = setting(0.5, positive)
    """Initial Hessian h₀; σ² = 1 / (λ (h + weight decay)), λ = N / temperature."""
    beta2: float | None = setting(None, optional(fraction))
    """How slowly the Hessian follows its estimates; None: 1 - 2 / steps."""
    clip_radius: float | None = setting(None, optional(not_negative))
    """Largest change of a weight, over learning rate and h₀; 0: any; None: any for
    classes, 0.01 a step at the peak rate for other likelihoods, whose Hessian may be
    far above h₀ (that of a normal is one over the variance of its noise)."""
    temperature: float = setting(1.0, positive)
    """T: 1 is the exact posterior, below 1 a cold one (the KL counts T)."""
    estimator: Literal["local_reparam", "flipout", "weight_sample"] = "weight_sample"
    """Gradient estimator; weight_sample needs one product instead of two."""
    draws: int = setting(1, positive)
    """Samples of the weights in a step, whose gradients are averaged; a step costs
    that many times as much."""
    layer_prior: Literal["weight_decay", "empirical"] = "weight_decay"
    """empirical: each layer's standard deviation is that of its weights by then."""

    def check_training(self, training: Any) -> None:
        """See `Method.check_training`."""
        if training.nesterov:
            raise InputError(
                f"nesterov: got True, allowed with {self.name}: False (its momentum is "
                f"an average); {_OPTIMIZER}."
            )
        check_positive("weight_decay", training.weight_decay)


@register
@dataclasses.dataclass(frozen=True)
class IVON(Newton, Method):
    """A dense Gaussian posterior, its standard deviations by the Hessian."""

    name: ClassVar[str] = "ivon"
    training: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 0.2,
        "nesterov": False,
        "weight_decay": 2e-4,
    }

    mean_init: float = setting(0.0, not_negative)
    """Standard deviation of the initial means; 0: He initialization by fan-in."""

    def optimizer(self) -> "Sgd":
        """See `Method.optimizer`: it takes its rate, momentum and decay from `Sgd`."""
        return _sgd(self.training)

    def build(self, problem: "Problem") -> "Swapping":
        """See `Method.build`; also an optimizer that is not `Sgd`, or no decay."""
        from ssvi_jax.methods.algorithms.swapping import Swapping

        ivon = _step(self, problem)
        return Swapping(
            problem,
            _inference(self, ivon, problem),
            counts={path: math.prod(shape) for path, shape in problem.shapes.items()},
            sigma_init=(float(ivon.sigma(self.hess_init)), 0.0),
            mean_init=self.mean_init,
        )


@register
@dataclasses.dataclass(frozen=True)
class SSVIIvon(Newton, Growth, Criteria, Replacement, Sparsity, Method):
    """IVON's posterior on SSVI's subspace."""

    name: ClassVar[str] = "ssvi_ivon"
    training: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 1.5,
        "nesterov": False,
        "weight_decay": 2e-4,
    }
    sparse_from_start: ClassVar[bool] = True

    def optimizer(self) -> "Sgd":
        """See `IVON.optimizer`."""
        return _sgd(self.training)

    def build(self, problem: "Problem") -> "Swapping":
        """See `IVON.build`; also densities that do not fit the network."""
        from ssvi_jax.methods.algorithms import swapping
        from ssvi_jax.vi.subspace import Rule

        ivon = _step(self, problem)
        return swapping.Swapping(
            problem,
            _inference(self, ivon, problem),
            counts=swapping.counts(self, problem),
            sigma_init=(float(ivon.sigma(self.hess_init)), 0.0),
            mean_init=self.mean_init,
            rule=Rule(self.removal, self.addition, "precision", self.removal_lambda),
            rate=swapping.rate(self, problem),
            grow_batches=self.grow_batches,
        )


def _sgd(values: Mapping[str, Any]) -> "Sgd":
    from ssvi_jax.methods.algorithms.sgd import Sgd

    return Sgd(**values)


def _step(settings: "IVON | SSVIIvon", problem: "Problem") -> "Ivon":
    from ssvi_jax.methods.algorithms.ivon_step import Ivon
    from ssvi_jax.methods.algorithms.sgd import Sgd

    sgd = problem.optimizer
    if not isinstance(sgd, Sgd):
        raise InputError(
            f"optimizer: got one of your own, allowed with {settings.name}: Sgd, of "
            "which it takes rate, momentum and decay (it is an optimizer itself); "
            f"{_OPTIMIZER}."
        )
    settings.check_training(sgd)
    return Ivon(
        learning_rate=sgd.rate(problem.total_steps),
        ess=problem.num_data / settings.temperature,
        hess_init=settings.hess_init,
        beta1=sgd.momentum,
        beta2=_beta2(settings.beta2, problem.total_steps),
        weight_decay=sgd.weight_decay,
        clip_radius=_clip_radius(settings, sgd, problem),
        empirical=settings.layer_prior == "empirical",
    )


def _clip_radius(settings: "IVON | SSVIIvon", sgd: "Sgd", problem: "Problem") -> float:
    from ssvi_jax.vi.likelihoods import Bernoulli, Categorical

    if settings.clip_radius is not None:
        return settings.clip_radius
    if isinstance(problem.likelihood, Bernoulli | Categorical):
        return 0.0
    scale = settings.hess_init + sgd.weight_decay
    return _LARGEST_STEP / (sgd.learning_rate * scale)


def _beta2(asked: float | None, steps: int) -> float:
    """β₂; warns where it leaves h near its start."""
    if asked is None:
        return max(1 - 2 / steps, 0.0)
    replaced = 1 - asked**steps
    if replaced < 0.5:
        warnings.warn(
            f"beta2: {asked} replaces {100 * replaced:.0f} % of the initial Hessian in "
            f"{steps} steps, so the standard deviations stay near what hess_init says; "
            "None follows in any number of steps.",
            stacklevel=4,
        )
    return asked


def _inference(settings: "IVON | SSVIIvon", ivon: "Ivon", problem: "Problem") -> "VI":
    from ssvi_jax.methods.algorithms.gaussians import kl_weight
    from ssvi_jax.vi.priors import EmpiricalPrior, GaussianPrior

    return problem.inference(
        ivon.transformation(),
        prior=EmpiricalPrior() if ivon.empirical else GaussianPrior(ivon.prior_std),
        estimator=settings.estimator,
        draws=settings.draws,
        kl_weight=kl_weight(0.0, problem.total_steps, 0.0),
    )
