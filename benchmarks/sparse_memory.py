"""Memory of training: bytes of the state, and the resident peak of whole processes.

    python benchmarks/sparse_memory.py torch_lrt 128 0.05

The command trains one side alone for some steps and prints its memory as JSON;
`report` runs it for both sides, each in a process of its own.
"""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train_step import Library

_STEPS = 2  # from the second on, the moments exist


def report(library: "Library", batch_size: int, *, with_torch: bool) -> dict[str, Any]:
    """Measures both, prints them and returns bytes.

    Args:
      library: a sparse network in training.
      batch_size: images a step of the processes.
      with_torch: whether PyTorch's dense VI gets a process, too.
    """
    from train_step import DENSITY

    from ssvi_jax.evaluation.run.table import format_bytes

    state = _state_bytes(library)
    sides = ("ssvi", "torch_lrt") if with_torch else ("ssvi",)
    used = {side: _resident(side, batch_size, DENSITY) for side in sides}
    for name, size in state.items():
        print(f"  {name.replace('_', ' '):<28}{format_bytes(size):>10}")
    for side, sizes in used.items():
        imported, peak = (format_bytes(size) for size in sizes.values())
        print(f"  process of {side:<17}{peak:>10} at its peak, {imported} imported")
    return {**state, "resident": used}


def _state_bytes(library: "Library") -> dict[str, int]:
    """Bytes of the training state, of a sparse network and of dense VI.

    Deterministic parameters, their moments and running statistics are in both. The
    positions of the kept weights count for the sparse network; dense VI needs none.
    Masks are on the host and in neither: a bit a weight, of which NumPy makes a byte.
    """
    from train_step import Library

    from ssvi_jax.metrics import cost
    from ssvi_jax.vi import masks as masks_lib

    num_weights = sum(mask.size for mask in library.masks.values())
    positions = cost.tree_bytes(masks_lib.to_subspace(library.masks).index)
    dense = Library(batch_size=1, density=1.0)
    return {
        "state_bytes": cost.tree_bytes(library.state) + positions,
        "positions_bytes": positions,
        "dense_vi_state_bytes": cost.tree_bytes(dense.state),
        "host_masks_as_bits_bytes": math.ceil(num_weights / 8),
        "host_masks_as_numpy_bytes": num_weights,
    }


def _resident(side: str, batch_size: int, density: float) -> dict[str, int]:
    """Bytes after the imports, and the peak of training, of a new process."""
    command = [sys.executable, __file__, side, str(batch_size), str(density)]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(text)


def _status(name: str) -> int:
    """Memory of this process in bytes, from Linux.

    Its own peak, VmHWM, and not `ru_maxrss`, which begins with the parent's memory.
    """
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"{name}:\s+(\d+) kB", text)
    assert found, f"{name} is not in /proc/self/status"
    return 1024 * int(found[1])


def _train(side: str, batch_size: int, density: float) -> dict[str, int]:
    """Some steps of one side, whose imports stay out of the other's process."""
    if side == "ssvi":
        import jax
        from train_step import Library

        jax.devices()  # starts XLA, which is no part of training
        imported = _status("VmRSS")
        Library(batch_size, density, _STEPS, "sparse")()
    else:
        import torch_resnet

        imported = _status("VmRSS")
        step = torch_resnet.make_step(batch_size, density)
        losses = [step() for _ in range(_STEPS)]
        assert all(map(math.isfinite, losses)), losses
    return {"imported_bytes": imported, "peak_bytes": _status("VmHWM")}


if __name__ == "__main__":
    print(json.dumps(_train(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
