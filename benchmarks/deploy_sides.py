"""The sides of `deploy.py`: each opens its file and predicts, in a process of its own.

    python benchmarks/deploy_sides.py "ONNX Runtime" 2 FOLDER

Answers lines ``batch calls`` on its input with JSON on its output: seconds of each
call. The first answer, without a question, is of the first prediction.
"""

# PyTorch is optional, and not among what the checks install.
# pyright: reportMissingImports=false

import itertools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import instruction_set
import numpy as np

MODEL, ONNX, INT8 = "model.ssvi", "model.onnx", "model_int8.onnx"
STABLEHLO, INPUTS = "model.stablehlo", "inputs.npy"
SAMPLES = 10

Predict = Callable[[np.ndarray], Any]


def _runtime(
    folder: Path, threads: int, mode: str, seeds: Iterator[int] | None = None
) -> Predict:
    from ssvi_jax import runtime

    model, seeds = runtime.load(folder / MODEL), seeds or itertools.repeat(0)

    def predict(x: np.ndarray) -> np.ndarray:
        given = {"mode": mode, "samples": SAMPLES, "seed": next(seeds)}
        return model.predict(x, threads=threads, **given).probabilities

    return predict


def _onnx(folder: Path, threads: int, name: str) -> Predict:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        str(folder / name), options, providers=["CPUExecutionProvider"]
    )
    return lambda x: session.run(None, {"x": x})[0]


def _jax(folder: Path, threads: int) -> Predict:
    """XLA takes as many threads as the process has processors."""
    import jax

    content = (folder / STABLEHLO).read_bytes()
    program = jax.jit(jax.export.deserialize(bytearray(content)).call)
    return lambda x: np.asarray(program(x))


def _torch(folder: Path, threads: int, *, compiled: bool) -> Predict:
    """A network of the same shapes with weights of its own."""
    instruction_set.hold_torch()
    import torch
    import torch_resnet

    torch.set_num_threads(threads)
    forwards: dict[int, Callable[[], np.ndarray]] = {}

    def predict(x: np.ndarray) -> np.ndarray:
        if len(x) not in forwards:
            forwards[len(x)] = torch_resnet.make_forward(len(x), compiled=compiled)
        return forwards[len(x)]()

    return predict


RUNTIME, DRAWS = "runtime, mean", f"runtime, {SAMPLES} samples"
FRESH_DRAWS = f"runtime, {SAMPLES} samples of a new seed each time"
ORT, ORT_INT8, JAX = "ONNX Runtime", "ONNX Runtime, int8", "JAX, dense"
TORCH, TORCH_COMPILED = "PyTorch", "PyTorch, compiled"
SIDES: dict[str, tuple[str, Callable[[Path, int], Predict]]] = {
    RUNTIME: (MODEL, lambda folder, threads: _runtime(folder, threads, "mean")),
    DRAWS: (MODEL, lambda folder, threads: _runtime(folder, threads, "samples")),
    FRESH_DRAWS: (
        MODEL,
        lambda folder, threads: _runtime(folder, threads, "samples", itertools.count()),
    ),
    ORT: (ONNX, lambda folder, threads: _onnx(folder, threads, ONNX)),
    ORT_INT8: (INT8, lambda folder, threads: _onnx(folder, threads, INT8)),
    JAX: (STABLEHLO, _jax),
    TORCH: ("", lambda folder, threads: _torch(folder, threads, compiled=False)),
    TORCH_COMPILED: (
        "",
        lambda folder, threads: _torch(folder, threads, compiled=True),
    ),
}
"""Name → its file, and what opens it with so many threads."""


def peak_bytes() -> int:
    """Largest resident memory of this process so far, from Linux."""
    text = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    assert found, "VmHWM is not in /proc/self/status"
    return 1024 * int(found[1])


def _answer(found: dict[str, Any]) -> None:
    print(json.dumps(found), flush=True)


def main(name: str, threads: int, folder: Path) -> None:
    """Opens, predicts one input, then answers questions."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    start = time.perf_counter()
    predict = SIDES[name][1](folder, threads)
    loaded = time.perf_counter()
    inputs = np.load(folder / INPUTS, allow_pickle=False)
    first = np.asarray(predict(inputs[:1]))
    _answer(
        {
            "load_seconds": loaded - start,
            "probabilities": first[0].astype(float).tolist(),
            "peak_bytes": peak_bytes(),
        }
    )
    for line in sys.stdin:
        batch, calls = map(int, line.split())
        x, seconds = inputs[:batch], []
        for _ in range(calls):
            begin = time.perf_counter()
            predict(x)
            seconds.append(time.perf_counter() - begin)
        _answer({"seconds": seconds, "peak_bytes": peak_bytes()})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
