"""The command `ssvi`, which an installation brings: one word says what to do.

    ssvi train --sparsity 0.95
    ssvi info runs/cifar10-ssvi-s95

What follows the word is read by that command's own module, so that its `--help` costs
no more than it needs.
"""

import dataclasses
import importlib
import sys
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, NamedTuple, Union

from ssvi_jax.core import terminal
from ssvi_jax.core.errors import InputError


class Subcommand(NamedTuple):
    """One of the words after `ssvi`.

    Attributes:
      module: whose `main` does it, below `ssvi_jax`.
      options: the dataclass of its options: module below `ssvi_jax` and name.
      about: what it does, for the list of all.
    """

    module: str
    options: tuple[str, str]
    about: str


COMMANDS = {
    "train": Subcommand(
        "evaluation.run.main",
        ("training.run_config", "Config"),
        "trains a network by any method and leaves a run folder",
    ),
    "predict": Subcommand(
        "evaluation.predict",
        ("evaluation.predict", "Command"),
        "classes of images in a .npy file, and how sure they are",
    ),
    "evaluate": Subcommand(
        "evaluation.shift.main",
        ("evaluation.shift.options", "ShiftConfig"),
        "models on clean, corrupted and out-of-distribution images; one report",
    ),
    "compare": Subcommand(
        "evaluation.comparison.main",
        ("evaluation.comparison.options", "Comparison"),
        "trains several methods over several seeds and writes one table",
    ),
    "calibrate": Subcommand(
        "evaluation.calibrate",
        ("evaluation.calibrate", "Command"),
        "scales a posterior's standard deviations to its validation images",
    ),
    "corrupt": Subcommand(
        "data.corruptions.__main__",
        ("data.corruptions.__main__", "Command"),
        "corrupts the images of a .npy file as in CIFAR-10-C",
    ),
    "export": Subcommand(
        "evaluation.export_model",
        ("evaluation.export_model", "Command"),
        "writes a model file as ONNX or StableHLO",
    ),
    "info": Subcommand(
        "evaluation.info",
        ("evaluation.info", "Command"),
        "what a model file, a run or a folder of checkpoints holds",
    ),
    "card": Subcommand(
        "evaluation.model_card",
        ("evaluation.model_card", "Command"),
        "a model card beside a model file, in Hugging Face's layout",
    ),
}

_COMPLETION = "--tyro-"
"""Begins tyro's own flags: --tyro-print-completion and --tyro-write-completion."""


def main(argv: Sequence[str]) -> int:
    """Hands on to the command that the first word names; the exit code."""
    word, *rest = argv or ("--help",)
    if word in ("--help", "-h"):
        print(_help())
        return 0
    if word == "--version":
        import ssvi_jax

        print(f"ssvi_jax {ssvi_jax.__version__}")
        return 0
    if word.startswith(_COMPLETION):
        return _complete(argv)
    if word not in COMMANDS:
        raise InputError(
            f"ssvi: got {word[:100]!r}, allowed first: {', '.join(COMMANDS)}, --help "
            "or --version."
        )
    from ssvi_jax.core import command

    module = importlib.import_module(f"ssvi_jax.{COMMANDS[word].module}")
    with command.called(f"ssvi {word}"):
        return module.main(rest)


def _help() -> str:
    widest = max(map(len, COMMANDS))
    listed = "\n".join(
        f"  {name.ljust(widest)}  {sub.about}" for name, sub in COMMANDS.items()
    )
    rest = (
        "ssvi COMMAND --help lists the options of a command. What they complete to in "
        "a shell: ssvi --tyro-print-completion bash (or zsh, tcsh)."
    )
    return "\n".join(
        [
            "usage: ssvi COMMAND [OPTIONS]",
            "",
            terminal.fitted(listed),
            "",
            *textwrap.wrap(rest, min(terminal.width(), 80)),
        ]
    )


def _complete(argv: Sequence[str]) -> int:
    """Prints or writes what a shell completes, which tyro makes of all options."""
    import tyro

    def options(name: str) -> Any:
        if name == "train":
            return _all_settings()
        module, attribute = COMMANDS[name].options
        return getattr(importlib.import_module(f"ssvi_jax.{module}"), attribute)

    each: Any = Union[  # noqa: UP007 (of a tuple)
        tuple(
            Annotated[options(name), tyro.conf.subcommand(name, prefix_name=False)]
            for name in COMMANDS
        )
    ]
    config = (tyro.conf.OmitArgPrefixes,)
    with suppress(SystemExit):  # it always leaves, and with code 0
        tyro.cli(each, prog="ssvi", args=list(argv), config=config)
    return 0


def _all_settings() -> type:
    """The settings of a run with any method, as one dataclass."""
    from ssvi_jax.methods import METHODS
    from ssvi_jax.training.run_config import Data, Run, Training

    found = {
        field.name: (field.name, field.type, field)
        for group in (*METHODS.values(), Training, Data, Run)
        for field in dataclasses.fields(group)
    }
    return dataclasses.make_dataclass("Train", found.values())


def ssvi() -> None:
    """What the installed `ssvi` calls, also where the runtime alone is installed."""
    try:
        from ssvi_jax.core import command
    except ModuleNotFoundError as missing:
        print(
            f"error: ssvi: {missing.name} is not installed; pip install ssvi_jax with "
            "what it needs. (ssvi_jax.runtime predicts from Python without it.)",
            file=sys.stderr,
        )
        sys.exit(2)
    command.run(main)


if __name__ == "__main__":
    ssvi()
