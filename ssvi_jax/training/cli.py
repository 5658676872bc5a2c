"""The training's command line: parse it, resolve its presets.

`--method` and `--preset` are looked up first: they decide which settings there are, and
their defaults. JAX is not imported before a preset is resolved, so that `--help` and
typing errors answer at once.
"""

from collections.abc import Sequence
from typing import Any

from ssvi_jax.core.command import parse_known
from ssvi_jax.core.errors import InputError, check_choice
from ssvi_jax.methods import METHODS
from ssvi_jax.training.presets import LONG_DENSITY, PRESETS, defaults
from ssvi_jax.training.recipes import RECIPES
from ssvi_jax.training.run_config import Config, Run, names_of


def parse(argv: Sequence[str], *, strict: bool = True) -> Config:
    """Parses the command line; `auto` values are still unresolved.

    A paper's preset says which method and data set, unless flags do.

    Args:
      argv: the command line.
      strict: refuse flags that only other methods have; else they are left out.

    Raises:
      InputError: an unknown method, such a flag, or a setting of the training that the
        method cannot take.
    """
    preset = given(argv, "preset") or Run.preset
    recipe = RECIPES.get(preset)
    values: dict[str, Any] = {}
    if recipe is not None:
        values = {"method": recipe.method, "dataset": recipe.dataset}
    method = _method(argv, values)
    # Of the training what the method has in every preset, so that it can be checked.
    default = Config.of({**METHODS[method].training, **values, "method": method})
    config, foreign = parse_over(argv, default)
    if foreign and strict:
        raise InputError(
            f"{foreign[0]}: no setting of the method {config.run.method}; leave it "
            "out, or choose another method (--help --method NAME lists its settings)."
        )
    config.method.check_training(config.training)
    return config


def parse_over(argv: Sequence[str], default: Config) -> tuple[Config, list[str]]:
    """Parses a command line over a configuration; what is not given stays.

    Args:
      argv: the command line.
      default: a configuration of the method that it asks for.

    Returns:
      The configuration, and the settings given that only other methods have.
    """
    method = type(default.method)
    options: Any = Config[method]
    foreign = all_names() - names_of(method)
    return parse_known(options, argv, default, foreign)


def all_names() -> set[str]:
    """Of the settings of all methods, and of training, data and run."""
    return set().union(*map(names_of, METHODS.values()))


def _method(argv: Sequence[str], values: dict[str, Any]) -> str:
    name = given(argv, "method") or values.get("method", Run.method)
    check_choice("--method", name, METHODS)
    return name


def given(argv: Sequence[str], name: str) -> str | None:
    """The last value of a flag on a command line; None: it is not there."""
    found, flag = None, f"--{name}"
    for i, word in enumerate(argv):
        if word.startswith(f"{flag}="):
            found = word.removeprefix(f"{flag}=")
        elif word == flag and i + 1 < len(argv):
            found = argv[i + 1]
    return found


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
    density = 1.0 - getattr(asked.method, "sparsity", 0.0)
    long = (
        asked.method.sparse_from_start
        and given(argv, "model") in (None, PRESETS["laptop"]["model"])
        and backend.choose(asked.training.training_backend, density) == "sparse"
        and round(density, 9) <= LONG_DENSITY
    )
    default = defaults(preset, dataset, asked.run.method, long=long)
    config, _ = parse_over(argv, default)
    return config.with_values(preset=preset, dataset=dataset)
