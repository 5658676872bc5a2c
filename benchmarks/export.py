"""Exports training and prediction of a large network for GPUs and TPUs, on any machine.

    python benchmarks/export.py --json results/benchmarks/export.json

Counts what each program for CUDA and TPU holds: calls to the host, which must be none,
loops, and inputs whose memory the outputs take. Nothing is compiled or run.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import abstract
import jax
import numpy as np

from ssvi_jax.core import trees
from ssvi_jax.io import run_log
from ssvi_jax.networks.network import NetworkSpec
from ssvi_jax.vi import posterior, predictive
from ssvi_jax.vi.likelihoods import Categorical

PLATFORMS = ("cuda", "tpu")
SPEC = NetworkSpec("resnet18", 1.0, 10, (32, 32, 3), (0.5,) * 3, (0.25,) * 3)
SPARSITY, BATCH, STEPS = 0.95, 128, 100


def programs() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Name → jitted function and its abstract operands."""
    network, inference, _, subspace, state = abstract.training(SPEC, SPARSITY)

    def prediction(weights, subspace, x, key):
        draws = posterior.sample(weights.posterior, subspace, key)
        full = trees.merge(weights.params, draws)
        return predictive._batch_features(
            network, Categorical(), full, None, weights.model_state, x
        )

    images = jax.ShapeDtypeStruct((50_000, *SPEC.input_shape), np.uint8)
    labels = jax.ShapeDtypeStruct((50_000,), np.int32)
    rows = jax.ShapeDtypeStruct((STEPS, BATCH), np.int32)
    training = (state, subspace, (images, labels), rows)
    batch = jax.ShapeDtypeStruct((BATCH, *SPEC.input_shape), np.uint8)
    return {
        "inner loop": (jax.jit(inference.steps, donate_argnums=0), training),
        "dense gradient": (
            jax.jit(partial(inference.growth, estimator="local_reparam")),
            training,
        ),
        "prediction": (
            jax.jit(prediction),
            (state.weights, subspace, batch, jax.random.key(0)),
        ),
    }


def count(function: Any, operands: tuple[Any, ...]) -> dict[str, int]:
    """What the program for all platforms holds."""
    exported = jax.export.export(function, platforms=PLATFORMS)(*operands)
    text = exported.mlir_module()
    return {
        "characters": len(text),
        "host_callbacks": text.lower().count("callback"),
        "loops": text.count("stablehlo.while"),
        "donated_inputs": text.count("tf.aliasing_output")
        + text.count("jax.buffer_donor"),
        "state_arrays": len(jax.tree.leaves(operands[0])),
    }


def main() -> None:
    """Prints the counts and, if asked, writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the counts here")
    args = parser.parse_args()
    found = {name: count(*program) for name, program in programs().items()}
    for name, counts in found.items():
        print(f"{name:16}", ", ".join(f"{v} {k}" for k, v in counts.items()))
    if args.json:
        about = {**run_log.environment(), "network": "resnet18", "sparsity": SPARSITY}
        report = {**about, "platforms": PLATFORMS, "programs": found}
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
