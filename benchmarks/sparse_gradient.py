"""Error of a whole network's gradient against the same gradient in float64.

The reference is the dense `xla` path with every number in float64: parameters,
activations, batch norm, loss. The noise is made in float32 by every path and then cast,
so all of them differentiate the same function.

The function has kinks: rounding may move one of the million pre-activations across the
zero of a ReLU, which changes the gradient by 1e-4 to 1e-2. It happens to both backends,
mostly in the same batches, and the more images a batch has: to about every second batch
of 8, to one in ten of 2. So batches are small; the worst is given beside the median.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from train_step import Library

from ssvi_jax import vi
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi.execution import Execution

BATCH, BATCHES = 2, 12

Leaves = list[np.ndarray]


def errors(density: float) -> dict[str, dict[str, float]]:
    """Backend → relative Euclidean errors of its float32 gradient.

    The gradient is that of the training loss of ResNet-18, batch norm in training mode,
    with respect to means, rhos and deterministic parameters.

    Returns:
      "sparse" and "xla" → over all parameters together, the "median" and "worst" of the
      batches; "worst_array_median": of the single array with the largest error.
    """
    library = Library(BATCH * BATCHES // 4, density)  # its data are four batches
    with jax.enable_x64(True):
        references = _gradients(library, "xla", jnp.float64)
    found = {}
    for backend in ("sparse", "xla"):
        gradients = _gradients(library, backend, jnp.float32)
        pairs = zip(gradients, references, strict=True)
        together, single = zip(*(_relative(a, b) for a, b in pairs), strict=True)
        found[backend] = {
            "median": float(np.median(together)),
            "worst": max(together),
            "worst_array_median": float(np.median(single)),
        }
        shown = ", ".join(f"{k} {v:.1e}" for k, v in found[backend].items())
        print(f"  {backend:<8}{shown}", flush=True)
    return found


def _gradients(
    library: Library, backend: str, dtype: jax.typing.DTypeLike
) -> list[Leaves]:
    """The loss's gradient over each batch, leaf by leaf, computed in that type."""

    def cast(x: jax.Array) -> jax.Array:
        return x.astype(dtype) if x.dtype == jnp.float32 else x

    execution = Execution(backend)
    inference = dataclasses.replace(library.inference, execution=execution)
    gradient = jax.jit(jax.grad(inference.negative_elbo, has_aux=True))
    state, subspace = library.state, masks_lib.to_subspace(library.masks)
    trainable = vi.Trainable(state.posterior, state.params)
    trainable, model_state, (images, labels) = jax.tree.map(
        cast, (trainable, state.model_state, library.data)
    )
    found = []
    for start in range(0, BATCH * BATCHES, BATCH):
        rows = slice(start, start + BATCH)
        batch = (images[rows], labels[rows])
        grads, (metrics, _) = gradient(
            trainable, model_state, subspace, batch, jax.random.key(2), state.step
        )
        leaves = jax.tree.leaves(grads)
        assert {x.dtype for x in (metrics["loss"], *leaves)} == {jnp.dtype(dtype)}
        assert np.isfinite(metrics["loss"])
        found.append([np.asarray(leaf, np.float64) for leaf in leaves])
    return found


def _relative(got: Leaves, want: Leaves) -> tuple[float, float]:
    """Error over all leaves together, and of the worst leaf."""
    error = np.array([np.linalg.norm(a - b) for a, b in zip(got, want, strict=True)])
    size = np.array([np.linalg.norm(b) for b in want])
    together = np.linalg.norm(error) / np.linalg.norm(size)
    assert np.isfinite(together), "a gradient is not finite: its error means nothing"
    return float(together), float(np.max(error / size))
