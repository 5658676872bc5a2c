"""What crosses the wire in data-parallel training, and a model of how it scales.

    python benchmarks/scaling.py --json results/benchmarks/scaling.json

Messages are counted in the program that JAX makes of the inner loop for 8 devices (it
is not compiled or run); times are a model of counted numbers and of the rates below,
**not measurements**. The tables of docs/scaling.md are this output.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

FLAGS = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"
os.environ["JAX_PLATFORMS"] = "cpu"

import abstract  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import traffic  # noqa: E402

from ssvi_jax.core import trees  # noqa: E402
from ssvi_jax.io import run_log  # noqa: E402
from ssvi_jax.metrics import cost  # noqa: E402
from ssvi_jax.networks.network import NetworkSpec  # noqa: E402

NETWORKS = {
    "ResNet-50": NetworkSpec(
        "resnet50", 1.0, 1000, (224, 224, 3), (0.5,) * 3, (0.25,) * 3
    ),
    "WRN-28-10": NetworkSpec("wrn28", 10.0, 10, (32, 32, 3), (0.5,) * 3, (0.25,) * 3),
}
SPARSITY, BATCH, PHASE = 0.95, 128, 100
"""… of each device, and M."""

FLOPS_PER_SECOND = 89e12
"""What the H100 of results/benchmarks/gpu.json reaches in a ResNet-18 step."""

LINKS = {8: (450e9, 10e-6), 64: (50e9, 30e-6)}
"""Devices → bytes/s in each direction and seconds a message: NVLink 4 in a host of 8,
400 Gbit/s for each device between hosts."""


class Counted:
    """One network: weights, FLOPs and messages of a step and of a swap."""

    def __init__(self, spec: NetworkSpec):
        training = abstract.training(spec, SPARSITY, devices=8)
        network, sharded, masks, subspace, state = training
        layers = network.layers(*jax.eval_shape(network.init, jax.random.key(0)))
        images = jax.ShapeDtypeStruct((BATCH * 8, *spec.input_shape), np.uint8)
        labels = jax.ShapeDtypeStruct((BATCH * 8,), np.int32)
        rows = jax.ShapeDtypeStruct((2, BATCH * 8), np.int32)
        operands = (state, subspace, (images, labels), rows)
        loop = sharded._scan.lower(sharded, *operands)
        growth = sharded._dense_gradient.lower(sharded, *operands, "local_reparam")
        self.step = traffic.messages(loop.as_text("hlo"))
        self.swap = traffic.messages(growth.as_text("hlo"))
        self.weights = sum(mask.size for mask in masks.values())
        self.kept = sum(int(mask.sum()) for mask in masks.values())
        self.rest = sum(leaf.size for leaf in trees.flatten(state.params).values())
        dense = [
            cost.LayerCost(layer.path, size, size, layer.positions)
            for layer in layers
            for size in [int(np.prod(layer.shape))]
        ]
        self.flops = cost.train_step_flops(dense, batch_size=BATCH)


def seconds(counted: Counted, devices: int, messages: list[tuple[str, int]]) -> float:
    """A step of `BATCH` examples a device: products, then a ring for each message."""
    total = counted.flops / FLOPS_PER_SECOND
    if devices == 1:
        return total
    bandwidth, latency = LINKS[devices]
    sent = sum(number for _, number in messages)
    return total + 2 * (1 - 1 / devices) * sent / bandwidth + latency * len(messages)


def message_bytes(counted: Counted) -> dict[str, int]:
    """Bytes that a device gives to collective operations."""
    step, swap = (sum(n for _, n in m) for m in (counted.step, counted.swap))
    gradient = max(number for _, number in counted.step)
    return {
        "weights": counted.weights,
        "kept": counted.kept,
        "step_bytes": step,
        "step_without_gradient_bytes": step - gradient,
        "dense_vi_step_bytes": step + 8 * (counted.weights - counted.kept),
        "swap_bytes": swap,
    }


def print_messages(name: str, b: dict[str, int]) -> None:
    """A row of the first table."""
    share = b["step_bytes"] / b["dense_vi_step_bytes"]
    rest, dense = b["step_without_gradient_bytes"], b["dense_vi_step_bytes"]
    print(
        f"| {name} | {b['weights'] / 1e6:.1f} M | {b['step_bytes'] / 1e6:.2f} MB "
        f"({share:.3f}) | {rest / 1e6:.2f} MB | {dense / 1e6:.1f} MB | "
        f"{b['swap_bytes'] / 1e6:.1f} MB |"
    )


def main() -> None:
    """Prints both tables in Markdown, and writes what was counted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the counted bytes here")
    args = parser.parse_args()
    found = {name: Counted(spec) for name, spec in NETWORKS.items()}
    messages = {name: message_bytes(counted) for name, counted in found.items()}
    print("| | weights | a step | of it batch norm | dense VI | a swap |")
    print("|---|---|---|---|---|---|")
    for name, numbers in messages.items():
        print_messages(name, numbers)
    print("\n| | devices | packed | efficiency | dense VI's messages | efficiency |")
    print("|---|---|---|---|---|---|")
    for name, c in found.items():
        extra = ("all-reduce", 8 * (c.weights - c.kept))
        for devices in (1, *LINKS):
            packed = seconds(c, devices, c.step)
            packed += (seconds(c, devices, c.swap) - seconds(c, 1, [])) / PHASE
            dense = seconds(c, devices, [*c.step, extra])
            rates = [seconds(c, 1, []) / t for t in (packed, dense)]
            print(
                f"| {name} | {devices} | {packed * 1e3:.1f} ms | {rates[0]:.3f} | "
                f"{dense * 1e3:.1f} ms | {rates[1]:.3f} |"
            )
    if args.json:
        about: dict[str, Any] = {**run_log.environment(), "sparsity": SPARSITY}
        text = json.dumps({**about, "messages": messages}, indent=1)
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
