"""Every training method: who builds it, what it changes, which settings it reads.

To add a method, write a file in `methods/` and an entry here. The command line, the
presets and the comparison take their names from `METHODS`. Imports nothing.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Entry(NamedTuple):
    """What is known of a method before anything heavy is imported.

    Attributes:
      build: "module:function" in `methods`, a `Config` and a `Problem` → a
        `Method`.
      changes: fields of `Config` that it changes in every preset.
      reads: names in `SETTINGS`; fields of the others are refused.
      sparse_from_start: whether it keeps `1 - sparsity` of the weights throughout.
      swap_gradients: dense gradients that a swap takes, over `grow_batches`.
      swap_passes: forward passes of the mean network besides, likewise.
    """

    build: str
    changes: Mapping[str, object] = {}
    reads: tuple[str, ...] = ()
    sparse_from_start: bool = False
    swap_gradients: int = 1
    swap_passes: int = 0


SETTINGS: dict[str, tuple[tuple[str, ...], str]] = {
    "pruning": (("prune_at",), "it does not prune"),
    "factors": (
        (
            *("member_batch", "bound", "fast_init", "fast_sign_probability"),
            *("fast_rate_scale", "fast_posterior", "fast_prior", "fast_prior_scale"),
            *("fast_sigma_init", "fast_relative_sigma"),
        ),
        "its kernels have no rank-1 factors",
    ),
    "members": (("members",), "it has one member"),
    "networks": (("members_at_once",), "it is one network"),
    "dropout": (("dropout_rate",), "it drops nothing"),
    "hessian": (
        ("hess_init", "beta2", "clip_radius"),
        "its standard deviations are no Hessian's",
    ),
    "chain": (("spike_std",), "it samples no masks"),
}
"""Settings of some methods only → fields of `Config`, and why others refuse them."""

_DENSE = {"sparsity": 0.0, "replacement_rate": 0.0}

METHODS: dict[str, Entry] = {
    "ssvi": Entry("ssvi:build", sparse_from_start=True),
    "deterministic": Entry("deterministic:build", _DENSE),
    "rigl": Entry("rigl:build_rigl", {"removal": "mean"}, sparse_from_start=True),
    "set": Entry(
        "rigl:build_set",
        {"removal": "mean", "addition": "random"},
        sparse_from_start=True,
    ),
    "static": Entry(
        "rigl:build_static",
        {"replacement_rate": 0.0},
        sparse_from_start=True,
    ),
    "masked_bnn": Entry(
        "masked_bnn:build",
        {
            "replacement_rate": 0.01,
            "replacement_schedule": "constant",
            "grow_batches": 10,
            "grow_at_mean": True,
        },
        ("chain",),
        sparse_from_start=True,
        swap_gradients=2,
        swap_passes=2,
    ),
    "magnitude": Entry(
        "magnitude:build",
        {"replacement_rate": 0.0, "prune_at": 0.5},
        ("pruning",),
    ),
    "svd": Entry(
        "svd:build",
        {
            **_DENSE,
            "prune_at": 0.9,
            "prior": "log_uniform",
            "kl_scale": 1.0,
            "sigma_init": 6.7e-3,
            "weight_decay": 0.0,
        },
        ("pruning",),
    ),
    "ivon": Entry(
        "ivon:build",
        {
            **_DENSE,
            "estimator": "weight_sample",
            "kl_scale": 1.0,
            "learning_rate": 0.2,
            "nesterov": False,
            "weight_decay": 2e-4,
        },
        ("hessian",),
    ),
    "rank1": Entry(
        "rank1:build",
        {"sparsity": 0.0, "kl_scale": 1.0, "kl_warmup": 0.8, "removal": "mean"},
        ("factors", "members"),
    ),
    "batch_ensemble": Entry(
        "rank1:build",
        {
            "sparsity": 0.0,
            "removal": "mean",
            "fast_init": "normal",
            "fast_rate_scale": 0.5,
        },
        ("factors", "members"),
    ),
    "ensemble": Entry("ensemble:build", _DENSE, ("members", "networks")),
    "ssvi_ensemble": Entry(
        "ensemble:build_ssvi", {}, ("members", "networks"), sparse_from_start=True
    ),
    "ssvi_mixture": Entry(
        "mixture:build", {}, ("members", "networks"), sparse_from_start=True
    ),
    "mc_dropout": Entry("mc_dropout:build", _DENSE, ("dropout",)),
}
"""Name → entry. `svd` starts at log σ² = -10 and has no decay, as the prior shrinks the
means (Molchanov et al. 2017); `rank1` and `batch_ensemble` as in arXiv 2005.07186;
`ivon` is at the authors' values for ResNet-20 (arXiv 2402.17641)."""


def reading(settings: str) -> tuple[str, ...]:
    """The methods that read one of `SETTINGS`."""
    return tuple(name for name, entry in METHODS.items() if settings in entry.reads)
