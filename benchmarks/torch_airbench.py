"""The laptop preset's network, dense and deterministic, trained in plain PyTorch.

    pip install -r benchmarks/requirements.txt
    python benchmarks/torch_airbench.py --minutes 5 --out runs/torch-0

What a user without this library would write: the same network, first filters,
initialization, shifts, batch and schedule, in PyTorch's fused loops and channels last.
Some steps are timed first, and the schedule gets as many as fit into the minutes. The
trained network becomes a run folder, so that `experiments/corruptions.py` evaluates it
on the same images and by the same code as every other, and `experiments/methods.py
--join` puts it into a comparison. At `--width 0.2236` it has as many weights as the
network of width 1 keeps at 95 % sparsity.
"""

# PyTorch is optional, and not among what the checks install.
# pyright: reportMissingImports=false

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ssvi_jax import data
from ssvi_jax.core.types import ModelState, Params, Weights
from ssvi_jax.evaluation.run import results
from ssvi_jax.io import run_log
from ssvi_jax.networks.models import airbench
from ssvi_jax.networks.network import ImageNetwork
from ssvi_jax.training import presets
from ssvi_jax.training.callbacks import Progress
from ssvi_jax.training.run_config import Config
from ssvi_jax.training.train import Trained, build_problem

RATE, MOMENTUM, DECAY, BATCH = 0.2, 0.9, 5e-4, 128
PEAK_AT, START = 0.3, 25
TIMED_STEPS = 10
BATCH_NORM_MOMENTUM = 0.4  # PyTorch's is one minus Flax's


