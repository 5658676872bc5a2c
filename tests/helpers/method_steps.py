"""A few steps and a swap of any method on the smallest network, as plain arrays.

Run by test_parallel_methods.py, in a process where a CPU is several devices::

    python method_steps.py OUT.npz METHOD...
"""

import sys
from typing import Any

import jax
import numpy as np
import tiny_methods

from ssvi_jax.methods import METHODS
from ssvi_jax.methods.algorithms import mask_moves
from ssvi_jax.methods.algorithms.copies import Ensemble

BATCH = 32
SPARSE = {"sparsity": 0.5, "replacement_rate": 0.3, "sigma_init": 0.1}
CHANGES: dict[str, dict] = {
    "ssvi": {**SPARSE, "estimator": "weight_sample"},
    "masked_bnn": {**SPARSE, "grow_batches": 2, "spike_std": 0.05},
    "rigl": {"sparsity": 0.5},
    "rank1": {"members": 4, "sparsity": 0.5, "replacement_rate": 0.3},
    "batch_ensemble": {"members": 4, "member_batch": "tile"},
    "ensemble": {"members": 2},
    "ssvi_ensemble": {**SPARSE, "members": 2, "members_at_once": 2},
    "ssvi_mixture": {**SPARSE, "members": 2},
}
"""Method → settings besides its preset's."""


def results(method_name, **changes):
    """By path: state, masks and metrics after two steps, a swap and a step."""
    settings = {"width": 0.03, "batch_size": BATCH, "inner_steps": 2}
    if "prune_at" in METHODS[method_name].names():
        settings["prune_at"] = 0.1
    settings |= {**CHANGES.get(method_name, {}), **changes}
    method = tiny_methods.build(method_name, **settings)
    check_execution(method, changes)
    inputs = tiny_methods.arrays()
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 500, (6, BATCH)).astype(np.int32)
    state, masks = method.init(jax.random.key(3), rng)
    first = masks
    events: dict[str, Any] = {}
    state, traces = method.step(state, masks, inputs, rows[:2])
    if number := method.num_growth_batches(2):
        batches = rows[2 : 2 + number]
        state, masks, event = method.swap(state, masks, inputs, batches, rng)
        events |= event
        if isinstance(method, mask_moves.MaskMoves):  # whose moves may be refused
            operands = (state, masks, inputs, (rows[2], rows[3]))
            chain = mask_moves.start(state, masks)
            events["evaluated"] = method.evaluate(*operands, chain, "linear/kernel")
        else:
            assert any((masks[path] != first[path]).any() for path in masks)
    state, _ = method.step(state, masks, inputs, rows[:2])
    state = state._replace(key=jax.random.key_data(state.key))
    found = {"state": state, "masks": masks, "traces": traces, "events": events}
    leaves = jax.tree_util.tree_flatten_with_path(found)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def check_execution(method, changes):
    """Raises unless its training step is in parts and spread as it should be."""
    inference = (method.base if isinstance(method, Ensemble) else method).inference
    execution = inference.execution
    assert execution.accumulate == changes.get("accumulate", 1)
    number = execution.line.mesh.size if execution.line else 1
    assert number == changes.get("devices", 1)


def main(out, *names):
    """Every method on one device, and on all in two parts, into one file."""
    saved = {}
    for name in names:
        for devices, parts in ((1, 1), (8, 2)):
            found = results(name, devices=devices, accumulate=parts)
            saved |= {f"{name}|{devices}|{k}": v for k, v in found.items()}
    np.savez(out, **saved)


if __name__ == "__main__":
    main(*sys.argv[1:])
