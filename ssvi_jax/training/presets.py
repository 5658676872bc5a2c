"""Configurations to start from: by preset or paper, by data set, by method."""

from typing import Any

from ssvi_jax.core.errors import check_choice
from ssvi_jax.methods import METHODS
from ssvi_jax.training.recipes import PAPER, RECIPES
from ssvi_jax.training.run_config import Config, names_of

PRESETS: dict[str, dict[str, object]] = {
    "paper": PAPER,
    "laptop": {"model": "airbench", "shifts": "reflect"},
    "smoke": {
        "width": 0.25,
        "epochs": 2,
        "train_size": 4000,
        "inner_steps": 10,
        "samples": 3,
    },
}
"""Preset → what it changes of a configuration. `paper` is the authors' code (Li et
al.). Settings that a method does not have are left out."""

DIGITS: dict[str, dict[str, object]] = {
    "paper": {"batch_size": 64, "inner_steps": 20},
    "laptop": {
        "model": "convnet",
        "shifts": "zeros",
        "width": 0.5,
        "epochs": 30,
        "batch_size": 64,
        "inner_steps": 20,
    },
    "smoke": {"train_size": 0, "batch_size": 64, "epochs": 4},
}
"""What the presets change besides on the embedded digits, 1,797 images of 8 × 8."""

LONG_LAPTOP: dict[str, object] = {"epochs": 60}
"""What `laptop` changes besides, on larger images, where the sparse kernels compute its
network: half an hour on 2 cores with AVX-512."""

LONG_DENSITY = 0.05
"""… and where no more than this fraction is kept: half an hour is enough for that."""


def defaults(preset: str, dataset: str, method: str, *, long: bool = False) -> Config:
    """The configuration of a resolved preset, data set and method.

    A recipe's own method is set as in its paper; another one gets its training and
    network.

    Args:
      preset: a key of `PRESETS` or `RECIPES`, not "auto".
      dataset: a data set's own name, not "auto".
      method: a method's name.
      long: whether `LONG_LAPTOP` applies to the laptop preset.

    Raises:
      InputError: unknown preset or method.
    """
    check_choice("preset", preset, (*PRESETS, *RECIPES))
    check_choice("method", method, METHODS)
    recipe = RECIPES.get(preset)
    values: dict[str, Any] = dict(recipe.training if recipe else PRESETS[preset])
    if dataset == "digits":
        values |= DIGITS.get(preset, DIGITS["paper"])
    elif preset == "laptop" and long:
        values |= LONG_LAPTOP
    values |= METHODS[method].defining()
    if recipe and method == recipe.method:
        values |= recipe.own
    known = names_of(METHODS[method])
    own = {name: value for name, value in values.items() if name in known}
    return Config.of({**own, "preset": preset, "dataset": dataset, "method": method})
