"""What an optimizer keeps of every coordinate, and what that begins with.

A coordinate that enters the subspace must find the optimizer as it would be had it been
there from the start, so a moment is 0, Adagrad's accumulator is its first value, and a
copy of the parameters (schedule-free's z, DoG's first point) is the parameter. No
optimizer is known by name: `traits` initializes it on two small posteriors of different
sizes and looks which leaves change their size, and what is in them.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax.tree_util import DictKey, GetAttrKey, keystr, tree_flatten_with_path

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Gaussian, Point, Posterior
from ssvi_jax.vi import weight_decay
from ssvi_jax.vi.state import Trainable, Traits

COPY = "copy"
"""What a leaf begins with that is a copy of the parameter itself."""

_SIZES = (7, 5)


def traits(
    tx: optax.GradientTransformation, trainable: Trainable, *, decay_sigma: bool
) -> Traits:
    """What has to be known of an optimizer.

    Args:
      tx: the optimizer.
      trainable: what it optimizes; of the posterior only the structure is used.
      decay_sigma: whether its weight decay may pull rho too.

    Raises:
      InputError: it cannot make a step on such a tree, or its weight decay pulls rho,
        which was not asked for and cannot be left out (see `weight_decay`).
    """
    _check_step(tx, trainable)
    probes = [_probe(trainable, size) for size in _SIZES]
    with jax.ensure_compile_time_eval():
        states = [tx.init(probe) for probe in probes]
    (first, structure), (second, other) = map(tree_flatten_with_path, states)
    starts, lost = [], ""
    if structure != other:
        lost = f"{type(states[0]).__name__}, whose structure depends on the sizes"
    else:
        for (path, a), (_, b) in zip(first, second, strict=True):
            start = None
            if np.shape(a) != np.shape(b):  # so it holds kept weights
                start = _start(path, (a, b), probes)
                if start is None and not lost:
                    lost = f"{_owner(states[0], path)} (at {keystr(path)})"
            starts.append(start)
    hides_rho = not decay_sigma and weight_decay.hides_rho(
        tx, probes[0], keeps_values=COPY in starts
    )
    return Traits(structure, tuple(starts), lost, hides_rho)


def check_movable(opt_state: optax.OptState, traits: Traits) -> None:
    """Refuses a state that cannot follow when kept weights leave and enter.

    Raises:
      InputError: it holds them in another way than one value each in a tree like
        `vi.Trainable`, or it is not the state that the traits are of.
    """
    if traits.lost:
        raise InputError(
            f"tx: got an optimizer with {traits.lost}, which cannot follow when kept "
            "weights leave and enter, allowed: one whose state has a value for each in "
            "trees like vi.Trainable and begins with constants or the weights (most of "
            "optax; not optax.flatten or L-BFGS). Choose another, or keep the masks."
        )
    if jax.tree.structure(opt_state) != traits.structure:
        raise InputError(
            "state.opt_state: got the state of another optimizer than VI.init saw, "
            "needed: that one's; for a new optimizer take opt_state and traits of its "
            "own VI.init."
        )


def moved(
    opt_state: optax.OptState,
    traits: Traits,
    posterior: Posterior,
    move: Callable[[str, jax.Array, Any], jax.Array],
) -> optax.OptState:
    """An optimizer's state on other coordinates; inside or outside of jit.

    Args:
      opt_state: the state.
      traits: what its leaves begin with.
      posterior: the posterior on the new coordinates.
      move: (kernel path, values ``[s]``, what new ones begin with) → values ``[s]``.
    """
    leaves, structure = tree_flatten_with_path(opt_state)
    new = []
    for (path, leaf), start in zip(leaves, traits.starts, strict=True):
        if start is not None:
            kernel, field = _place(path)
            fill = getattr(posterior[kernel], field) if start == COPY else start
            leaf = move(kernel, leaf, fill)
        new.append(leaf)
    return jax.tree.unflatten(structure, new)


def _check_step(tx: optax.GradientTransformation, trainable: Trainable) -> None:
    def step(trainable):
        return tx.update(trainable, tx.init(trainable), trainable)[0]

    try:
        made = jax.eval_shape(step, trainable)
    except Exception as error:
        raise InputError(
            f"tx: its step fails on vi.Trainable ({type(error).__name__}: {error}), "
            "needed: one that takes gradients, state and parameters, and parameters of "
            "any tree (not optax.lookahead, nor L-BFGS with a line search)."
        ) from error
    if jax.tree.structure(made) != jax.tree.structure(trainable):
        raise InputError(
            f"tx: got updates of structure {jax.tree.structure(made)}, needed: that of "
            "vi.Trainable, which it was given."
        )


def _probe(trainable: Trainable, size: int) -> Trainable:
    """The same tree with `size` weights a kernel, all different, exact in any type."""
    mean = (np.arange(size, dtype=np.float32) - size // 2) / 4 + 1 / 8
    posterior: dict[str, Gaussian | Point] = {}
    with jax.ensure_compile_time_eval():
        for path, packed in trainable.posterior.items():
            values = [jax.numpy.asarray(v) for v in (mean, -mean - 1)]
            posterior[path] = type(packed)(*values[: len(packed)])
    return Trainable(posterior, trainable.params)


def _place(path: tuple[Any, ...]) -> tuple[str, str]:
    """Kernel and field of a leaf in a tree like `Trainable`; "", "": elsewhere."""
    match path:
        case (*_, GetAttrKey("posterior"), DictKey(kernel), GetAttrKey(field)):
            return kernel, field
    return "", ""


def _start(path, leaves, probes: list[Trainable]) -> float | str | None:
    """What these two leaves of the probes begin with; None: they cannot be moved."""
    kernel, field = _place(path)
    if not field or [np.shape(leaf) for leaf in leaves] != [(n,) for n in _SIZES]:
        return None
    values = np.concatenate([np.asarray(leaf, np.float64) for leaf in leaves])
    if (values == values[0]).all() and math.isfinite(values[0]):
        return float(values[0])
    given = [getattr(probe.posterior[kernel], field) for probe in probes]
    return COPY if (values == np.concatenate(given)).all() else None


def _owner(node: Any, path: tuple[Any, ...]) -> str:
    """Name of the innermost optimizer state that holds a leaf."""
    name = type(node).__name__
    for key in path:
        if isinstance(node, Trainable):
            break
        if hasattr(node, "_fields"):
            name = type(node).__name__
        match key:
            case GetAttrKey(field):
                node = getattr(node, field)
            case DictKey(entry):
                node = node[entry]
            case _:
                node = node[key.idx]
    return name
