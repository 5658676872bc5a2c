"""Trains the same small network on both backends and several seeds, on real data.

    python benchmarks/backends.py --seeds 10 --json results/benchmarks/backends.json

The backends draw the same noise and differ in rounding only, but training amplifies
rounding: what must agree is the accuracy, within the spread over seeds. 10 seeds take
25 minutes on 2 cores. Further options go to experiments/cifar10.py, for example
``--data-dir``.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from ssvi_jax.io import run_log

SCRIPT = Path(__file__).parent.parent / "experiments" / "cifar10.py"
OPTIONS = (
    *("--sparsity", "0.95", "--preset", "laptop", "--width", "0.5"),
    *("--epochs", "6", "--train-size", "20000", "--no-figures"),
)


def train(backend: str, seed: int, extra: list[str], folder: Path) -> dict[str, float]:
    """Test accuracy (fraction), NLL (nats) and minutes of one run."""
    flags = ("--backend", backend, "--seed", str(seed), "--out", str(folder))
    command = [sys.executable, str(SCRIPT), *OPTIONS, *flags, *extra]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["backend"] == backend, summary["backend"]
    found = {name: summary["test"]["mc"][name] for name in ("accuracy", "nll", "ece")}
    return found | {"train_minutes": summary["train_minutes"]}


def main() -> None:
    """Trains, prints a table, writes."""
    parser = argparse.ArgumentParser(description="Accuracy on both backends")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args, extra = parser.parse_known_args()
    if args.seeds < 2:
        parser.error(f"--seeds: got {args.seeds}, allowed: 2 up; one has no spread")
    runs: dict[str, list[dict[str, float]]] = {"sparse": [], "xla": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            for backend, found in runs.items():
                out = Path(folder) / f"{backend}-{seed}"
                found.append(train(backend, seed, extra, out))
                print(f"{backend:<7} seed {seed}: {found[-1]}", flush=True)
    result: dict[str, object] = {"options": OPTIONS, "runs": runs}
    for backend, found in runs.items():
        values = np.array([run["accuracy"] for run in found])
        mean, spread = float(values.mean()), float(values.std(ddof=1))
        result[backend] = {"accuracy_mean": mean, "accuracy_std": spread}
        print(f"{backend:<7} accuracy {100 * mean:.2f} ± {100 * spread:.2f} % (std)")
    if args.json:
        args.json.write_text(
            json.dumps(run_log.environment() | result, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
