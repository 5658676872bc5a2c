"""A `flax.linen` module as an `ApplyFn`.

Dense and convolution layers do their product through a replaceable function
(`dot_general`, `conv_general_dilated`). The library's own (`layers.Products`) is put
there for the length of one call; everything else in the model runs as written.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import flax.linen as nn
import jax
from flax.errors import ModifyScopeVariableError

from ssvi_jax.core import trees
from ssvi_jax.core.types import ModelState, Params
from ssvi_jax.networks import batch_norm, flax_model
from ssvi_jax.networks.layers import Products
from ssvi_jax.ops import shard

_STATISTICS = "batch_stats"
"""Linen's collection of running statistics."""


class LinenModel(flax_model.FlaxModel):
    """A `flax.linen` module as an `ApplyFn`.

    A call argument named `train`, `training`, `is_training`, `deterministic` or
    `use_running_average` is set from `train`, and so is a field of the module that has
    such a name and holds a bool. Dropout and every other random stream draw from the
    key given. What a module sows is not kept.

    Args:
      module: the module, unbound.
    """

    def __init__(self, module: nn.Module):
        super().__init__(module, _immutable(module))
        self.module = module
        fields = {f.name: getattr(module, f.name) for f in dataclasses.fields(module)}
        self._fields = {
            name: fn
            for name, fn in flax_model.TRAIN_ARGUMENTS.items()
            if name not in self._arguments and isinstance(fields.get(name), bool)
        }

    def init(self, key: jax.Array, x: flax_model.Example) -> tuple[Params, ModelState]:
        """Full parameters and running statistics for inputs like `x`."""
        variables = _init(self, key, x)
        params = variables.pop("params", {})
        return params, self._lasting(params, variables, x)

    def _lasting(self, params: Params, variables: ModelState, x: Any) -> ModelState:
        """The variables that a forward pass does not add to, unlike sown ones."""
        if jax.tree_util.all_leaves(trees.flatten(variables).values()):
            return variables  # nothing but arrays: nothing can grow
        module, kwargs = self._set(train=True)
        apply = partial(module.apply, mutable=list(variables), **kwargs)
        streams, given = _streams(jax.random.key(0)), {"params": params, **variables}
        _, after = jax.eval_shape(apply, given, x, rngs=streams)
        after, before = trees.flatten(after), trees.flatten(variables)
        return trees.unflatten(
            {
                path: value
                for path, value in before.items()
                if jax.tree.structure(after[path]) == jax.tree.structure(value)
            }
        )

    def _statistics(self, model_state):
        return [
            p for p in trees.flatten(model_state) if p.startswith(f"{_STATISTICS}/")
        ]

    def _set(self, *, train: bool) -> tuple[nn.Module, dict[str, Any]]:
        """The module, told by its fields whether it trains, and what tells its call."""
        fields: Any = {name: fn(train) for name, fn in self._fields.items()}
        module = self.module.clone(**fields) if fields else self.module
        return module, self._kwargs(train=train)

    def _apply(self, products, params, model_state, x, *, train):
        def interceptor(next_fun, args, kwargs, context):
            if batch_norm.takes(products, context, args, kwargs):
                return batch_norm.apply(context.module, args[0])
            with batch_norm.over_shards(context), _own_product(context, products):
                return next_fun(*args, **kwargs)

        module, kwargs = self._set(train=train)
        with nn.intercept_methods(interceptor), _refusing_statistics(train=train):
            output, new_state = module.apply(
                {"params": params, **model_state},
                x,
                rngs=_streams(products.key),
                mutable=[c for c in model_state if train or c != _STATISTICS],
                **kwargs,
            )
        return output, flax_model.kept(new_state, model_state) if train else model_state


@partial(jax.jit, static_argnums=0)
def _init(model: LinenModel, key: jax.Array, x: Any) -> dict[str, Any]:
    module, kwargs = model._set(train=False)
    return nn.meta.unbox(module.init(_streams(key), x, **kwargs))


def _immutable(field: Any) -> Any:
    """A field with tuples for its lists, as those of `nn.Sequential` have no hash."""
    if isinstance(field, nn.Module):
        names = [f.name for f in dataclasses.fields(field) if f.name != "parent"]
        values = {name: getattr(field, name) for name in names}
        changed = {
            name: made
            for name, value in values.items()
            if (made := _immutable(value)) is not value
        }
        return field.clone(**changed) if changed else field
    if isinstance(field, list | tuple):
        made = tuple(map(_immutable, field))
        alike = all(new is old for new, old in zip(made, field, strict=True))
        return field if alike and isinstance(field, tuple) else made
    return field


@contextmanager
def _refusing_statistics(*, train: bool) -> Iterator[None]:
    """Explains why a module may not write what is immutable in evaluation."""
    try:
        yield
    except ModifyScopeVariableError as error:
        if train or f'"{_STATISTICS}"' not in str(error):
            raise
        raise flax_model.writes_statistics(str(error).split(" because")[0]) from error


def _streams(key: jax.Array) -> dict[str, jax.Array]:
    """Dropout's random stream, and the one that linen takes for any other name.

    In parts of a batch each has its own: the library draws for the examples it sees.
    """
    key = shard.own(key)
    return {"dropout": jax.random.fold_in(key, 0), "params": jax.random.fold_in(key, 1)}


@contextmanager
def _own_product(context, products: Products) -> Iterator[None]:
    """Puts the library's product into a Dense or Conv for the length of its call."""
    module, name = context.module, None
    if context.method_name == "__call__":
        if isinstance(module, (nn.Dense, nn.DenseGeneral)):
            name = "dot_general"
        elif isinstance(module, nn.Conv) and module.mask is None:
            name = "conv_general_dilated"
    # A product that the user chose is left alone; its layer sees the sampled weights.
    if name is None or getattr(module, name) or getattr(module, f"{name}_cls", None):
        yield
        return
    path = trees.join((*module.path, "kernel"))
    # Linen modules are frozen; this is undone before anyone else can look.
    own = getattr(products, name)(path, lambda: module.get_variable("params", "kernel"))
    object.__setattr__(module, name, own)
    try:
        yield
    finally:
        object.__setattr__(module, name, None)
