"""Times one ResNet-18 training step side by side with PyTorch and dense JAX.

    python benchmarks/train_step.py --out results/benchmarks/train_step.json

About 4 minutes on 2 cores (`--quick`: under 1). The contestants take turns, A B C D A B
C D …, and ratios are of medians. PyTorch is optional: benchmarks/requirements.txt.

    ssvi        95 % sparse, local reparameterization, the library's own inner loop
    torch_lrt   the same step in plain PyTorch: dense tensors times a mask
    jax         one dense deterministic network in the same inner loop
    torch       the same in PyTorch
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax import adapters, models, optimizers, priors, runlog, subspace, trees, vi
from ssvi_jax import masks as masks_lib

DENSITY = 0.05

PHASE_STEPS = 100

Contestant = Callable[[], float]
"""Runs and waits for some steps; returns seconds a step."""


class Library:
    """The library's own inner loop and swap.

    Args:
      batch_size: images a step.
      density: kept fraction; None for a dense deterministic network.
      steps: steps a call.
    """

    def __init__(self, batch_size: int, density: float | None, steps: int = 4):
        self.steps, self._rng = steps, np.random.default_rng(0)
        images = self._rng.normal(size=(4 * batch_size, 32, 32, 3)).astype(np.float32)
        labels = self._rng.integers(0, 10, 4 * batch_size)
        self._data = (jnp.asarray(images), jnp.asarray(labels))
        apply_fn, params, model_state = adapters.from_flax(
            models.build("resnet18", num_classes=10), images[:1], key=jax.random.key(0)
        )
        self._inference = vi.VI(
            apply_fn,
            optimizers.sgd(1e-3, momentum=0.9),
            num_data=50_000,
            prior=priors.GaussianPrior(std=1.0),
            is_bayesian=trees.is_kernel if density else lambda path, leaf: False,
        )
        shapes = self._inference.kernel_shapes(params)
        self._masks = (
            masks_lib.create(shapes, 1 - density, self._rng) if density else {}
        )
        self._state = self._inference.init(
            jax.random.key(1), params, model_state, self._masks
        )
        rows = np.arange(steps * batch_size) % len(images)
        self._rows = rows.reshape(steps, batch_size).astype(np.int32)

    def __call__(self) -> float:
        """Some steps; seconds a step."""
        start = time.perf_counter()
        self._state, metrics = self._inference.inner_loop(
            self._state, self._masks, self._data, self._rows
        )
        loss = np.asarray(metrics["loss"])
        seconds = time.perf_counter() - start
        if not np.isfinite(loss).all():
            raise FloatingPointError(f"the loss is {loss}: these times mean nothing")
        return seconds / self.steps

    def swap(self) -> tuple[float, float]:
        """One swap: seconds of the dense gradient, and of removal and addition."""
        start = time.perf_counter()
        gradients = jax.device_get(
            self._inference.dense_gradient(
                self._state, self._masks, self._data, self._rows[:1]
            )
        )
        middle = time.perf_counter()
        self._state, self._masks, _ = subspace.removal_addition(
            self._state, self._masks, gradients, rate=0.3, rng=self._rng
        )
        jax.block_until_ready(self._state.posterior)
        return middle - start, time.perf_counter() - middle


def torch_contestant(
    batch_size: int, density: float | None, steps: int = 4
) -> Contestant:
    """The same step in PyTorch, eager, on the same number of threads."""
    import torch_resnet

    step = torch_resnet.make_step(batch_size, density)

    def run() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        return (time.perf_counter() - start) / steps

    return run


def contestants(
    batch_size: int, steps: int, *, with_torch: bool
) -> dict[str, Contestant]:
    """Name → contestant, in the order in which they take turns."""
    found: dict[str, Contestant] = {"ssvi": Library(batch_size, DENSITY, steps)}
    if with_torch:
        found["torch_lrt"] = torch_contestant(batch_size, DENSITY, steps)
    found["jax"] = Library(batch_size, None, steps)
    if with_torch:
        found["torch"] = torch_contestant(batch_size, None, steps)
    return found


def measure(found: dict[str, Contestant], repeats: int) -> dict[str, list[float]]:
    """Seconds a step of every turn after one turn of warm-up."""
    for name, run in found.items():
        print(f"warming up {name} …", flush=True)
        run()
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(repeats):
        for name, run in found.items():
            seconds[name].append(run())
    return seconds


def summarize(batch_size: int, seconds: dict[str, list[float]]) -> dict:
    """Medians and ratios to `ssvi`, printed and returned."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"\nbatch {batch_size}, one training step of ResNet-18:")
    for name, median in medians.items():
        ratio = median / medians["ssvi"]
        low, high = min(seconds[name]), max(seconds[name])
        print(
            f"  {name:<10}{median * 1e3:8.0f} ms  ({low * 1e3:.0f} to {high * 1e3:.0f})"
            f"{batch_size / median:8.1f} images/s   {ratio:5.2f} x the time of ssvi"
        )
    ratios = {name: median / medians["ssvi"] for name, median in medians.items()}
    return {
        "batch_size": batch_size,
        "median_seconds": medians,
        "ratio_to_ssvi": ratios,
        "seconds": seconds,
    }


def swap_share(ssvi: Library, step_seconds: float, repeats: int) -> dict[str, float]:
    """Medians of a swap's parts as fractions of a phase of `PHASE_STEPS` steps."""
    ssvi.swap()  # compiles
    parts = zip(*(ssvi.swap() for _ in range(repeats)), strict=True)
    gradient, host = (statistics.median(part) for part in parts)
    phase = PHASE_STEPS * step_seconds
    shares = {"dense gradient": gradient, "removal and addition": host}
    printed = [f"{name} {100 * part / phase:.2f} %" for name, part in shares.items()]
    print(f"  a swap in a phase of {PHASE_STEPS} steps: {', '.join(printed)}")
    return {
        "dense_gradient_seconds": gradient,
        "removal_addition_seconds": host,
        "dense_gradient_share": gradient / phase,
        "removal_addition_share": host / phase,
    }


def _torch_version() -> str | None:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return f"{torch.__version__}, {torch.get_num_threads()} threads"


def main() -> None:
    """Parses the command line, measures, prints, writes."""
    parser = argparse.ArgumentParser(description="One training step of ResNet-18")
    parser.add_argument("--quick", action="store_true", help="batch 32, 3 turns")
    parser.add_argument("--repeats", type=int, default=7, help="turns that count")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    torch_version = _torch_version()
    if torch_version is None:
        print("PyTorch is not installed (benchmarks/requirements.txt): JAX alone.")
    repeats, steps = (3, 2) if args.quick else (args.repeats, 4)
    results = []
    for batch_size in (32,) if args.quick else (32, 128):
        found = contestants(batch_size, steps, with_torch=torch_version is not None)
        result = summarize(batch_size, measure(found, repeats))
        ssvi, step_seconds = found["ssvi"], result["median_seconds"]["ssvi"]
        assert isinstance(ssvi, Library)
        result["swap"] = swap_share(ssvi, step_seconds, repeats)
        results.append(result)
    report = {
        **runlog.environment(),
        "torch": torch_version,
        "density": DENSITY,
        "steps_per_turn": steps,
        "results": results,
    }
    print({key: value for key, value in report.items() if key != "results"})
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