class Airbench(nn.Module):
    """`ssvi_jax.networks.models.airbench` in PyTorch's layers and layout."""

    def __init__(self, like: airbench.Airbench, filters: np.ndarray):
        super().__init__()
        self.register_buffer("filters", _to_torch(filters))
        self.places = [place for depth in like.depths for place in range(depth)]
        widths = [
            w
            for w, depth in zip(like.widths, like.depths, strict=True)
            for _ in range(depth)
        ]
        inputs = [filters.shape[-1], *widths[:-1]]
        sizes = zip(inputs, widths, self.places, strict=True)
        self.convs = nn.ModuleList(
            # The average of 2x2 results is computed from averages of what is read.
            nn.Conv2d(num_in, num_out, 3, stride=2, bias=False)
            if place == 0
            else nn.Conv2d(num_in, num_out, 3, padding=1, bias=False)
            for num_in, num_out, place in sizes
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(width, momentum=BATCH_NORM_MOMENTUM) for width in widths
        )
        for norm in self.norms:
            norm.weight.requires_grad = False
        self.linear = nn.Linear(widths[-1], 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps normalized images ``[batch, 3, 32, 32]`` to logits."""
        x = F.relu(F.conv2d(x, self.filters))
        for place, conv, norm in zip(self.places, self.convs, self.norms, strict=True):
            y = norm(conv(F.avg_pool2d(x, 2, stride=1, padding=1) if place == 0 else x))
            x = F.relu(y + x if place == 2 else y)
        return self.linear(x.amax(dim=(2, 3))) / 9


def batches(
    images: torch.Tensor, labels: torch.Tensor, rng: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Shuffled, mirrored, shifted by up to 2 pixels over reflected edges; for ever."""
    size = images.shape[-1]
    padded = F.pad(images, (2, 2, 2, 2), mode="reflect")
    while True:
        order = torch.randperm(len(images), generator=rng)
        for rows in order[: len(order) // BATCH * BATCH].split(BATCH):
            moved = torch.empty((BATCH, 3, size, size))
            shifts = torch.randint(0, 5, (BATCH, 2), generator=rng).tolist()
            for i, (row, (y, x)) in enumerate(zip(rows.tolist(), shifts, strict=True)):
                moved[i] = padded[row, :, y : y + size, x : x + size]
            mirrored = torch.rand(BATCH, generator=rng) < 0.5
            moved[mirrored] = moved[mirrored].flip(-1)
            yield moved.to(memory_format=torch.channels_last), labels[rows]


def rate(step: int, steps: int) -> float:
    """The learning rate of a step, over its peak: `schedules.learning_rate`'s cycle."""
    rise = round(PEAK_AT * steps)
    if step < rise:
        return 1 / START + (1 - 1 / START) * step / rise
    return 1 - (step - rise) / (steps - rise)


class Spent(NamedTuple):
    """Steps, their seconds in all, and those of one when it was timed."""

    steps: int
    seconds: float
    step_seconds: float


def train(
    model: Airbench, feed: Iterator, minutes: float, step_seconds: float | None
) -> Spent:
    """Trains for that long, by the seconds of a step: these, or as measured now."""
    trained = [p for p in model.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(
        trained, RATE, MOMENTUM, weight_decay=DECAY, nesterov=True, foreach=True
    )
    step = _stepper(model, sgd, feed)
    step(0.0)  # PyTorch chooses its kernels
    seconds = step_seconds or _timed(step)
    print(f"{1e3 * seconds:.1f} ms a step", flush=True)
    steps = max(round(60 * minutes / seconds), 1)
    begin = time.perf_counter()
    for number in range(steps):
        loss = step(RATE * rate(number, steps))
        if number % 100 == 0:
            print(f"step {number} of {steps}: loss {loss:.3f}", flush=True)
    return Spent(steps, time.perf_counter() - begin, seconds)


def _timed(step: Callable[[float], float]) -> float:
    begin = time.perf_counter()
    for _ in range(TIMED_STEPS):
        step(0.0)
    return (time.perf_counter() - begin) / TIMED_STEPS


def _stepper(
    model: nn.Module, sgd: torch.optim.Optimizer, feed: Iterator
) -> Callable[[float], float]:
    def step(learning_rate: float) -> float:
        sgd.param_groups[0]["lr"] = learning_rate
        images, labels = next(feed)
        loss = F.cross_entropy(model(images), labels)
        sgd.zero_grad(set_to_none=True)
        loss.backward()
        sgd.step()
        return loss.item()

    return step


def begin(like: airbench.Airbench, params: Params, model_state: ModelState) -> Airbench:
    """Flax's network with its filters and initial weights."""
    model = Airbench(
        like, np.asarray(model_state[airbench.FILTERS]["whiten"]["filters"])
    )
    with torch.no_grad():
        for k, conv in enumerate(model.convs, start=1):
            conv.weight.copy_(_to_torch(params[f"conv{k}"]["kernel"]))
        model.linear.weight.copy_(_to_torch(params["linear"]["kernel"]))
    return model.to(memory_format=torch.channels_last)


def exported(model: Airbench, model_state: ModelState) -> Weights:
    """The trained network as Flax knows it."""
    params: dict[str, Any] = {"linear": {"kernel": _to_flax(model.linear.weight)}}
    statistics = {}
    for k, (conv, norm) in enumerate(zip(model.convs, model.norms, strict=True), 1):
        params[f"conv{k}"] = {"kernel": _to_flax(conv.weight)}
        params[f"bn{k}"] = {"bias": _to_flax(norm.bias)}
        mean, variance = _to_flax(norm.running_mean), _to_flax(norm.running_var)
        statistics[f"bn{k}"] = {"mean": mean, "var": variance}
    return Weights({}, params, {**model_state, "batch_stats": statistics})


def _to_torch(array: Any) -> torch.Tensor:
    array = np.asarray(array)
    axes = (3, 2, 0, 1) if array.ndim == 4 else tuple(reversed(range(array.ndim)))
    return torch.tensor(np.ascontiguousarray(array.transpose(axes)))


def _to_flax(tensor: torch.Tensor) -> np.ndarray:
    array = tensor.detach().numpy()
    axes = (2, 3, 1, 0) if array.ndim == 4 else tuple(reversed(range(array.ndim)))
    return np.ascontiguousarray(array.transpose(axes))


def prepared(network: ImageNetwork, images: np.ndarray) -> torch.Tensor:
    """Normalized images ``[n, c, h, w]``."""
    parts = np.array_split(images, max(len(images) // 1000, 1))
    found = np.concatenate(
        [np.asarray(network.prepare(jnp.asarray(part))) for part in parts]
    )
    return torch.tensor(found).permute(0, 3, 1, 2).contiguous()


def finished(
    config: Config, sets: data.Dataset, weights: Weights, steps: int, seconds: float
) -> Trained:
    """The training as `ssvi_jax` would have left it."""
    network, problem = build_problem(config, sets)
    algorithm = config.method.build(dataclasses.replace(problem, total_steps=steps))
    rng = np.random.default_rng(config.run.seed)
    state, masks = algorithm.init(jax.random.key(config.run.seed), rng)
    state = state._replace(params=weights.params, model_state=weights.model_state)
    progress = Progress(state, masks, masks)
    return Trained(network, algorithm, progress, steps, 0, seconds)


def main() -> None:
    """Trains, and leaves a run folder."""
    parser = argparse.ArgumentParser(description="The dense network in PyTorch")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument(
        "--step-seconds",
        type=float,
        help="of a step on idle cores, measured before; default: measured now",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    sets = data.load("cifar10", args.data_dir, notify=print)
    config = presets.defaults("laptop", "cifar10", "deterministic").with_values(
        seed=args.seed, width=args.width, minutes=args.minutes, out=args.out
    )
    network, problem = build_problem(config, sets)
    torch.manual_seed(args.seed)
    model = begin(
        airbench.airbench(10, args.width), problem.params, problem.model_state
    )
    images = prepared(network, sets.train_images)
    labels = torch.tensor(np.asarray(sets.train_labels, np.int64))
    rng = torch.Generator().manual_seed(args.seed)
    with run_log.RunLog(args.out) as log:
        about = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        log.start(config.as_dict(), sets.source, about)
        spent = train(
            model, batches(images, labels, rng), args.minutes, args.step_seconds
        )
        log.append({"event": "phase", "step": spent.steps, **spent._asdict()})
        weights = exported(model.eval(), problem.model_state)
        trained = finished(config, sets, weights, spent.steps, spent.seconds)
        summary = results.finish(config, sets, trained, log)
    print(json.dumps({"val": summary["val"], "test": summary["test"]}, indent=1))


if __name__ == "__main__":
    main()
