"""The training's command line: parse it, resolve its presets."""

import dataclasses
from collections.abc import Sequence

from ssvi_jax.core.command import parse_as
from ssvi_jax.training.presets import SPARSE_FROM_START, WIDE_DENSITY, defaults
from ssvi_jax.training.recipes import RECIPES
from ssvi_jax.training.run_config import Config


def parse(argv: Sequence[str]) -> Config:
    """Parses the command line; `auto` values are still unresolved.

    A paper's preset says which method and data set, unless flags do. Jax is not
    imported, so that `--help` and typing errors answer at once.
    """
    asked = parse_as(Config, argv)
    recipe = RECIPES.get(asked.preset)
    if recipe is None:
        return asked
    default = Config(method=recipe.method, dataset=recipe.dataset)  # type: ignore[arg-type]
    return parse_as(Config, argv, default=default)


def resolve(argv: Sequence[str], *, preset: str, dataset: str) -> Config:
    """Parses again on top of a preset; flags that were given win.

    JAX is asked which backend multiplies: the laptop preset depends on it.

    Args:
      argv: the command line.
      preset: the preset's own name.
      dataset: the data set's own name.

    Raises:
      InputError: a backend that cannot run here.
    """
    from ssvi_jax.ops import backend

    asked = parse(argv)
    density = 1.0 - asked.sparsity
    wide = (
        asked.method in SPARSE_FROM_START
        and asked.model == Config.model
        and backend.choose(asked.training_backend, density) == "sparse"
        and round(density, 9) <= WIDE_DENSITY
    )
    default = defaults(preset, dataset, asked.method, wide=wide)
    config = parse_as(Config, argv, default=default)
    return dataclasses.replace(config, preset=preset, dataset=dataset)
