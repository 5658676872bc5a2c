"""What tells one training from another, in few words: data, network, optimizer.

A training in a folder is continued only where these are the same. They are compared in
another process, perhaps on another machine: so nothing here holds the address of a
function, and what was computed is rounded.
"""

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssvi_jax.core import trees
from ssvi_jax.core.jaxprs import Jaxpr, inner
from ssvi_jax.core.types import Augment, Gaussian
from ssvi_jax.methods.algorithms.sgd import Sgd
from ssvi_jax.methods.problem import OptimizerLike
from ssvi_jax.vi import Trainable

WHOLE_BYTES = 2**28
"""Of an array that is read whole; of a larger one rows at even distances."""

_STEPS = 1000  # of the training for which a function makes an optimizer to be tried
_SCALES = (1.0, -0.5, 2.0, 0.25)  # of the gradients it is tried on
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def of_arrays(tree: Any) -> str:
    """Shapes, types and a hash of the values of a tree of arrays ``[n, ...]``.

    Types are those on the device, so lists and arrays of equal numbers are the same.
    """
    said, digest = [], hashlib.sha256()
    for path, leaf in sorted(trees.flatten(tree, is_leaf=None).items()):
        kind = jax.dtypes.canonicalize_dtype(leaf.dtype)
        said.append(f"{path}{' ' if path else ''}{kind}{list(leaf.shape)}")
        digest.update(said[-1].encode())
        step = max(1, -(-leaf.nbytes // WHOLE_BYTES))
        rows = np.asarray(leaf[::step] if leaf.ndim else leaf).astype(kind)
        digest.update(np.ascontiguousarray(rows).tobytes())
    return f"{', '.join(said)} with hash {digest.hexdigest()[:16]}"


def of_shapes(tree: Any) -> dict[str, str]:
    """Path → shape of every leaf."""
    leaves = trees.flatten(tree, is_leaf=None)
    return {path: str(list(np.shape(leaf))) for path, leaf in leaves.items()}


def of_function(function: Callable[..., Any], *args: Any) -> str:
    """The operations of a function, counted in a trace of it.

    Args:
      function: any function that JAX can trace.
      *args: arrays, or their shapes and types.
    """
    try:
        traced = jax.make_jaxpr(function)(*args)
    except Exception as error:  # a function of the user's own may raise anything
        return f"not traced ({type(error).__name__})"
    counts = Counter(_operations(traced.jaxpr))
    return ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))


def of_name(value: Any) -> str:
    """How an object prints itself, without addresses."""
    return _ADDRESS.sub("", repr(value))


def of_augment(augment: Augment | None, example: Any) -> str:
    """Operations of an augmentation, and what it makes of a few numbers.

    Args:
      augment: (inputs, key) → inputs.
      example: shapes and types of inputs ``[1, ...]``.
    """
    if augment is None:
        return "none"
    key = jax.random.key(0)
    counted = of_function(augment, example, key)
    try:
        made = augment(jax.tree.map(_ramp, example), key)
        values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(made)])
    except Exception:  # likewise
        return counted
    values = values.astype(np.float64)
    mean, std = values.mean(), values.std()
    if abs(mean) < 1e-4 * std:  # what is left of a sum of 0 is another one elsewhere
        mean = 0.0
    return f"{counted}; mean {mean:.3g}, std {std:.3g}"


def of_optimizer(optimizer: OptimizerLike | None, params: Any) -> Any:
    """Settings of `Sgd`; of any other optimizer its first updates, on tiny kernels.

    Args:
      optimizer: as given to `fit`; None: the method's own.
      params: parameters of the network, of which names and shapes are used.
    """
    if optimizer is None:
        return "the method's"
    if isinstance(optimizer, Sgd):
        settings = dataclasses.asdict(optimizer).items()
        return {name: str(value) for name, value in settings}
    try:
        tx: Any = optimizer
        if not isinstance(tx, optax.GradientTransformation):
            tx = tx(_STEPS)
        sizes = jax.device_get(_first_updates(tx, _tiny(params)))
    except Exception as error:  # what it cannot do is said where it trains
        return f"{type(optimizer).__name__}, not tried ({type(error).__name__})"
    each = (" ".join(f"{size:.3g}" for size in step) for step in sizes)
    return f"updates of {', '.join(each)} (means, rho, others)"


def _operations(jaxpr: Jaxpr) -> Iterator[str]:
    """Names of what computes; wrappers of functions give what is inside."""
    for equation in jaxpr.eqns:
        called = list(inner(equation))
        if not called:
            yield equation.primitive.name
        for one in called:
            yield from _operations(one)


def _ramp(leaf: Any) -> jax.Array:
    """Numbers from 0 to 1 in the leaf's shape, or whole ones from 0 to 7."""
    count = int(np.prod(leaf.shape))
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        return jnp.linspace(0, 1, count, dtype=leaf.dtype).reshape(leaf.shape)
    return (jnp.arange(count) % 8).astype(leaf.dtype).reshape(leaf.shape)


def _tiny(params: Any) -> Trainable:
    """What an optimizer sees of a network, with 3 weights in every kernel."""
    kernels, rest = trees.split(params)
    values = jnp.asarray([-0.5, 0.25, 1.0])
    posterior = {path: Gaussian(values, values - 6) for path in kernels}
    return Trainable(posterior, jax.tree.map(_ramp, rest))


@partial(jax.jit, static_argnums=0)
def _first_updates(tx: Any, start: Trainable) -> jax.Array:
    """Mean sizes of the first updates ``[steps, 3]``: of means, of rho, of the rest."""
    gradients = jax.tree.map(lambda leaf: leaf + 0.125, start)

    def step(carry, scale):
        trainable, state = carry
        scaled = jax.tree.map(lambda g: scale.astype(g.dtype) * g, gradients)
        updates, state = tx.update(scaled, state, trainable)
        return (optax.apply_updates(trainable, updates), state), _sizes(updates)

    scales = jnp.asarray(_SCALES)
    return jax.lax.scan(step, (start, tx.init(start)), scales)[1]


def _sizes(updates: Any) -> jax.Array:
    means = [q.mean for q in updates.posterior.values()]
    rhos = [q.rho for q in updates.posterior.values()]
    groups = (means, rhos, jax.tree.leaves(updates.params))
    flat = [jnp.concatenate([*map(jnp.ravel, g), jnp.zeros(0)]) for g in groups]
    return jnp.stack([jnp.abs(v).sum() / max(v.size, 1) for v in flat])
