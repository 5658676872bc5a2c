"""Times the compiled sparse layers on every layer shape of CIFAR ResNet-18.

    python benchmarks/sparse_layers.py --batch 128 --density 0.05

Two multiply-adds are counted for each selected weight, output position and image in the
forward pass, and as many for each of the two gradients, which one kernel computes;
borders are not subtracted. The peak is what independent chains of vector
multiply-adds reach on all cores, measured before and after; squares, noise and memory
are not in it, so a share is of what no kernel could exceed.
"""

import argparse
import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Format, Layout

from ssvi_jax.io import run_log
from ssvi_jax.ops import custom_calls, sparse


class Layer(NamedTuple):
    """A convolution and how often ResNet-18 has it."""

    num_in: int
    num_out: int
    window: int
    stride: int
    image: int
    count: int


LAYERS = (
    Layer(3, 64, 3, 1, 32, 1),
    Layer(64, 64, 3, 1, 32, 4),
    Layer(64, 128, 3, 2, 32, 1),
    Layer(64, 128, 1, 2, 32, 1),
    Layer(128, 128, 3, 1, 16, 3),
    Layer(128, 256, 3, 2, 16, 1),
    Layer(128, 256, 1, 2, 16, 1),
    Layer(256, 256, 3, 1, 8, 3),
    Layer(256, 512, 3, 2, 8, 1),
    Layer(256, 512, 1, 2, 8, 1),
    Layer(512, 512, 3, 1, 4, 3),
)
PASSES = {"forward": 1, "gradients": 2}
"""Pass → how many times the forward pass's multiply-adds it has."""
_LOOP = 16
_CHAINS = 12  # of multiply-adds in a round, as in ops/csrc/conv_kernels.h


def peak(rounds: int = 1_000_000) -> float:
    """Multiply-adds a second of all cores together, of the instruction set in use."""
    library = custom_calls.library()
    name = custom_calls.instruction_set().encode()
    assert not isinstance(library, str), library
    num = os.cpu_count() or 1
    best = 0.0
    for _ in range(5):
        threads = [
            threading.Thread(target=library.ssvi_multiply_adds, args=(name, rounds))
            for _ in range(num)
        ]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - start
        best = max(best, num * rounds * _CHAINS * library.ssvi_lanes(name) / seconds)
    return best


def seconds(
    name: str, window: custom_calls.Window, shapes: list[Any], operands: Any, where: int
) -> float:
    """Median seconds of a pass inside a loop, as training runs it.

    A call of its own would be charged for the first touch of its output's memory.
    """

    @jax.jit
    def loop(*operands: jax.Array) -> jax.Array:
        def body(i: jax.Array, total: jax.Array) -> jax.Array:
            # The same index, but nothing that the compiler could move out of the loop.
            index = operands[where] + jnp.minimum(i, 0)
            now = (*operands[:where], index, *operands[where + 1 :])
            outputs = custom_calls.call(name, window, shapes, *now)
            return total + sum(y[(0,) * y.ndim] for y in outputs)

        return jax.lax.fori_loop(0, _LOOP, body, jnp.float32(0))

    jax.block_until_ready(loop(*operands))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(loop(*operands))
        times.append((time.perf_counter() - start) / _LOOP)
    return float(np.median(times))


def measure(layer: Layer, batch: int, density: float) -> dict[str, Any]:
    """Times the passes of one layer.

    The first layer is dense, as in `erk`, and nothing needs the gradient of its input.
    """
    rng = np.random.default_rng(0)
    shape = (layer.window, layer.window, layer.num_in, layer.num_out)
    size = int(np.prod(shape))
    first = layer.num_in == 3
    kept = size if first else round(density * size)
    index = jnp.asarray(np.sort(rng.choice(size, kept, replace=False)), jnp.int32)
    pad, stride = (layer.window // 2, layer.window // 2), layer.stride
    window = custom_calls.Window(shape, (stride, stride), (pad, pad))
    # The layout that activations have between two such layers.
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    batch_last = Format(Layout(custom_calls.BATCH_LAST), device)

    def array(*dims: int) -> jax.Array:
        values = jnp.asarray(rng.normal(size=dims).astype(np.float32))
        return jax.device_put(values, batch_last) if len(dims) == 4 else values

    x, mean = array(batch, layer.image, layer.image, layer.num_in), array(kept)
    sigma, words = jnp.abs(mean), jnp.array([1, 2, batch, 0], jnp.uint32)
    out = window.output_shape(x.shape)
    of_images = (array(*out), array(*out), *sparse.no_norm(), x)
    gradients = (
        ("ssvi_sample_weights", [mean.shape] * 2, (*of_images, index), 5)
        if first
        else (
            "ssvi_sample_gradients",
            [x.shape, mean.shape, mean.shape],
            (*of_images, mean, sigma, index),
            7,
        )
    )
    made = [out, out, out[3:], out[3:]]
    passes = (("ssvi_sample", made, (x, mean, sigma, index, words), 3), gradients)
    times = [
        seconds(name, window, shapes, operands, where)
        for name, shapes, operands, where in passes
    ]
    work = 2 * kept * batch * out[1] * out[2]
    return {
        **layer._asdict(),
        "weights": kept,
        "multiply_adds": {
            name: work * (1 if first else times) for name, times in PASSES.items()
        },
        "seconds": dict(zip(PASSES, times, strict=True)),
    }


def summary(rows: list[dict[str, Any]], peak_rate: float) -> dict[str, float]:
    """Share of the peak over the 3x3 layers (the first left out), a pass and in all."""
    chosen = [row for row in rows if row["window"] == 3 and row["num_in"] > 3]
    done, taken = (
        {name: sum(row["count"] * row[key][name] for row in chosen) for name in PASSES}
        for key in ("multiply_adds", "seconds")
    )
    shares = {name: done[name] / taken[name] / peak_rate for name in PASSES}
    return {**shares, "all": sum(done.values()) / sum(taken.values()) / peak_rate}


def report(layers: Sequence[Layer], batch: int, density: float) -> dict[str, Any]:
    """Measures layers and the peak before and after; prints a table, returns it."""
    rate, rows = peak(), []
    print("layer                      weights " + "".join(f"{p:>19}" for p in PASSES))
    for layer in layers:
        row = measure(layer, batch, density)
        rows.append(row)
        cells = "".join(
            f"{t * 1e3:9.2f} ms {row['multiply_adds'][name] / t / 1e9:5.1f} G"
            for name, t in row["seconds"].items()
        )
        name = f"{layer.num_in}->{layer.num_out} {layer.window}x{layer.window}"
        name += f"/{layer.stride} {layer.image}x{layer.image}"
        print(f"{name:25} {row['weights']:8} {cells}", flush=True)
    rate = max(rate, peak())
    shares = summary(rows, rate)
    print(
        f"peak {rate / 1e9:.0f} G multiply-adds/s; share over the 3x3 layers:", end=" "
    )
    print(", ".join(f"{name} {share:.0%}" for name, share in shares.items()))
    about = {"batch": batch, "density": density, "peak": rate}
    return {**about, "share_3x3": shares, "layers": rows}


def main() -> None:
    """Prints a table and, if asked, writes the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--density", type=float, default=0.05)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    if not custom_calls.available():
        raise SystemExit(custom_calls.why_not())
    result = report(LAYERS, args.batch, args.density)
    if args.json:
        args.json.write_text(
            json.dumps(run_log.environment() | result, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
