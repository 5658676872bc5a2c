"""What a method may make of a network: members, rank-1 factors, dropout."""

import dataclasses

from ssvi_jax.core.errors import check_choice, check_fraction, check_positive

POSTERIORS = ("point", "gaussian", "cauchy")
INITS = ("sign", "normal")


@dataclasses.dataclass(frozen=True)
class Rank1Spec:
    """What the factors of a rank-1 network are and how they start.

    Attributes:
      num_members: K, at least 1.
      posterior: "point" (BatchEnsemble), "gaussian" or "cauchy".
      relative: standard deviations are softplus(rho) · abs(mean), as in Gaussian
        dropout, instead of softplus(rho).
      init: "normal": means are N(1, `init_std`²); "sign": 1 with `sign_probability`,
        else -1, as in the authors' trainings of 250 epochs.
      init_std: standard deviation of such means around 1, above 0.
      sign_probability: a fraction in [0, 1].
      sigma_init: initial standard deviation (scale of a Cauchy), above 0. The authors'
        sqrt(p / (1 - p)) for a dropout rate p = 1e-3 is 0.0316.

    Raises:
      InputError: a value outside of these.
    """

    num_members: int = 4
    posterior: str = "gaussian"
    relative: bool = False
    init: str = "normal"
    init_std: float = 0.1
    sign_probability: float = 0.5
    sigma_init: float = 0.0316

    def __post_init__(self):
        check_positive("num_members", self.num_members)
        check_choice("posterior", self.posterior, POSTERIORS)
        check_choice("init", self.init, INITS)
        check_positive("init_std", self.init_std)
        check_fraction("sign_probability", self.sign_probability, one_allowed=True)
        check_positive("sigma_init", self.sigma_init)


@dataclasses.dataclass(frozen=True)
class Structure:
    """How a network differs from the plain model; as it comes, it does not.

    Attributes:
      rank1: the factors of members that share kernels; None: there are none.
      copies: K networks of their own, along the first axis of every array (see
        `networks.members`), at least 1; None: one network, without that axis.
      dropout: rate of dropout in training and in draws (see `networks.dropout`), in
        [0, 1).

    Raises:
      InputError: a value outside of these.
    """

    rank1: Rank1Spec | None = None
    copies: int | None = None
    dropout: float = 0.0

    def __post_init__(self):
        check_fraction("dropout", self.dropout)
        if self.copies is not None:
            check_positive("copies", self.copies)
