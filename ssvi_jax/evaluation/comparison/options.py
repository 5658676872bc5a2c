"""Options of a comparison, and the configuration of each of its runs.

Imports nothing heavy, so that a command line can be parsed and refused at once.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from ssvi_jax.core.command import program
from ssvi_jax.core.errors import InputError, check_choice, check_images, check_positive
from ssvi_jax.methods import METHODS, SSVI
from ssvi_jax.training import cli, presets
from ssvi_jax.training.run_config import Config

DENSE: dict[str, object] = {"sparsity": 0.0, "replacement_rate": 0.0}
"""What makes SSVI variational inference on all weights."""

VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "vi": ("ssvi", DENSE),
    "vi_weight_sample": ("ssvi", {**DENSE, "estimator": "weight_sample"}),
    "vi_flipout": ("ssvi", {**DENSE, "estimator": "flipout"}),
    "rank1_sparse": ("rank1", {"sparsity": None}),
    "small_deterministic": ("deterministic", {}),
}
"""Name in a comparison → method, and the settings that make it another one;
None: not the method's own value, but what all sparse methods have."""

SMALL = "small_deterministic"
"""The dense network that is as narrow as it takes to have, in layers between hidden
ones, as many weights as the sparse networks keep."""

NAMES = (*METHODS, *VARIANTS)
"""What can be compared."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Trains methods over several seeds, evaluates them, and writes one table.

    Every flag of a training (ssvi train: --preset laptop --epochs 3 --width 1) may be
    added and goes to all runs, except where it would change what defines a method. What
    --out already holds is not trained again. With --verify nothing is trained.
    """

    methods: str = ""
    """Names separated by commas; "all" stands for the rest. NAME:N has N seeds."""
    seeds: int = 3
    """Runs of every other method: seeds 0, 1, …"""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/methods")
    """Folder of the table and figures; runs go to DIR/runs/METHOD-SEED."""
    join: Annotated[
        tuple[Path, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="RUN")
    ] = ()
    """A finished run NAME-SEED trained elsewhere, as by benchmarks/torch_airbench.py,
    that joins the table; may be given several times."""

    minutes: float = 0.0
    """Equal training time, on these cores when idle: as many epochs of each method as
    fit by --step-times; 0: equal epochs."""
    step_times: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Seconds of a step of all methods, measured side by side into this file where
    there is none; default: DIR/step_times.json."""

    corruptions_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """As for ssvi evaluate: folder of CIFAR-10-C's .npy files."""
    ood: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="SET")
    ] = ()
    """As there: an out-of-distribution set; may be given several times."""
    images: int = 0
    """As there: only the first so many images of every shifted set; 0: all."""

    verify: bool = False
    """Compare the table in --out with --reference; exit code 1 if it is outside."""
    write_reference: bool = False
    """Write the table in --out, with tolerances, to --reference."""
    reference: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path(
        "results/methods/reference.json"
    )
    """Numbers that --verify expects."""

    def __post_init__(self):
        check_positive("--seeds", self.seeds)
        if not 0 <= self.minutes < math.inf:
            raise InputError(
                f"--minutes: got {self.minutes}, allowed: 0 (equal epochs) or more."
            )
        check_images("--images", self.images)
        if self.verify and self.write_reference:
            raise InputError("--verify: got --write-reference too, allowed: one.")

    @property
    def seeds_of(self) -> dict[str, int]:
        """The methods asked for, each once, and their numbers of seeds.

        Raises:
          InputError: none, one that is not known, or no number of seeds.
        """
        found: dict[str, int] = {}
        for part in self.methods.split(","):
            name, colon, number = part.strip().partition(":")
            check_choice("--methods", name, (*NAMES, "all"))
            if colon and not (number.isdecimal() and int(number)):
                raise InputError(
                    f"--methods: got {part.strip()}, allowed: NAME:N, N seeds, 1 up."
                )
            seeds = int(number) if colon else self.seeds
            for each in NAMES if name == "all" else (name,):
                found.setdefault(each, seeds)
        return found


def parse(argv: Sequence[str]) -> tuple[Comparison, list[str]]:
    """A comparison's own options, and the flags that are left for its runs.

    Args:
      argv: the command line.
    """
    options, rest = tyro.cli(
        Comparison, prog=program(), args=list(argv), return_unknown_args=True
    )
    return options, rest


def configure(
    flags: Sequence[str],
    *,
    method: str,
    seed: int,
    preset: str,
    dataset: str,
    out: Path,
) -> tuple[Config, list[str]]:
    """The configuration of one run: defaults, then flags.

    What `Method.defining` and `VARIANTS` give a method defines it (a deterministic
    network has no sparsity) and stays, whatever the flags. All methods train the
    preset's network for the preset's epochs: `laptop` is never widened here, so that
    what differs is the method.

    Args:
      flags: flags of `ssvi train` for all runs.
      method: the run's method, one of `NAMES`.
      seed: its seed.
      preset: the preset's own name.
      dataset: the data set's own name.
      out: folder of the comparison.

    Returns:
      The configuration, and the settings that the method's definition kept from it,
      or that it does not have.

    Raises:
      InputError: a flag that the comparison sets itself, or a bad value.
    """
    base, changes = VARIANTS.get(method, (method, {}))
    own: dict[str, Any] = {**METHODS[base].defining(), **changes}
    shared = {name: getattr(SSVI, name) for name in own if own[name] is None}
    own = {name: value for name, value in own.items() if value is not None}
    default = presets.defaults(preset, dataset, base).with_values(
        **{"figures": False, **shared, **own},
        seed=seed,
        out=out / "runs" / f"{method}-{seed}",
    )
    for name, instead in (("method", "--methods"), ("seed", "--seeds")):
        if cli.given(flags, name) is not None:
            raise InputError(
                f"--{name}: a comparison has several; leave it out and give {instead}."
            )
    given, foreign = cli.parse_over(flags, default)
    if given.run.resume:
        raise InputError(
            "--resume: a comparison always continues what is in --out; leave it out."
        )
    if method == SMALL:
        sparse, _ = cli.parse_over(flags, presets.defaults(preset, dataset, "ssvi"))
        density = 1 - sparse.values()["sparsity"]
        own["width"] = round(given.training.width * math.sqrt(density), 4)
        given = given.with_values(width=own["width"])
    values = given.values()
    kept = [name for name, value in own.items() if values[name] != value]
    kept += foreign
    return given.with_values(**own, preset=preset, dataset=dataset), kept
