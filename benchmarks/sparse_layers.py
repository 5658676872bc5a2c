"""Times the compiled sparse layers on every layer shape of CIFAR ResNet-18.

    python benchmarks/sparse_layers.py --batch 128 --density 0.05

Two multiply-adds are counted for each selected weight, output position and image, in
every pass; borders are not subtracted. The peak is what independent chains of vector
multiply-adds reach on all cores, measured before and after; squares, noise and memory
are not in it, so a share is of what no kernel could exceed.
"""

import argparse
import json
import os
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Format, Layout

from ssvi_jax.ops import sparse


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
PASSES = ("forward", "dx", "dw")


def peak(rounds: int = 1_000_000) -> float:
    """Multiply-adds a second of all cores together."""
    library = sparse.library()
    assert not isinstance(library, str), library
    num = os.cpu_count() or 1
    best = 0.0
    for _ in range(5):
        threads = [
            threading.Thread(target=library.ssvi_multiply_adds, args=(rounds,))
            for _ in range(num)
        ]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - start
        best = max(best, num * rounds * 16 * library.ssvi_lanes() / seconds)
    return best


def seconds(function: Any, operands: tuple[jax.Array, ...], repeats: int) -> float:
    """Median of one call, after a warm-up."""
    jax.block_until_ready(function(*operands))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*operands))
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def measure(layer: Layer, batch: int, density: float, repeats: int) -> dict[str, Any]:
    """Times the three passes of one layer; the first layer is dense, as in `erk`."""
    rng = np.random.default_rng(0)
    shape = (layer.window, layer.window, layer.num_in, layer.num_out)
    size = int(np.prod(shape))
    kept = size if layer.num_in == 3 else round(density * size)
    index = jnp.asarray(np.sort(rng.choice(size, kept, replace=False)), jnp.int32)
    pad = (layer.window // 2,) * 2
    window = {"strides": (layer.stride,) * 2, "padding": (pad, pad)}
    key = jax.random.key(0)
    # The layout that activations have between two such layers.
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    batch_last = Format(Layout((3, 1, 2, 0)), device)

    def array(*dims: int) -> jax.Array:
        values = jnp.asarray(rng.normal(size=dims).astype(np.float32))
        return jax.device_put(values, batch_last) if len(dims) == 4 else values

    def sample(x: jax.Array, mean: jax.Array, sigma: jax.Array) -> jax.Array:
        return sparse.lrt_conv(x, mean, sigma, index, shape, key, **window)

    x, mean = array(batch, layer.image, layer.image, layer.num_in), array(kept)
    sigma = jnp.abs(mean)
    y, vjp = jax.vjp(sample, x, mean, sigma)
    g = array(*y.shape)
    backward = jax.jit(lambda vjp, g: vjp(g)[0], out_shardings=batch_last)
    weights = jax.jit(lambda vjp, g: vjp(g)[1:])
    forward = jax.jit(sample, out_shardings=batch_last)
    # What vjp closes over lies in the default order: put it as a layer would have it.
    vjp = jax.tree.map(
        lambda a: jax.device_put(a, batch_last) if a.ndim == 4 else a, vjp
    )
    times = (
        seconds(forward, (x, mean, sigma), repeats),
        seconds(backward, (vjp, g), repeats),
        seconds(weights, (vjp, g), repeats),
    )
    work = 2 * kept * batch * y.shape[1] * y.shape[2]
    return {
        **layer._asdict(),
        "weights": kept,
        "multiply_adds": work,
        "seconds": dict(zip(PASSES, times, strict=True)),
    }


def summary(rows: list[dict[str, Any]], peak_rate: float) -> dict[str, float]:
    """Share of the peak over the 3x3 layers (the first left out), a pass and in all."""
    chosen = [row for row in rows if row["window"] == 3 and row["num_in"] > 3]
    work = sum(row["count"] * row["multiply_adds"] for row in chosen)
    totals = {
        name: sum(row["count"] * row["seconds"][name] for row in chosen)
        for name in PASSES
    }
    shares = {name: work / total / peak_rate for name, total in totals.items()}
    return {**shares, "all": len(PASSES) * work / sum(totals.values()) / peak_rate}


def main() -> None:
    """Prints a table and, if asked, writes the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--density", type=float, default=0.05)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    if not sparse.available():
        raise SystemExit(sparse.why_not())
    rate, rows = peak(), []
    print("layer                      weights " + "".join(f"{p:>19}" for p in PASSES))
    for layer in LAYERS:
        row = measure(layer, args.batch, args.density, args.repeats)
        rows.append(row)
        cells = "".join(
            f"{t * 1e3:9.2f} ms {row['multiply_adds'] / t / 1e9:5.1f} G"
            for t in row["seconds"].values()
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
    if args.json:
        about = {"batch": args.batch, "density": args.density, "peak": rate}
        result = {**about, "share_3x3": shares, "layers": rows}
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
