"""Weight decay is for weights: standard deviations are the prior's affair.

An optimizer that decays (AdamW, Lion, `optax.add_decayed_weights`) pulls all that it
optimizes to 0, and rho = 0 is σ = 0.69, far above any useful one. It pulls by the
values that it is given, so it is given 0 for every rho, wherever that does nothing
else. An optimizer that needs the values (Adafactor and LAMB scale their steps by them,
schedule-free compares them with its copies) gets them, and is refused if it decays.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import GetAttrKey, tree_map_with_path

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Gaussian
from ssvi_jax.vi.state import Trainable

_COUNTS = (0, 1, 2, 3, 100)
"""Steps at which decay is looked for: a rate that warms up from 0 has none at first."""


def means_only(trainable: Trainable) -> Trainable:
    """True for means and deterministic parameters, False for every rho.

    A mask for weight decay, as in ``optax.lamb(1e-3, mask=vi.means_only)``.
    """

    def is_mean(path, _):
        match path:
            case (GetAttrKey("posterior"), _, GetAttrKey("rho")):
                return False
        return True

    return tree_map_with_path(is_mean, trainable)


def without_rho(trainable: Trainable) -> Trainable:
    """The same with 0 for every rho."""
    return _with_rhos(trainable, jax.tree.map(jnp.zeros_like, _rhos(trainable)))


def seen(trainable: Trainable, *, hides_rho: bool) -> Trainable:
    """What an optimizer is given as the parameters."""
    return without_rho(trainable) if hides_rho else trainable


def hides_rho(
    tx: optax.GradientTransformation, trainable: Trainable, *, keeps_values: bool
) -> bool:
    """Whether an optimizer is to be given 0 for every rho.

    Args:
      tx: the optimizer.
      trainable: a small one.
      keeps_values: whether its state has copies of the parameters.

    Raises:
      InputError: it decays rho, and needs its value for something else.
    """
    if not _rhos(trainable) or not (keeps_values or _is_entangled(tx, trainable)):
        return bool(_rhos(trainable))
    if _decays(tx, trainable):
        raise InputError(
            "tx: its weight decay pulls rho to 0, so that sigma grows, needed: decay "
            "of means only. Give it the mask vi.means_only, as in optax.lamb(1e-3, "
            "mask=vi.means_only), or ask for it with VI(decay_sigma=True)."
        )
    return False


def _is_entangled(tx: optax.GradientTransformation, trainable: Trainable) -> bool:
    """Whether the step of rho is anything but a function of the rest + c · rho.

    c may depend on what is not a tree of the parameters (a count, a learning rate).
    """

    def slope(rhos, grads, leaves):
        def step(rhos):
            seen = _with_rhos(trainable, rhos)
            opt_state = jax.tree.unflatten(structure, leaves)
            return _rhos(tx.update(grads, opt_state, seen)[0])

        return jax.jvp(step, (rhos,), (jax.tree.map(jnp.ones_like, rhos),))[1]

    with jax.ensure_compile_time_eval():
        leaves, structure = jax.tree.flatten(tx.init(trainable))
    rhos = _rhos(trainable)
    jaxpr = jax.make_jaxpr(slope)(rhos, trainable, leaves).jaxpr
    marked = [True] * len(jax.tree.leaves((rhos, trainable)))
    return any(_reached(jaxpr, marked + [jnp.ndim(leaf) > 0 for leaf in leaves]))


def _reached(jaxpr: Any, marked: Sequence[bool]) -> list[bool]:
    """Which outputs are computed from marked inputs.

    What only chooses between values (as clipping does) does not count.
    """
    found = {v for v, is_in in zip(jaxpr.invars, marked, strict=True) if is_in}
    for eqn in jaxpr.eqns:
        given = [not hasattr(v, "val") and v in found for v in eqn.invars]
        if eqn.primitive.name == "select_n":
            given[0] = False
        if "jaxpr" in eqn.params and eqn.primitive.name in ("jit", "pjit"):
            out = _reached(eqn.params["jaxpr"].jaxpr, given)
        elif "branches" in eqn.params:
            each = [_reached(b.jaxpr, given[1:]) for b in eqn.params["branches"]]
            out = [any(outs) for outs in zip(*each, strict=True)]
        else:
            out = [any(given)] * len(eqn.outvars)
        found.update(v for v, is_in in zip(eqn.outvars, out, strict=True) if is_in)
    return [not hasattr(v, "val") and v in found for v in jaxpr.outvars]


def _decays(tx: optax.GradientTransformation, trainable: Trainable) -> bool:
    """Whether without a gradient every rho moves to 0, and stays where it is 0.

    Rounding moves some too, but not every one.
    """

    @jax.jit
    def step(seen, count):
        opt_state = jax.tree.map(
            lambda a: jnp.full_like(a, count) if _is_count(a) else a, tx.init(seen)
        )
        grads = jax.tree.map(jnp.zeros_like, seen)
        return _rhos(tx.update(grads, opt_state, seen)[0])

    with jax.ensure_compile_time_eval():
        params = jax.tree.map(jnp.zeros_like, trainable.params)
        trainable = trainable._replace(params=params)
        rhos, zero = _rhos(trainable), without_rho(trainable)
        pulled = [
            all((rhos[path] * u < 0).all() for path, u in step(trainable, n).items())
            for n in _COUNTS
        ]
        return any(pulled) and not any(
            jnp.any(u) for n in _COUNTS for u in step(zero, n).values()
        )


def _is_count(leaf: jax.Array) -> bool:
    return jnp.ndim(leaf) == 0 and jnp.issubdtype(leaf.dtype, jnp.integer)


def _rhos(trainable: Any) -> dict[str, Any]:
    posterior = trainable.posterior.items()
    return {path: q.rho for path, q in posterior if isinstance(q, Gaussian)}


def _with_rhos(trainable: Trainable, rhos: dict[str, Any]) -> Trainable:
    posterior = {
        path: q._replace(rho=rhos[path]) if isinstance(q, Gaussian) else q
        for path, q in trainable.posterior.items()
    }
    return trainable._replace(posterior=posterior)
