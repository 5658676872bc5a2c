"""Configurations to start from: by preset or paper, by data set, by method."""

from ssvi_jax.config import Config
from ssvi_jax.errors import check_choice
from ssvi_jax.recipes import PAPER, RECIPES

PRESETS: dict[str, dict[str, object]] = {
    "paper": PAPER,
    "laptop": {},
    "smoke": {
        "width": 0.25,
        "epochs": 2,
        "train_size": 4000,
        "inner_steps": 10,
        "samples": 3,
    },
}
"""Preset → what it changes in `Config`. `paper` is the authors' code (Li et al.)."""

DIGITS: dict[str, dict[str, object]] = {
    "paper": {"batch_size": 64, "inner_steps": 20},
    "laptop": {"width": 0.5, "epochs": 30, "batch_size": 64, "inner_steps": 20},
    "smoke": {"train_size": 0, "batch_size": 64, "epochs": 4},
}
"""What the presets change besides on the embedded digits, 1,797 images of 8 × 8."""

RANK1_METHODS = ("rank1", "batch_ensemble")
"""Methods whose K members share kernels up to rank-1 factors."""

ENSEMBLES = ("ensemble", "ssvi_ensemble", "ssvi_mixture")
"""Methods that train K networks of their own."""

SPARSE_FROM_START = ("ssvi", "rigl", "set", "static", "ssvi_ensemble", "ssvi_mixture")
"""Methods that keep `1 - sparsity` of the weights from the first step on."""

METHODS: dict[str, dict[str, object]] = {
    "deterministic": {"sparsity": 0.0, "replacement_rate": 0.0},
    "rigl": {"removal": "mean"},
    "set": {"removal": "mean", "addition": "random"},
    "static": {"replacement_rate": 0.0},
    "magnitude": {"replacement_rate": 0.0, "prune_at": 0.5},
    "svd": {
        "sparsity": 0.0,
        "replacement_rate": 0.0,
        "prune_at": 0.9,
        "prior": "log_uniform",
        "kl_scale": 1.0,
        "sigma_init": 6.7e-3,
        "weight_decay": 0.0,
    },
    "rank1": {"sparsity": 0.0, "kl_scale": 1.0, "kl_warmup": 0.8, "removal": "mean"},
    "batch_ensemble": {
        "sparsity": 0.0,
        "removal": "mean",
        "fast_init": "normal",
        "fast_rate_scale": 0.5,
    },
    "ensemble": {"sparsity": 0.0, "replacement_rate": 0.0},
    "ssvi_ensemble": {},
    "ssvi_mixture": {},
    "mc_dropout": {"sparsity": 0.0, "replacement_rate": 0.0},
    "ivon": {
        "sparsity": 0.0,
        "replacement_rate": 0.0,
        "estimator": "weight_sample",
        "kl_scale": 1.0,
        "learning_rate": 0.2,
        "nesterov": False,
        "weight_decay": 2e-4,
    },
}
"""What a method changes besides. `svd` starts at log σ² = -10 and has no decay, as the
prior shrinks the means (Molchanov et al. 2017); `rank1` and `batch_ensemble` as in
arXiv 2005.07186; `ivon` is at the authors' values for ResNet-20 (arXiv 2402.17641)."""

WIDE_LAPTOP: dict[str, object] = {"width": 3.0, "epochs": 22}
"""What `laptop` changes besides, on larger images, where the sparse kernels compute its
network: nine times the weights for longer, in the same half an hour."""

WIDE_DENSITY = 0.05
"""… and where no more than this fraction is kept: half an hour is enough for that."""


def defaults(preset: str, dataset: str, method: str, *, wide: bool = False) -> Config:
    """The configuration of a resolved preset, data set and method.

    A recipe's own method is set as in its paper; another one gets its training and
    network.

    Args:
      preset: a key of `PRESETS` or `RECIPES`, not "auto".
      dataset: a data set's own name, not "auto".
      method: a method's name.
      wide: whether `WIDE_LAPTOP` applies to the laptop preset.

    Raises:
      InputError: unknown preset.
    """
    check_choice("--preset", preset, (*PRESETS, *RECIPES))
    recipe = RECIPES.get(preset)
    values = dict(recipe.training if recipe else PRESETS[preset])
    if dataset == "digits":
        values |= DIGITS.get(preset, DIGITS["paper"])
    elif preset == "laptop" and wide:
        values |= WIDE_LAPTOP
    values |= METHODS.get(method, {})
    if recipe and method == recipe.method:
        values |= recipe.own
    return Config(preset=preset, dataset=dataset, method=method, **values)  # type: ignore[arg-type]
