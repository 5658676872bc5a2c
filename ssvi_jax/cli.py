"""Command lines: parse, resolve presets, and turn bad input into exit code 2."""

import dataclasses
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

import tyro

from ssvi_jax.config import Config
from ssvi_jax.errors import InputError
from ssvi_jax.presets import SPARSE_FROM_START, WIDE_DENSITY, defaults
from ssvi_jax.recipes import RECIPES

T = TypeVar("T")


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Runs a script's main function and exits the process with its code.

    `InputError` and errors of the file system become one line on standard error and
    exit code 2. Any other exception is a defect and keeps its traceback. A character
    that the terminal does not have is printed as a question mark.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has left; at exit Python would try to write again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        _leave(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        _leave(130)
    except Exception:
        _hurry(1)
        raise
    sys.exit(code or 0)


def _leave(code: int) -> NoReturn:
    _hurry(code)
    sys.exit(code)


def _hurry(code: int) -> None:
    """Lets no other process of the training keep this one from ending."""
    processes = sys.modules.get("ssvi_jax.processes")  # imported where there are some
    if processes is not None:
        processes.hurry(code)


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


def parse_as(options: type[T], argv: Sequence[str], *, default: T | None = None) -> T:
    """Parses the command line of a script whose options are a dataclass.

    Args:
      options: the dataclass.
      argv: the command line.
      default: values of what is not given; without it those of the dataclass.
    """
    if default is None:
        return tyro.cli(options, args=list(argv))
    return tyro.cli(options, args=list(argv), default=default)


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
