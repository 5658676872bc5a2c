"""What each knob of IVON's posterior does to spread, accuracy and likelihood.

    python experiments/knobs.py --seeds 2

Changes one setting at a time of short trainings and draws validation scores of the mean
network and of samples. Flags of experiments/cifar10.py go to all runs; what --out
already holds is not trained again.
"""

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from ssvi_jax.core import command
from ssvi_jax.core.errors import check_count
from ssvi_jax.training import cli

KNOBS: dict[str, tuple[float, ...]] = {
    "hess_init": (0.02, 0.1, 0.5, 2.0, 10.0),
    "temperature": (0.01, 0.1, 0.3, 1.0, 3.0),
    "learning_rate": (0.15, 0.5, 1.5, 5.0),
}
"""Setting of ssvi_ivon → values; the others keep their defaults."""

NAMES = {
    "hess_init": "initial Hessian h₀",
    "temperature": "temperature T",
    "learning_rate": "learning rate α",
}
SHORT = ("--width", "0.5", "--train-size", "10000", "--epochs", "8")
"""A run of a minute on 2 cores, on CIFAR-10, with its evaluation."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Sweeps the settings of ssvi_ivon, one at a time; draws validation scores."""

    seeds: int = 2
    """Runs of every value."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/knobs")
    """Folder of knobs.json and knobs.png; runs go to DIR/runs."""


def scores(summary: Mapping[str, Any]) -> dict[str, float]:
    """Of the validation images: accuracy, NLL of samples and mean network, spread."""
    samples, mean = summary["val"]["mc"], summary["val"]["mean"]
    return {
        "accuracy": samples["accuracy"],
        "nll_of_samples": samples["nll"],
        "nll_of_mean": mean["nll"],
        "mutual_information": samples["mutual_information"],
    }


def sweep(asked: Command, flags: Sequence[str]) -> dict[str, list[dict[str, float]]]:
    """Knob → a row for every value: means over the seeds, and the value itself."""
    from ssvi_jax import data
    from ssvi_jax.evaluation.comparison import runs
    from ssvi_jax.io import run_files

    argv = ["--method", "ssvi_ivon", *SHORT, *flags]
    place = cli.parse(argv).data
    dataset = data.load(place.dataset, place.data_dir, notify=print)
    config = cli.resolve(argv, preset="laptop", dataset=dataset.name)
    config = config.with_values(figures=False)
    found: dict[str, list[dict[str, float]]] = {}
    for knob, values in KNOBS.items():
        found[knob] = []
        for value in values:
            each = []
            for seed in range(asked.seeds):
                is_default = value == config.values()[knob]
                name = "default" if is_default else f"{knob}-{value:g}"
                folder = asked.out / "runs" / f"{name}-{seed}"
                one = config.with_values(**{knob: value}, seed=seed, out=folder)
                runs.check_same([one])
                if signal := runs.train_run(one, dataset):
                    raise SystemExit(128 + signal)
                each.append(scores(run_files.read_summary(folder)))
            row = {name: statistics.fmean(s[name] for s in each) for name in each[0]}
            print(knob, value, {name: round(x, 4) for name, x in row.items()})
            found[knob].append({"value": value, **row})
    return found


def draw(found: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """Above the NLL of samples and of the mean network, below mutual information."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from ssvi_jax.evaluation import figure_style as style

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06)
    figure = Figure(figsize=(3.6 * len(found), 5.6), layout=layout)
    axes = figure.subplots(2, len(found), sharey="row", sharex="col")
    for (knob, rows), (above, below) in zip(found.items(), axes.T, strict=True):
        x = [row["value"] for row in rows]
        for name, colour, label in (
            ("nll_of_samples", style.BLUE, "samples"),
            ("nll_of_mean", style.ORANGE, "mean network"),
        ):
            above.plot(
                x, [r[name] for r in rows], marker="o", color=colour, label=label
            )
        spread = [row["mutual_information"] for row in rows]
        below.plot(x, spread, marker="o", color=style.BLUE)
        below.set(xscale="log", yscale="log")
        below.set_xticks(x, labels=[f"{value:g}" for value in x])
        below.xaxis.minorticks_off()
        style.label_axes(above, "", "")
        style.label_axes(below, NAMES[knob], "")
    axes[0, 0].set_ylabel("validation NLL (nats)")
    axes[1, 0].set_ylabel("mutual information (nats)")
    style.legend_above(axes[0, 0], "left")
    style.save(figure, path)


def main(argv: Sequence[str]) -> int:
    """Parse, train what is missing, draw; the exit code."""
    asked, flags = tyro.cli(Command, args=list(argv), return_unknown_args=True)
    check_count("--seeds", asked.seeds)

    from ssvi_jax.io import run_log

    run_log.check_writable(asked.out)
    found = sweep(asked, flags)
    asked.out.mkdir(parents=True, exist_ok=True)
    about = {**run_log.environment(), "seeds": asked.seeds, "flags": [*SHORT, *flags]}
    content = json.dumps({"about": about, "knobs": found}, indent=1)
    (asked.out / "knobs.json").write_text(content + "\n")
    draw(found, asked.out / "knobs.png")
    print(f"wrote {asked.out / 'knobs.json'}, {asked.out / 'knobs.png'}")
    return 0


if __name__ == "__main__":
    command.run(main)
