"""Any unmodified Flax model, linen or nnx, as an `ApplyFn`.

Dense and convolution layers of both libraries do their product through a replaceable
function (`dot_general`, `conv_general_dilated`). The adapters put the library's own
product (`products`) there for the length of one call; everything else in the model runs
as written. Layers of any other kind see the sampled weights, so every Bayesian kernel
is stochastic whichever layer owns it.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import ApplyFn, ModelState, PackedKernel, Params
from ssvi_jax.networks import batch_norm
from ssvi_jax.networks.dropout import Dropout
from ssvi_jax.networks.layers import Factors, Layer, Products
from ssvi_jax.ops import shard

Example = jax.Array | jax.ShapeDtypeStruct
"""An input ``[batch, ...]`` of which only shape and type are read."""

TRAIN_ARGUMENTS = {
    "train": lambda train: train,
    "training": lambda train: train,
    "is_training": lambda train: train,
    "deterministic": lambda train: not train,
    "use_running_average": lambda train: not train,
}
"""Arguments of a model's call that say whether it trains."""


def _train_arguments(call: Callable[..., Any]) -> dict[str, Callable[[bool], bool]]:
    names = inspect.signature(call).parameters
    return {name: fn for name, fn in TRAIN_ARGUMENTS.items() if name in names}


class _FlaxModel:
    """What the two adapters share: the signature of an `ApplyFn`."""

    def __init__(self, module: nn.Module | nnx.Module):
        self._arguments = _train_arguments(type(module).__call__)

    def __call__(
        self,
        params: Params,
        model_state: ModelState,
        x: jax.Array,
        *,
        train: bool,
        key: jax.Array,
        kernels: Mapping[str, PackedKernel] | None = None,
        factors: Mapping[str, Factors] | None = None,
        dropout: Dropout | None = None,
    ) -> tuple[jax.Array, ModelState]:
        """See `types.ApplyFn`; `factors` are rank-1 factors of kernels.

        With `dropout` the inputs of every Dense and Conv layer but the first are
        dropped, whatever `train` is.
        """
        products = Products(params, kernels, key, factors, dropout)
        return self._apply(products, params, model_state, x, train=train)

    def layers(
        self, params: Params, model_state: ModelState, x: Example
    ) -> list[Layer]:
        """The products of one forward pass in the order they run (nothing is run).

        A kernel that is applied several times, as a recurrent one, is one of them.
        """
        found: dict[str, Layer] = {}
        for call in self._traced(params, model_state, x).calls:
            before = found.get(call.path, call._replace(positions=0))
            positions = before.positions + call.positions
            found[call.path] = call._replace(positions=positions)
        return list(found.values())

    def channels(
        self, params: Params, model_state: ModelState, x: Example
    ) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Kernels that can have factors, and of which shapes: `Products.channels`."""
        return self._traced(params, model_state, x).channels

    def _traced(self, params: Params, model_state: ModelState, x: Example) -> Products:
        def apply(params, model_state, x):
            products = Products(params, None, jax.random.key(0))
            self._apply(products, params, model_state, x, train=False)
            found.append(products)

        found: list[Products] = []
        one = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
        jax.eval_shape(apply, params, model_state, one)
        return found[0]

    def _kwargs(self, *, train: bool) -> dict[str, Any]:
        return {name: fn(train) for name, fn in self._arguments.items()}

    def _apply(self, products, params, model_state, x, *, train):
        raise NotImplementedError


class LinenModel(_FlaxModel):
    """A `flax.linen` module as an `ApplyFn`.

    A call argument named `train`, `training`, `is_training`, `deterministic` or
    `use_running_average` is set from `train`; dropout and every other random stream
    draw from the key given.

    Args:
      module: the module, unbound.
    """

    def __init__(self, module: nn.Module):
        super().__init__(module)
        self.module = module

    def init(self, key: jax.Array, x: jax.Array) -> tuple[Params, ModelState]:
        """Full parameters and running statistics for inputs like `x`."""

        @jax.jit
        def init(key, x):
            kwargs = self._kwargs(train=False)
            return nn.meta.unbox(self.module.init(_streams(key), x, **kwargs))

        variables = init(key, x)
        params = variables.pop("params", {})
        return params, variables

    def _apply(self, products, params, model_state, x, *, train):
        def interceptor(next_fun, args, kwargs, context):
            if batch_norm.takes(products, context, args, kwargs):
                return batch_norm.apply(context.module, args[0])
            with batch_norm.over_shards(context), _own_product(context, products):
                return next_fun(*args, **kwargs)

        with nn.intercept_methods(interceptor):
            output, new_state = self.module.apply(
                {"params": params, **model_state},
                x,
                rngs=_streams(products.key),
                mutable=list(model_state),
                **self._kwargs(train=train),
            )
        return output, {**model_state, **new_state} if train else model_state


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


class NnxModel(_FlaxModel):
    """A `flax.nnx` module as an `ApplyFn`; the module itself is not changed.

    Args:
      module: the module, with its parameters.
    """

    def __init__(self, module: nnx.Module):
        super().__init__(module)
        self._graph, params, rngs, rest = nnx.split(
            module, nnx.Param, nnx.RngState, ...
        )
        self._templates = (params, rest)
        self._rngs = rngs

    def init(self) -> tuple[Params, ModelState]:
        """The module's own parameters and its other variables."""
        params, rest = (_from_nnx(template) for template in self._templates)
        return params, rest

    def _apply(self, products, params, model_state, x, *, train):
        params_state = _to_nnx(params, self._templates[0])
        rest_state = _to_nnx(model_state, self._templates[1])
        key = jax.random.fold_in(shard.own(products.key), 0)
        rngs = _reseed(self._rngs, key)
        module = nnx.merge(self._graph, params_state, rngs, rest_state, copy=True)
        module.train() if train else module.eval()
        _own_products(module, products)
        output = module(x, **self._kwargs(train=train))
        if not train:
            return output, model_state
        # Only what the module had before its call: it may have sown intermediates.
        names = {path for path, _ in nnx.to_flat_state(self._templates[1])}
        return output, _from_nnx(nnx.state(module, lambda path, _: path in names))


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


def model_of(module: nn.Module | nnx.Module) -> "LinenModel | NnxModel":
    """The apply function of a Flax module.

    Raises:
      InputError: not a Flax module.
    """
    if isinstance(module, nnx.Module):
        return NnxModel(module)
    if isinstance(module, nn.Module):
        return LinenModel(module)
    raise InputError(
        f"module: got {type(module).__name__}, allowed: a flax.linen or flax.nnx "
        "module; for anything else write a function with types.ApplyFn's signature."
    )


def from_flax(
    module: nn.Module | nnx.Module,
    x: ArrayLike | None = None,
    *,
    key: jax.Array | None = None,
) -> tuple[ApplyFn, Params, ModelState]:
    """An apply function, parameters and running statistics of any Flax model.

    Args:
      module: a `flax.linen` module (unbound) or a `flax.nnx` module.
      x: an example input ``[batch, ...]``; needed for linen.
      key: random key of the initialization; needed for linen.

    Raises:
      InputError: not a Flax module, or `x` or `key` missing for a linen module.
    """
    model = model_of(module)
    if isinstance(model, NnxModel):
        return model, *model.init()
    if x is None or key is None:
        raise InputError("x, key: both are needed to initialize a flax.linen module.")
    return model, *model.init(key, jnp.asarray(x))
