"""A `flax.nnx` module as an `ApplyFn`; see `linen_model` for how."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ssvi_jax.core import trees
from ssvi_jax.core.types import KernelShape, ModelState, Params
from ssvi_jax.networks import batch_norm, flax_model
from ssvi_jax.networks.layers import Products
from ssvi_jax.ops import shard


class NnxModel(flax_model.FlaxModel):
    """A `flax.nnx` module as an `ApplyFn`; the module itself is not changed.

    It is put into training or evaluation mode, and so are attributes of its parts that
    are named as arguments that say so (`flax_model.TRAIN_ARGUMENTS`) and hold a bool.

    Args:
      module: the module, with its parameters.
    """

    def __init__(self, module: nnx.Module):
        self._graph, params, rngs, rest = nnx.split(
            module, nnx.Param, nnx.RngState, ...
        )
        super().__init__(module, (self._graph, _counts(rngs)))
        self.kernel_shapes = _declared(module)
        self._templates = (params, rest)
        self._rngs = rngs

    draws = False
    """It has parameters, and does not know how to draw others."""

    def init(self, key: Any = None, x: Any = None) -> tuple[Params, ModelState]:
        """The module's own parameters and its other variables, whatever the key."""
        del key, x
        params, rest = (_from_nnx(template) for template in self._templates)
        return params, rest

    def _statistics(self, model_state):
        flat = nnx.to_flat_state(self._templates[1])
        names = [trees.join(p) for p, leaf in flat if isinstance(leaf, nnx.BatchStat)]
        return [name for name in names if name in trees.flatten(model_state)]

    def _apply(self, products, params, model_state, x, *, train):
        params_state = _to_nnx(params, self._templates[0])
        rest_state = _to_nnx(model_state, self._templates[1])
        key = jax.random.fold_in(shard.own(products.key), 0)
        rngs = _reseed(self._rngs, key)
        module = nnx.merge(self._graph, params_state, rngs, rest_state, copy=True)
        _set_mode(module, train=train)
        _own_products(module, products)
        output = module(x, **self._kwargs(train=train))
        if not train:
            return output, model_state
        # Only what the module had before its call: it may have sown intermediates.
        names = {path for path, _ in nnx.to_flat_state(self._templates[1])}
        new_state = _from_nnx(nnx.state(module, lambda path, _: path in names))
        return output, flax_model.kept(new_state, model_state)


def _counts(rngs: nnx.State) -> tuple[Any, ...]:
    """How often each random stream was drawn from, where numbers go on."""
    values = [variable[...] for _, variable in nnx.to_flat_state(rngs)]
    return tuple(
        tuple(np.ravel(value).tolist())
        for value in values
        if not jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    )


def _set_mode(module: nnx.Module, *, train: bool) -> None:
    """Tells a module, and all in it, whether it trains."""
    module.train() if train else module.eval()
    for _, part in nnx.iter_modules(module):
        for name, fn in flax_model.TRAIN_ARGUMENTS.items():
            if isinstance(vars(part).get(name), bool):
                setattr(part, name, fn(train))
    if not train:
        for _, node in nnx.iter_graph(module):
            if isinstance(node, nnx.BatchStat):
                node.set_metadata(on_set_value=_refuse_statistics)


def _refuse_statistics(variable: nnx.Variable, value: Any) -> Any:
    del value
    raise flax_model.writes_statistics(f"a {type(variable).__name__}")


def _declared(module: nnx.Module) -> dict[str, KernelShape]:
    """What layers say of their kernels, in the order in which modules define them.

    It is all that is known of a module without an example of its inputs.
    """
    found = []
    for path, layer in nnx.iter_modules(module):
        fields = vars(layer)
        if not {"kernel", "in_features", "out_features"} <= fields.keys():
            continue
        window = _tuple(fields.get("kernel_size", ()))
        inputs, outputs = (
            math.prod(_tuple(fields[name])) for name in ("in_features", "out_features")
        )
        inputs //= fields.get("feature_group_count", 1)
        shape = KernelShape(fields["kernel"].shape, (*window, inputs, outputs))
        found.append((_rank(module, path), trees.join((*path, "kernel")), shape))
    return {path: shape for _, path, shape in sorted(found)}


def _rank(node: Any, path: tuple[Any, ...]) -> tuple[int, ...]:
    """Where the modules along a path stand among what defines them."""
    ranks = []
    for name in map(str, path):
        if isinstance(node, nnx.Pytree):
            fields = vars(node)
        else:
            items = node.items() if isinstance(node, Mapping) else enumerate(node)
            fields = {str(key): value for key, value in items}
        ranks.append(list(fields).index(name))
        node = fields[name]
    return tuple(ranks)


def _tuple(value: Any) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


def _own_products(module: nnx.Module, products: Products) -> None:
    for path, layer in nnx.iter_modules(module):
        batch_norm.name_axis(layer)
        if isinstance(layer, (nnx.Linear, nnx.LinearGeneral)):
            name = "dot_general"
        elif isinstance(layer, nnx.Conv) and layer.mask is None:
            name = "conv_general_dilated"
        else:
            continue
        chosen = getattr(layer, f"{name}_cls", None) or getattr(layer, name)
        if chosen in (None, getattr(jax.lax, name)):
            kernel_path = trees.join((*path, "kernel"))
            own = getattr(products, name)(kernel_path, partial(_held, layer))
            setattr(layer, name, own)


def _held(layer: nnx.Linear | nnx.LinearGeneral | nnx.Conv) -> jax.Array:
    return layer.kernel.get_value()


def _from_nnx(state: nnx.State) -> dict[str, Any]:
    flat = nnx.to_flat_state(state)
    return trees.unflatten({trees.join(path): _value(leaf) for path, leaf in flat})


def _to_nnx(tree: Mapping[str, Any], template: nnx.State) -> nnx.State:
    values, flat = trees.flatten(tree), []
    for path, leaf in nnx.to_flat_state(template):
        value = values[trees.join(path)]
        is_variable = isinstance(leaf, nnx.Variable)
        flat.append((path, leaf.replace(value) if is_variable else value))
    return nnx.from_flat_state(flat)


def _value(leaf: Any) -> jax.Array:
    """The array of a variable; modules may also hold arrays as they are."""
    return leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf


def _reseed(rngs: nnx.State, key: jax.Array) -> nnx.State:
    """Random streams of a module, made a function of `key` alone."""
    flat = []
    for i, (path, variable) in enumerate(nnx.to_flat_state(rngs)):
        value = variable[...]
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            shape, impl = jax.random.key_data(value).shape, jax.random.key_impl(value)
            data = jax.random.bits(jax.random.fold_in(key, i), shape, jnp.uint32)
            variable = variable.replace(jax.random.wrap_key_data(data, impl=impl))
        flat.append((path, variable))
    return nnx.from_flat_state(flat)
