"""Seconds from a command to the end of its first training step, new and once more.

    python benchmarks/first_step.py --json results/benchmarks/first_step.json

The first run finds no compiled programs, the second those of the first (see
`ssvi_jax.core.compiled`). They take turns, each pair with a cache folder of its own,
and end when the first step is logged. Flags that are not known here go to the training.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ssvi_jax.io import run_log

SCRIPT = Path(__file__).parents[1] / "experiments" / "cifar10.py"
RUN = ("--preset", "laptop", "--inner-steps", "1", "--method", "ssvi_ivon")


def first_step(out: Path, cache: Path, flags: list[str]) -> float:
    """Seconds until the first phase, of one step, is in the run's log."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, SCRIPT, *RUN, "--out", out, *flags]
    log = out / "metrics.jsonl"
    begin = time.perf_counter()
    with subprocess.Popen(
        [*map(str, command)], env=environment, stdout=subprocess.DEVNULL
    ) as run:
        while run.poll() is None and not (log.exists() and log.stat().st_size):
            time.sleep(0.01)
        seconds = time.perf_counter() - begin
        if run.poll() is None:
            run.kill()
        elif run.returncode:
            sys.exit(f"the training ended with code {run.returncode}")
    return seconds


def main() -> None:
    """Prints the seconds of all turns and, if asked, writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the seconds here")
    args, flags = parser.parse_known_args()
    new, again = [], []
    for turn in range(args.repeats):
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder) / "cache"
            new.append(first_step(Path(folder) / "new", cache, flags))
            again.append(first_step(Path(folder) / "again", cache, flags))
        print(f"turn {turn + 1}: {new[-1]:.1f} s, once more {again[-1]:.1f} s")
    medians = [statistics.median(seconds) for seconds in (new, again)]
    ratio = medians[0] / medians[1]
    print(
        f"medians {medians[0]:.1f} s and {medians[1]:.1f} s: {ratio:.2f} times sooner"
    )
    if args.json:
        found = {"about": run_log.environment(), "new": new, "again": again}
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
