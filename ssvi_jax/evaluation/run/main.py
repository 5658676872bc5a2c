"""The command `ssvi train`: trains a network and reports what it knows.

    ssvi train --sparsity 0.95

CIFAR-10 is used where it is prepared (or can be downloaded), else the embedded digits.
On 2 CPU cores the laptop preset takes about half an hour on CIFAR-10 and a minute on
the digits; see results/ for the numbers to expect.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ssvi_jax.core import command, terminal
from ssvi_jax.training import cli


def main(argv: Sequence[str]) -> int:
    """Parse, load, train, report; the exit code."""
    asked = cli.parse(argv)

    # Only now: the command line above is refused or explained without waiting for JAX.
    import jax

    from ssvi_jax import data
    from ssvi_jax.data import shifted
    from ssvi_jax.evaluation.run import figures, results, table
    from ssvi_jax.io import run_log
    from ssvi_jax.training import processes, train
    from ssvi_jax.training.run_config import default_folder

    run = asked.run
    processes.start(run.coordinator, run.num_processes, run.process_id)
    first = processes.is_first()
    say = partial(print, flush=True) if first else (lambda text: None)
    if first and run.out is not None:
        run_log.check_writable(run.out)  # before the data is read and prepared
    preset = run.preset
    if preset == "auto":
        preset = "laptop" if jax.default_backend() == "cpu" else "paper"
        say(f"preset: {preset}, because JAX runs on {jax.default_backend()}")
    dataset = data.load(asked.data.dataset, asked.data.data_dir, notify=say)
    config = cli.resolve(argv, preset=preset, dataset=dataset.name)
    dataset = shifted.corrupt_training(
        dataset,
        config.data.train_corruption,
        config.data.train_severity,
        seed=config.run.seed,
    )
    folder = processes.agreed(str(config.run.out or default_folder(config)))
    with processes.together(), run_log.RunLog(Path(folder), silent=not first) as log:
        say(f"data: {dataset.source}\nrun folder: {log.folder}")
        trained = train.train(config, dataset, log)
    if trained.signal:
        say(f"stopped and saved at step {trained.step}; continue with --resume")
        return 128 + trained.signal
    if not first:
        return 0  # and at the exit JAX waits for the first process
    summary = results.finish(config, dataset, trained, log)
    print(terminal.fitted(table.summary_table(summary)))
    if config.run.figures:
        for path in figures.make_figures(log.folder):
            print(f"figure: {path}")
    return 0


if __name__ == "__main__":
    command.run(main)
