"""Compares predictions where models run: the runtime, ONNX Runtime, PyTorch, JAX.

    python benchmarks/deploy.py --json numbers.json             # about 10 minutes
    SSVI_JAX_ISA=avx2 python benchmarks/deploy.py               # ours as on older ones

ResNet-18 at 95 % sparsity with random weights, which take as long as trained ones. Each
side is a process of its own for each number of threads, on as many processors; the
processes take turns, and ratios are of medians. Time from the start of a process to its
first prediction is that of the slowest of its parts too: importing. ONNX Runtime is in
requirements-dev.txt; PyTorch, optional, in benchmarks/requirements.txt.
"""

import argparse
import dataclasses
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import deploy_sides as sides
import instruction_set
import jax
import jax.numpy as jnp
import numpy as np
from onnxruntime import quantization

import ssvi_jax
from ssvi_jax.core import trees
from ssvi_jax.core.types import Gaussian, Weights
from ssvi_jax.io import run_log
from ssvi_jax.networks.network import ImageNetwork, NetworkSpec
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi.likelihoods import Categorical

SPEC = NetworkSpec("resnet18", 1.0, 10, (32, 32, 3), (0.5,) * 3, (0.25,) * 3)
DENSITY, BATCHES, STARTS = 0.05, (1, 128), 3


def write_models(folder: Path) -> None:
    """Files of one network with random weights, and inputs."""
    rng, network = np.random.default_rng(0), ImageNetwork(SPEC)
    params, state = network.init(jax.random.key(0))
    kernels, rest = trees.split(params)
    shapes = {path: kernel.shape for path, kernel in kernels.items()}
    masks = masks_lib.create(shapes, 1 - DENSITY, rng, "uniform")
    posterior = {
        path: Gaussian(
            jnp.asarray(np.asarray(kernels[path])[mask] / np.sqrt(DENSITY)),
            jnp.full(int(mask.sum()), -6.0),
        )
        for path, mask in masks.items()
    }
    fit = ssvi_jax.Fitted(
        *(network, Weights(posterior, rest, state), masks, Categorical(), {}),
        describes=dataclasses.asdict(SPEC),
    )
    fit.save(folder / sides.MODEL, half=False)
    ssvi_jax.export(fit, folder / sides.ONNX)
    ssvi_jax.export(fit, folder / sides.STABLEHLO)
    images = rng.integers(0, 256, (max(BATCHES), *SPEC.input_shape), np.uint8)
    np.save(folder / sides.INPUTS, images)


class _Calibration(quantization.CalibrationDataReader):
    """Images by which ONNX Runtime finds the ranges of activations."""

    def __init__(self, images: np.ndarray):
        self._batches = iter(np.array_split(images, 8))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"x": batch}


def write_int8(folder: Path) -> None:
    """The same network with weights and activations of a byte, by ONNX Runtime."""
    images = np.load(folder / sides.INPUTS, allow_pickle=False)
    quantization.quantize_static(
        folder / sides.ONNX,
        folder / sides.INT8,
        _Calibration(images),
        per_channel=True,
    )


class Worker:
    """A process of one side.

    Attributes:
      first_seconds: from its start to its first prediction.
      about: what it said of it.
    """

    def __init__(self, name: str, threads: int, folder: Path):
        script = Path(sides.__file__)
        command = [sys.executable, str(script), name, str(threads), str(folder)]
        start = time.perf_counter()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.about = self._read()
        self.first_seconds = time.perf_counter() - start

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        return json.loads(self._process.stdout.readline())

    def ask(self, batch: int, calls: int) -> list[float]:
        """Seconds of each call."""
        assert self._process.stdin
        self._process.stdin.write(f"{batch} {calls}\n")
        self._process.stdin.flush()
        found = self._read()
        self.about["peak_bytes"] = found["peak_bytes"]
        return found["seconds"]

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def measure(
    names: Sequence[str], threads: int, folder: Path, turns: int
) -> dict[str, Any]:
    """Starts, and times of every batch, of all sides with so many threads."""
    starts = {
        name: [_start(name, threads, folder) for _ in range(STARTS)] for name in names
    }
    workers = {name: Worker(name, threads, folder) for name in names}
    found: dict[str, Any] = {}
    for batch in BATCHES:
        calls = {name: _calls(worker, batch) for name, worker in workers.items()}
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(turns):
            for name, worker in workers.items():
                seconds[name] += worker.ask(batch, calls[name])
        found[f"batch_{batch}"] = {
            name: {
                "median_seconds": statistics.median(each),
                "quartiles": statistics.quantiles(each, n=4)[::2],
                "calls": len(each),
            }
            for name, each in seconds.items()
        }
    for name, worker in workers.items():
        worker.close()
        found.setdefault("process", {})[name] = {
            "first_prediction_seconds": statistics.median(starts[name]),
            "load_seconds": worker.about["load_seconds"],
            "peak_bytes": worker.about["peak_bytes"],
        }
    means = [
        workers[name].about["probabilities"] for name in (sides.RUNTIME, sides.ORT)
    ]
    found["largest_difference"] = float(np.abs(np.subtract(*means)).max())
    return found


def _start(name: str, threads: int, folder: Path) -> float:
    worker = Worker(name, threads, folder)
    worker.close()
    return worker.first_seconds


def _calls(worker: Worker, batch: int) -> int:
    """Calls of a turn of about 0.3 seconds, after a warm-up."""
    worker.ask(batch, 1)
    (seconds,) = worker.ask(batch, 1)
    return max(2, min(30, round(0.3 / seconds)))


def headline(found: dict[str, Any]) -> dict[str, float]:
    """Ratios: times of theirs over ours, and of draws ours over theirs."""
    numbers = {}
    for threads, each in found.items():
        for batch in BATCHES:
            median = {
                name: value["median_seconds"]
                for name, value in each[f"batch_{batch}"].items()
            }
            ours, where = median.pop(sides.RUNTIME), f"{threads}_batch_{batch}"
            for kind, name in (("draws", sides.DRAWS), ("fresh", sides.FRESH_DRAWS)):
                draws = median.pop(name) / median[sides.ORT]
                numbers[f"{kind}_time_vs_{sides.ORT}_{where}"] = draws
            for name, value in median.items():
                numbers[f"mean_vs_{name}_{where}"] = value / ours
    return numbers


def main(argv: Sequence[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Predictions where models run")
    parser.add_argument("--turns", type=int, default=7, help="turns that count")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", type=Path, help="write all numbers here")
    args = parser.parse_args(argv)
    peers = [sides.TORCH, sides.TORCH_COMPILED]
    absent = [] if importlib.util.find_spec("torch") else peers
    names = [name for name in sides.SIDES if name not in absent]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder)
        write_int8(folder)
        found = {
            f"threads_{threads}": measure(names, threads, folder, args.turns)
            for threads in args.threads
        }
        sizes = {
            path.name: path.stat().st_size
            for path in sorted(folder.iterdir())
            if path.suffix != ".npy"
        }
    result = {
        "about": {**run_log.environment(), **instruction_set.about()},
        "network": "ResNet-18, 95 % of the weights zero, random weights",
        "absent": absent,
        "file_bytes": sizes,
        **found,
        "headline": headline(found),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
