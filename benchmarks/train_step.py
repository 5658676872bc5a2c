"""Times one ResNet-18 training step side by side with PyTorch and dense JAX.

    python benchmarks/train_step.py --out results/benchmarks/train_step.json

About 4 minutes on 2 cores (`--quick`: under 1). The contestants take turns, A B C D A B
C D …, and ratios are of medians. PyTorch is optional: benchmarks/requirements.txt. On a
GPU, where steps are short, give `--steps 100`.

    ssvi        95 % sparse, local reparameterization, the library's own inner loop
    torch_lrt   the same step in plain PyTorch: dense tensors times a mask
    jax         one dense deterministic network in the same inner loop
    torch       the same in PyTorch
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable, Collection
from pathlib import Path

import instruction_set
import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from ssvi_jax import vi
from ssvi_jax.core import trees
from ssvi_jax.core.types import ApplyFn, ModelState, Params
from ssvi_jax.io import run_log
from ssvi_jax.methods.algorithms.ivon_step import Ivon
from ssvi_jax.methods.algorithms.sgd import sgd
from ssvi_jax.networks import adapters, models
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi import priors, subspace
from ssvi_jax.vi.execution import Execution

DENSITY = 0.05

PHASE_STEPS = 100
FEW_TURNS = 3

Contestant = Callable[[], float]
"""Runs and waits for some steps; returns seconds a step."""


@functools.cache
def _network() -> tuple[ApplyFn, Params, ModelState]:
    """ResNet-18; shared, because its initialization compiles for seconds."""
    module = models.build("resnet18", num_classes=10)
    example = np.zeros((1, 32, 32, 3), np.float32)
    return adapters.from_flax(module, example, key=jax.random.key(0))


def _ivon() -> optax.GradientTransformation:
    rate = optax.constant_schedule(1e-3)
    return Ivon(rate, ess=50_000, beta2=0.999).transformation()


class Library:
    """The library's own inner loop and swap.

    Args:
      batch_size: images a step.
      density: kept fraction, uniform as in the paper's preset; None for a dense
        deterministic network.
      steps: steps a call.
      backend: what multiplies, "xla" or "sparse".
      ivon: whether it is IVON with one sample of the weights a step, instead of local
        reparameterization and SGD.

    Attributes:
      inference: the network and its loss.
      masks: the current selection; none for a deterministic network.
      state: the current state, donated by the next call.
      data: images and labels, four batches.
    """

    def __init__(
        self,
        batch_size: int,
        density: float | None,
        steps: int = 4,
        backend: str = "xla",
        *,
        ivon: bool = False,
    ):
        self.steps, self._rng = steps, np.random.default_rng(0)
        images = self._rng.normal(size=(4 * batch_size, 32, 32, 3)).astype(np.float32)
        labels = self._rng.integers(0, 10, 4 * batch_size)
        self.data = (jnp.asarray(images), jnp.asarray(labels))
        apply_fn, params, model_state = _network()
        self.inference = vi.VI(
            apply_fn,
            _ivon() if ivon else sgd(1e-3, momentum=0.9),
            estimator="weight_sample" if ivon else "local_reparam",
            num_data=50_000,
            prior=priors.GaussianPrior(std=1.0),
            execution=Execution(backend),
            is_bayesian=trees.is_kernel if density else lambda path, leaf: False,
        )
        shapes = self.inference.kernel_shapes(params)
        self.masks = (
            masks_lib.create(shapes, 1 - density, self._rng, "uniform")
            if density
            else {}
        )
        self.state = self.inference.init(
            jax.random.key(1), params, model_state, self.masks
        )
        rows = np.arange(steps * batch_size) % len(images)
        self._rows = rows.reshape(steps, batch_size).astype(np.int32)

    def __call__(self) -> float:
        """Some steps; seconds a step."""
        start = time.perf_counter()
        self.state, metrics = self.inference.inner_loop(
            self.state, self.masks, self.data, self._rows
        )
        loss = np.asarray(metrics["loss"])
        seconds = time.perf_counter() - start
        _check_finite(loss)
        return seconds / self.steps

    def swap(self) -> tuple[float, float]:
        """One swap: seconds of the dense gradient, and of removal and addition."""
        start = time.perf_counter()
        gradients = jax.block_until_ready(
            self.inference.dense_gradient(
                self.state, self.masks, self.data, self._rows[:1]
            )
        )
        middle = time.perf_counter()
        self.state, self.masks, _ = subspace.removal_addition(
            self.state, self.masks, gradients, rate=0.3, rng=self._rng
        )
        jax.block_until_ready(self.state.posterior)
        return middle - start, time.perf_counter() - middle


def _check_finite(values: ArrayLike) -> None:
    if not np.isfinite(values).all():
        raise FloatingPointError(f"the results are {values}: the times mean nothing")


def timed(call: Callable[[], ArrayLike], times: int) -> Contestant:
    """Calls so many times a turn, gives seconds a call; results must be finite."""

    def run() -> float:
        start = time.perf_counter()
        results = [call() for _ in range(times)]
        seconds = time.perf_counter() - start
        _check_finite(np.asarray(results))
        return seconds / times

    return run


def torch_contestant(
    batch_size: int, density: float | None, steps: int = 4
) -> Contestant:
    """The same step in PyTorch, eager, on as many threads or on the same GPU."""
    instruction_set.hold_torch()
    import torch_resnet

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    step = torch_resnet.make_step(batch_size, density, device)

    def turn() -> list[float]:
        losses = [step() for _ in range(steps)]
        return [float(loss) for loss in losses]  # only now: it waits for a GPU

    run = timed(turn, 1)
    return lambda: run() / steps


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


def measure(
    found: dict[str, Contestant], repeats: int, few: Collection[str] = ()
) -> dict[str, list[float]]:
    """Seconds a step of every turn after one turn of warm-up.

    Args:
      found: name → contestant, in the order in which they take turns.
      repeats: turns that count.
      few: names that take `FEW_TURNS` only.
    """
    for name, run in found.items():
        print(f"warming up {name} …", flush=True)
        run()
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(repeats):
        for name, run in found.items():
            if turn < FEW_TURNS or name not in few:
                seconds[name].append(run())
    return seconds


def summarize(
    title: str, batch_size: int, seconds: dict[str, list[float]], reference: str
) -> dict:
    """Medians and ratios to the contestant `reference`, printed and returned."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {name: median / medians[reference] for name, median in medians.items()}
    print(f"\nbatch {batch_size}, {title}:")
    width = max(map(len, medians))
    for name, median in medians.items():
        low, high = min(seconds[name]), max(seconds[name])
        print(
            f"  {name:<{width}}{median * 1e3:8.1f} ms  ({low * 1e3:.1f} to "
            f"{high * 1e3:.1f}){batch_size / median:8.1f} images/s   "
            f"{ratios[name]:5.2f} x the time of {reference}"
        )
    return {
        "batch_size": batch_size,
        "median_seconds": medians,
        f"ratio_to_{reference}": ratios,
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


def torch_version() -> str | None:
    """PyTorch's version and threads; None where it is not installed."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("PyTorch is not installed (benchmarks/requirements.txt): JAX alone.")
        return None
    return f"{torch.__version__}, {torch.get_num_threads()} threads"


def main() -> None:
    """Parses the command line, measures, prints, writes."""
    parser = argparse.ArgumentParser(description="One training step of ResNet-18")
    parser.add_argument("--quick", action="store_true", help="batch 32, 3 turns")
    parser.add_argument("--repeats", type=int, default=7, help="turns that count")
    parser.add_argument("--steps", type=int, default=4, help="steps a turn")
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    torch_found = torch_version()
    repeats, steps = (3, 2) if args.quick else (args.repeats, args.steps)
    results = []
    for batch_size in [32] if args.quick else args.batch:
        found = contestants(batch_size, steps, with_torch=torch_found is not None)
        result = summarize(
            "one training step of ResNet-18",
            batch_size,
            measure(found, repeats),
            "ssvi",
        )
        ssvi, step_seconds = found["ssvi"], result["median_seconds"]["ssvi"]
        assert isinstance(ssvi, Library)
        result["swap"] = swap_share(ssvi, step_seconds, repeats)
        results.append(result)
    report = {
        **run_log.environment(),
        "torch": torch_found,
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
