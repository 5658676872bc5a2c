"""The command `ssvi evaluate`: models on corrupted and foreign images; a report.

    ssvi evaluate --run results/cifar10-ivon-s95

Without a model it takes the newest run under --out, or trains the smoke model first.
CIFAR-10-C comes from --corruptions-dir or from TFDS; where neither has it, corruptions
are made from the test images. On 2 CPU cores the laptop model predicts some 2,000
images a second and posterior sample.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ssvi_jax.core import terminal
from ssvi_jax.core.command import parse_as, run
from ssvi_jax.evaluation.shift.options import ShiftConfig


def main(argv: Sequence[str]) -> int:
    """Parse, find models and data, evaluate, report; the exit code."""
    config = parse_as(ShiftConfig, argv)

    # Only now: the command line above is refused or explained without waiting for JAX.
    from ssvi_jax import data
    from ssvi_jax.data.corrupted import open_cells
    from ssvi_jax.data.ood import load_ood
    from ssvi_jax.evaluation.shift import subjects
    from ssvi_jax.evaluation.shift.evaluate import evaluate, open_folder
    from ssvi_jax.evaluation.shift.inputs import Inputs
    from ssvi_jax.evaluation.shift.report.csv_tables import write_tables
    from ssvi_jax.evaluation.shift.report.figures import make_figures
    from ssvi_jax.evaluation.shift.report.page import write_report
    from ssvi_jax.evaluation.shift.table import shift_table

    sources = subjects.find(_runs(config), config.model, config.checkpoint)
    name = subjects.dataset(sources, config.dataset)
    dataset = data.load(name, config.data_dir, notify=print)
    models = [subjects.load(source, dataset) for source in sources]
    cells = open_cells(
        dataset,
        corruptions_dir=config.corruptions_dir,
        data_dir=config.data_dir,
        extra=config.extra,
        limit=config.images,
        seed=config.seed,
        notify=print,
    )
    ood = load_ood(
        dataset,
        config.ood_names,
        data_dir=config.data_dir,
        limit=config.images,
        seed=config.seed,
        notify=print,
    )
    log = open_folder(config, sources)
    print(f"data: {dataset.source}\ncorruptions: {cells.source}")
    print(f"report folder: {log.folder}")
    inputs = Inputs(dataset, cells, ood, config.images)
    results = evaluate(config, models, inputs, log)
    print(terminal.fitted(shift_table(results)))
    write_tables(log.folder)
    make_figures(log.folder)
    print(f"report: {write_report(log.folder)}")
    return 0


def _runs(config: ShiftConfig) -> tuple[Path, ...]:
    """The runs asked for, else the newest there is, else a smoke run made now."""
    from ssvi_jax.evaluation.shift import subjects

    if config.run or config.model or config.checkpoint:
        return config.run
    newest = subjects.newest_run(config.out)
    if newest is None:
        newest = config.out / "smoke"
        print(f"*** No run in {config.out}: training the smoke model first. ***")
        command = [sys.executable, "-m", "ssvi_jax.evaluation.run.main"]
        flags = ["--preset", "smoke", "--out", newest, "--dataset", config.dataset]
        if config.data_dir is not None:
            flags += ["--data-dir", config.data_dir]
        code = subprocess.run([*command, *flags], check=False).returncode
        if code:
            sys.exit(code)
    print(f"run: {newest} (the newest in {config.out})")
    return (newest,)


if __name__ == "__main__":
    run(main)
