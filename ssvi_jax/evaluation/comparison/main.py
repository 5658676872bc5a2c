"""The command `ssvi compare`: methods over several seeds, in one table.

    ssvi compare --methods ssvi,rigl,deterministic --preset laptop

The same command continues what was stopped and trains nothing twice. Flags of
`ssvi train` go to all runs; --verify compares a finished comparison with the
reference numbers and trains nothing.
"""

import itertools
from collections.abc import Sequence

from ssvi_jax.core import command, terminal
from ssvi_jax.core.errors import InputError
from ssvi_jax.evaluation.comparison import options as comparison_options
from ssvi_jax.evaluation.comparison.options import Comparison
from ssvi_jax.training import cli


def main(argv: Sequence[str]) -> int:
    """Parse, train what is missing, evaluate, report; the exit code."""
    options, flags = comparison_options.parse(argv)
    if options.verify or options.write_reference:
        if flags or options.methods:
            raise InputError(
                f"--verify, --write-reference: got {' '.join(flags) or '--methods'} "
                "too, allowed: --out and --reference; nothing is trained."
            )
        return _verify(options)
    seeds_of = options.seeds_of
    asked = cli.parse(flags, strict=False)

    # Only now: the command line above is refused or explained without waiting for JAX.
    import jax

    from ssvi_jax import data
    from ssvi_jax.evaluation.comparison import report, runs, step_times, summary, table
    from ssvi_jax.evaluation.comparison.inputs import open_inputs
    from ssvi_jax.io import run_log

    preset = asked.run.preset
    if preset == "auto":
        preset = "laptop" if jax.default_backend() == "cpu" else "paper"
        print(f"preset: {preset}, because JAX runs on {jax.default_backend()}")
    runs.check_joined(options, seeds_of)
    run_log.check_writable(options.out)  # before the data is read and prepared
    dataset = data.load(asked.data.dataset, asked.data.data_dir, notify=print)
    configs = []
    most = max(seeds_of.values())
    for seed, name in itertools.product(range(most), seeds_of):
        if seed >= seeds_of[name]:
            continue
        config, kept = comparison_options.configure(
            flags,
            method=name,
            seed=seed,
            preset=preset,
            dataset=dataset.name,
            out=options.out,
        )
        configs.append(config)
        if kept and not seed:
            print(f"{name} keeps its own {', '.join(kept)}")
    if options.minutes:
        configs = step_times.in_time(configs, options, dataset)
    runs.check_same(configs)
    inputs = open_inputs(dataset, options, asked.data.data_dir)
    print(f"data: {dataset.source}\ncorruptions: {inputs.cells.source}")
    outcome = runs.run_all(configs, options, inputs)
    if outcome.signal:
        print("stopped and saved; continue with the same command")
        return 128 + outcome.signal
    if options.minutes:
        outcome = step_times.as_budgeted(outcome, options.minutes)
    names = tuple(dict.fromkeys([*seeds_of, *(run.method for run in outcome.runs)]))
    comparison = summary.build(outcome, names, flags, inputs)
    print(terminal.fitted(table.text(comparison)))
    for path in report.write(comparison, options.out):
        print(f"wrote {path}")
    return 1 if outcome.failures else 0


def _verify(options: Comparison) -> int:
    """Checks a finished comparison against the reference, or makes it one."""
    from ssvi_jax.evaluation.comparison import summary, verify

    comparison = summary.read(options.out)
    if options.write_reference:
        numbers = verify.reference(comparison)
        print(f"wrote {verify.write(options.reference, numbers)}")
        return 0
    expected = verify.read_reference(options.reference)
    outside = verify.check(comparison, expected)
    print(terminal.fitted(verify.table(outside, sum(map(len, expected.values())))))
    return 1 if outside else 0


if __name__ == "__main__":
    command.run(main)
