"""What each part of the laptop recipe is worth: the recipe with one part changed.

    python experiments/ablation.py --seeds 3 --minutes 2

All variants train for equal time, by one table of step times measured side by side, and
are compared on validation images by the mean network. Flags of experiments/cifar10.py
go to all runs; what --out already holds is not trained again.
"""

import contextlib
import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from unittest import mock

import tyro

from ssvi_jax.core import command
from ssvi_jax.core.errors import check_count, check_positive
from ssvi_jax.training import cli
from ssvi_jax.training.run_config import Config

RECIPE = "recipe"


class Variant(NamedTuple):
    """The recipe with one part changed.

    Attributes:
      what: the change, for the table.
      settings: of the configuration.
      patch: the change where it is none of the settings.
      changes_time: whether a step takes another time, so that it is measured.
    """

    what: str
    settings: Mapping[str, Any] = {}
    patch: Callable[[], AbstractContextManager] = contextlib.nullcontext
    changes_time: bool = False


def _no_whitening() -> AbstractContextManager:
    from ssvi_jax.networks import whitening

    return mock.patch.object(whitening, "whitened", lambda state, images: state)


def _no_identity() -> AbstractContextManager:
    from flax import linen as nn

    from ssvi_jax.networks.models import airbench

    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(airbench.Airbench, "dirac", False))
    he = nn.initializers.he_normal()
    stack.enter_context(mock.patch.object(airbench, "_identity_first", he))
    return stack


def _no_gathering() -> AbstractContextManager:
    from ssvi_jax.networks.models import airbench

    return mock.patch.object(airbench.Airbench, "fast_statistics", False)


VARIANTS: dict[str, Variant] = {
    RECIPE: Variant("nothing"),
    "no_whitening": Variant("patches are not whitened", patch=_no_whitening),
    "no_identity": Variant("no convolution begins as the identity", patch=_no_identity),
    "no_gathering": Variant(
        "running statistics as training left them", patch=_no_gathering
    ),
    "zeros": Variant(
        "shifts by up to 4 pixels, zeros outside",
        {"shifts": "zeros"},
        changes_time=True,
    ),
    "sqrt_erk": Variant(
        "`--densities sqrt_erk`", {"densities": "sqrt_erk"}, changes_time=True
    ),
    "uniform": Variant(
        "`--densities uniform`", {"densities": "uniform"}, changes_time=True
    ),
    "swaps_50": Variant(
        "a swap every 50 steps", {"inner_steps": 50}, changes_time=True
    ),
    "swaps_200": Variant(
        "a swap every 200 steps", {"inner_steps": 200}, changes_time=True
    ),
    "rate_0.1": Variant("a tenth is swapped at first", {"replacement_rate": 0.1}),
    "random_masks": Variant(
        "masks stay as drawn", {"replacement_rate": 0.0}, changes_time=True
    ),
    "cosine": Variant("`--schedule cosine`", {"schedule": "cosine"}),
    "rate_halved": Variant("half the learning rate", {"learning_rate": 0.75}),
    "rate_doubled": Variant("twice the learning rate", {"learning_rate": 3.0}),
}
"""Name → change. Sources: whitening, identity, statistics and shifts K. Jordan 2024
(arXiv 2404.00498); densities and swaps Evci et al. 2020 (arXiv 1911.11134)."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Trains the laptop recipe of ssvi_ivon with one part changed at a time."""

    seeds: int = 3
    """Runs of every variant: seeds 0, 1, …"""
    minutes: float = 2.0
    """Training time of a run, on these cores when idle."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/ablation")
    """Folder of ablation.json and ablation.md; runs go to DIR/runs."""


def configurations(asked: Command, base: Config) -> dict[tuple[str, int], Config]:
    """(variant, seed) → the configuration of a run, seed by seed."""
    return {
        (name, seed): base.with_values(
            **variant.settings, seed=seed, out=asked.out / "runs" / f"{name}-{seed}"
        )
        for seed in range(asked.seeds)
        for name, variant in VARIANTS.items()
    }


def train(asked: Command, flags: Sequence[str]) -> dict[str, list[dict[str, float]]]:
    """Variant → validation scores of every seed; trains what is missing."""
    from ssvi_jax import data
    from ssvi_jax.evaluation.comparison import runs, step_times
    from ssvi_jax.evaluation.comparison.options import Comparison
    from ssvi_jax.io import run_files

    argv = ["--method", "ssvi_ivon", *flags]
    place = cli.parse(argv).data
    dataset = data.load(place.dataset, place.data_dir, notify=print)
    base = cli.resolve(argv, preset="laptop", dataset=dataset.name)
    configs = configurations(asked, base.with_values(figures=False))
    options = Comparison(minutes=asked.minutes, out=asked.out)
    alike = {
        name: RECIPE
        for name, variant in VARIANTS.items()
        if name != RECIPE and not variant.changes_time
    }
    timed = step_times.in_time(
        list(configs.values()), options, dataset, as_long_as=alike
    )
    runs.check_same(timed)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for (name, seed), config in zip(configs, timed, strict=True):
        print(f"{name}, seed {seed}: {config.training.epochs} epochs", flush=True)
        with VARIANTS[name].patch():
            if signal := runs.train_run(config, dataset):
                raise SystemExit(128 + signal)
        assert config.run.out is not None, "every run has its folder"
        mean = run_files.read_summary(config.run.out)["val"]["mean"]
        scores = {score: mean[score] for score in ("accuracy", "nll")}
        found[name].append({"epochs": config.training.epochs, **scores})
    return found


def estimate(numbers: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard error; of one number there is none."""
    if len(numbers) < 2:
        return numbers[0], None
    return statistics.fmean(numbers), statistics.stdev(numbers) / math.sqrt(
        len(numbers)
    )


def table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Markdown: of every variant its scores, and what the change costs, paired."""
    lines = [
        "| changed | epochs | accuracy (%) | difference | NLL | difference |",
        "|---|---|---|---|---|---|",
    ]
    for name, rows in found.items():
        cells = [VARIANTS[name].what, f"{rows[0]['epochs']:.1f}"]
        for score, scale, digits in (("accuracy", 100, 1), ("nll", 1, 3)):
            own = [scale * row[score] for row in rows]
            other = [scale * row[score] for row in found[RECIPE]]
            paired = [a - b for a, b in zip(own, other, strict=True)]
            cells.append(_cell(estimate(own), digits))
            shown = "" if name == RECIPE else _cell(estimate(paired), digits, "+")
            cells.append(shown)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: tuple[float, float | None], digits: int, sign: str = "") -> str:
    mean, error = value
    shown = f"{mean:{sign}.{digits}f}"
    return shown if error is None else f"{shown} ± {error:.{digits}f}"


def main(argv: Sequence[str]) -> int:
    """Parse, train what is missing, write the table; the exit code."""
    asked, flags = tyro.cli(Command, args=list(argv), return_unknown_args=True)
    check_count("--seeds", asked.seeds)
    check_positive("--minutes", asked.minutes)

    from ssvi_jax.io import run_log

    run_log.check_writable(asked.out)
    found = train(asked, flags)
    about = {
        **run_log.environment(),
        "seeds": asked.seeds,
        "minutes": asked.minutes,
        "flags": list(flags),
    }
    content = json.dumps({"about": about, "variants": found}, indent=1)
    (asked.out / "ablation.json").write_text(content + "\n")
    text = table(found)
    (asked.out / "ablation.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    command.run(main)
