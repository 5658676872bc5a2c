"""Compares the sparse kernels with dense JAX and with PyTorch, side by side in one run.

    python benchmarks/sparse.py --quick --json numbers.json    # under 10 minutes
    python benchmarks/sparse.py                                # under 1 hour
    SSVI_JAX_ISA=avx2 python benchmarks/sparse.py --quick      # as on older processors

ResNet-18 at batch 128, times on 2 cores. The contestants of training and of prediction
take turns and ratios are of medians; then the multiply-adds a second of every layer
against the measured peak, memory, the error of the gradient against float64, and the
cost of a swap. A full run writes sparse.json and the figure sparse_density.png into
`--out`. PyTorch is optional: without it its figures are left out.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import instruction_set
import sparse_figure
import sparse_gradient
import sparse_layers
import sparse_memory
import sparse_predict
import sparse_train
from sparse_train import OURS
from train_step import DENSITY, Library, measure, summarize, swap_share, torch_version

from ssvi_jax.core import command
from ssvi_jax.io import run_log
from ssvi_jax.ops import backend

OUT = Path(__file__).parent.parent / "results" / "benchmarks"


def run(args: argparse.Namespace, *, with_torch: bool) -> dict[str, Any]:
    """Measures everything, printing as it goes; returns the numbers by part."""
    densities = sparse_train.QUICK if args.quick else sparse_train.DENSITIES
    found = sparse_train.contestants(densities, args.batch, with_torch=with_torch)
    library = found[OURS]
    assert isinstance(library, Library)
    seconds = measure(found, args.turns, sparse_train.SLOW if args.quick else ())
    training = summarize("one training step", args.batch, seconds, OURS)
    swap = swap_share(library, training["median_seconds"][OURS], 3)
    found.clear()  # the others' memory
    predicting = sparse_predict.contestants(library, args.batch, with_torch=with_torch)
    prediction = summarize(
        "one prediction of the batch",
        args.batch,
        measure(predicting, args.turns),
        sparse_predict.MEAN,
    )
    print("\nmemory:")
    memory = sparse_memory.report(library, args.batch, with_torch=with_torch)
    print("\nlayers:")
    layers = sparse_layers.report(sparse_layers.LAYERS, args.batch, DENSITY)
    print("\nrelative error of the gradient in float32:")
    return {
        "training": training,
        "swap": swap,
        "prediction": prediction,
        "memory": memory,
        "layers": layers,
        "gradient": sparse_gradient.errors(DENSITY),
    }


def headline(parts: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that matter, flat.

    `train_*` and `predict_mean_*` tell how many times as long PyTorch takes, so more is
    better; `predict10_time_*`, `state_*` and `rss_*` are ours over theirs, so less is.
    `rate_vs_peak` and the swap's shares are fractions.
    """
    step = parts["training"]["median_seconds"]
    ask = parts["prediction"]["median_seconds"]
    memory, swap = parts["memory"], parts["swap"]
    gradient = parts["gradient"]
    numbers = {
        "rate_vs_peak": parts["layers"]["share_3x3"]["all"],
        "time_density_10_over_2": step[sparse_train.name_of("sparse", 0.1)]
        / step[sparse_train.name_of("sparse", 0.02)],
        "gradient_relative_error": gradient["sparse"]["median"],
        "gradient_relative_error_xla": gradient["xla"]["median"],
        "state_vs_dense_vi": memory["state_bytes"] / memory["dense_vi_state_bytes"],
        "swap_share": swap["dense_gradient_share"] + swap["removal_addition_share"],
        "swap_dense_gradient_share": swap["dense_gradient_share"],
        "swap_removal_addition_share": swap["removal_addition_share"],
    }
    if sparse_train.LRT in step:
        ten, dense = ask[sparse_predict.sampled(10)], ask[sparse_predict.DENSE]
        peaks = {side: use["peak_bytes"] for side, use in memory["resident"].items()}
        numbers |= {
            "train_vs_torch_lrt": step[sparse_train.LRT] / step[OURS],
            "train_vs_torch_dense": step[sparse_train.DENSE] / step[OURS],
            "train_sample_vs_torch_dense": step[sparse_train.DENSE]
            / step[sparse_train.IVON],
            "predict10_time_vs_torch_dense": ten / dense,
            "predict_mean_vs_torch_dense": dense / ask[sparse_predict.MEAN],
            "rss_vs_torch_lrt": peaks["ssvi"] / peaks["torch_lrt"],
        }
    return numbers


def conclude(parts: dict[str, Any], folder: Path) -> dict[str, float]:
    """Draws the full run's figure; returns where the backends' curves meet."""
    medians = parts["training"]["median_seconds"]
    curves = sparse_train.curves(medians)
    meet = sparse_train.crossover(**curves)
    levels = (sparse_train.LRT, sparse_train.DENSE)
    sparse_figure.draw(
        folder / "sparse_density.png",
        curves,
        {name: medians[name] for name in levels if name in medians},
        batch_size=parts["training"]["batch_size"],
        crossover=meet,
    )
    return {} if meet is None else {"crossover_density": meet}


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The sparse kernels against others")
    parser.add_argument("--quick", action="store_true", help="the flat numbers only")
    parser.add_argument("--batch", type=int, default=128, help="images a step")
    parser.add_argument("--turns", type=int, default=5, help="turns that count")
    parser.add_argument("--json", type=Path, help="write the flat numbers here")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of a full run")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """The command."""
    args = _parse(argv)
    backend.choose("sparse", DENSITY)  # refuses where there are no compiled kernels
    start, torch_found = time.perf_counter(), torch_version()
    about = {
        **run_log.environment(),
        **instruction_set.about(),
        "torch": torch_found,
    }
    print(json.dumps(about, indent=1), flush=True)
    parts = run(args, with_torch=torch_found is not None)
    numbers = headline(parts)
    if not args.quick:
        args.out.mkdir(parents=True, exist_ok=True)
        numbers |= conclude(parts, args.out)
        report = {**about, "density": DENSITY, **numbers, **parts}
        _write(args.out / "sparse.json", report)
    if args.json:
        _write(args.json, numbers)
    print(f"\nafter {(time.perf_counter() - start) / 60:.1f} minutes:")
    print("\n".join(f"  {name:<32}{value:10.4g}" for name, value in numbers.items()))


def _write(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    command.run(main)
