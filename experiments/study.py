"""The study: methods in equal training time, on real CIFAR-10, in parts that continue.

    python experiments/study.py --part five --ood DIR/cifar100_test.npz
    python experiments/study.py --list

A part is a comparison (experiments/methods.py, whose flags may be added). A table of
times, measured side by side at its start, turns its minutes into epochs, so its runs
may be stopped, continued, and spread over machines. Runs of the same length that
benchmarks/torch_airbench.py trained join by --join. A part that is finished leaves its
paired differences as well, and all of them the study's headline.json and figures:
study.png has every method, headline.png the few that every budget has.
"""

import dataclasses
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from ssvi_jax.core import command
from ssvi_jax.core.errors import check_choice

IVON = "ssvi_ivon,ssvi_ivon_ensemble,ssvi_ivon_mixture"
SPARSE = f"{IVON},ssvi,rigl,static,masked_bnn"
DENSE = (
    "deterministic,small_deterministic,ivon,vi,ensemble,mc_dropout,rank1,batch_ensemble"
)
FEW = "ssvi_ivon,rigl,deterministic,small_deterministic"
AGAINST = ("rigl", "deterministic", "small_deterministic")
"""Methods to which every method's differences are written."""

BUDGETS = {
    "five": (f"{SPARSE},{DENSE}", 5),
    "thirty": (FEW, 30),
    "sixty": ("ssvi_ivon", 60),
}
"""Part → methods and minutes; these parts differ in nothing else, and share a table of
the times of steps. The others have one each: sparsity and the length of an epoch change
the times."""

PARTS: dict[str, tuple[str, ...]] = {
    **{
        part: ("--methods", methods, "--minutes", str(minutes))
        for part, (methods, minutes) in BUDGETS.items()
    },
    **{
        f"images-{number}": (
            *("--methods", f"{FEW},ensemble", "--minutes", "5"),
            *("--train-size", str(number)),
        )
        for number in (1000, 5000)
    },
    **{
        f"sparsity-{100 * sparsity:.0f}": (
            *("--methods", "ssvi_ivon,rigl", "--minutes", "5"),
            *("--sparsity", str(sparsity)),
        )
        for sparsity in (0.9, 0.98)
    },
}
"""Part → flags of its comparison."""

NETWORK = ("--preset", "laptop", "--model", "airbench", "--shifts", "reflect")


@dataclasses.dataclass(frozen=True)
class Study:
    """Trains and evaluates one part of the study; more flags go to its comparison."""

    part: str = "five"
    """five, thirty, sixty: minutes of every method; images-N: of N training images;
    sparsity-P: percent."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/study")
    """Folder; a part is in DIR/PART."""
    list: bool = False
    """Print the parts and what they compare."""


def main(argv: Sequence[str]) -> int:
    """Parse and hand over to the comparison; the exit code."""
    study, flags = tyro.cli(Study, args=list(argv), return_unknown_args=True)
    if study.list:
        for name, own in PARTS.items():
            print(f"{name:<14}{' '.join(own)}")
        return 0
    check_choice("--part", study.part, PARTS)
    own = ["--out", str(study.out / study.part), *PARTS[study.part], *NETWORK]
    if study.part in BUDGETS:
        own += ["--step-times", str(study.out / "step_times.json")]
    code = importlib.import_module("methods").main([*own, *flags])
    if not code:
        _conclude(study.out)
    return code


def _conclude(folder: Path) -> None:
    """Writes what the finished parts say together."""
    from ssvi_jax.evaluation import figure_style
    from ssvi_jax.evaluation.comparison import budgets, headline, pairs, summary
    from ssvi_jax.io.run_log import RunLog

    parts = {
        part: summary.read(folder / part)
        for part in PARTS
        if (folder / part / summary.FILE).exists()
    }
    for part, comparison in parts.items():
        path = folder / part / "pairs.md"
        path.write_text(pairs.markdown(comparison, AGAINST), encoding="utf-8")
        print(f"wrote {path}")
    timed = {float(BUDGETS[part][1]): parts[part] for part in BUDGETS if part in parts}
    if timed:
        figure_style.save(budgets.figure(timed), folder / "study.png")
        few = budgets.figure(
            timed,
            FEW.split(","),
            costs=[budgets.MINUTES],
            scores=["accuracy", "corrupted_nll"],
        )
        figure_style.save(few, folder / "headline.png")
    log = RunLog(folder)
    log.write_json("headline.json", headline.numbers(parts))
    print(f"wrote {folder / 'headline.json'}")


if __name__ == "__main__":
    command.run(main)
