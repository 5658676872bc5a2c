"""A trained network in a format that others read: ONNX or StableHLO."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from ssvi_jax.core import optional, trees
from ssvi_jax.core.errors import InputError, check_count
from ssvi_jax.core.structure import Structure
from ssvi_jax.core.types import Masks, Weights
from ssvi_jax.io import artifact, container, stored_graph
from ssvi_jax.io.graph import Graph
from ssvi_jax.networks import network as network_lib
from ssvi_jax.networks import onnx_graph, trace_graph
from ssvi_jax.training import fitted
from ssvi_jax.training.fitted import Fitted
from ssvi_jax.vi import likelihoods, predictive
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi import posterior as posterior_lib

PLATFORMS = ("cpu", "cuda", "tpu")
"""Where an exported StableHLO program runs."""

_NOT_SYMBOLIC = (
    TypeError,
    NotImplementedError,
    jax.errors.InconclusiveDimensionOperation,
)
"""What a network raises that computes with the batch's length."""


def export(
    model: Fitted | str | Path,
    path: str | Path,
    *,
    samples: int | None = None,
    batch_size: int | None = None,
) -> int:
    """Writes a trained network for other programs; the file's suffix says which.

    What both give is float32: probabilities ``[n, classes]``; for another likelihood
    its mean ``[n, ...]``, where a number each is ``[n, 1]``; for a function the
    network's outputs. They take what the network takes: pixels where it takes pixels.

    ``.onnx``: the mean network with dense weights, in ONNX's operator set 13: input
    ``x``, output ``probabilities`` or ``mean``. It is made of the graph that
    `ssvi_jax.runtime` runs, so it has the same operations
    (`docs/deploy.md`), and a network of one's own needs no module. Needs the package
    onnx: ``pip install 'ssvi_jax[onnx]'``.

    ``.stablehlo``: a program of JAX for `PLATFORMS`, of any network on one array, also
    of ensembles. ``jax.export.deserialize(Path(path).read_bytes()).call(x)`` runs it,
    without this package and without the module. Needs the package flatbuffers, with
    which JAX writes and reads it: ``pip install 'ssvi_jax[stablehlo]'``.

    Args:
      model: what `fit` or `load` returned; or a model file.
      path: the file to write, ``.onnx`` or ``.stablehlo``.
      samples: None: the mean network (averaged over its members, if it has several);
        else draws of the weights of every member: the program's second argument is a
        seed (uint32), and the result ``[passes, n, ...]``, of which the average is
        what `Fitted.predict` gives with ``key=jax.random.key(seed)``. ``.stablehlo``
        only.
      batch_size: inputs a call; None: any number.

    Returns:
      The file's size in bytes.

    Raises:
      InputError: another suffix, samples in ONNX, a file that cannot be read or
        written, or a network that the format does not hold, by name.
    """
    path = container.path_of(path)
    if path.suffix not in _FORMATS:
        raise InputError(
            f"path: got {path.name!r}, allowed: a name that ends in "
            f"{' or '.join(_FORMATS)}."
        )
    container.check_file(path)
    for name, number in (("samples", samples), ("batch_size", batch_size)):
        if number is not None:
            check_count(name, number)
    if not isinstance(model, Fitted | str | Path):
        raise InputError(
            f"model: got a {type(model).__name__}, allowed: what ssvi_jax.fit or load "
            "returned, or the path of a model file."
        )
    content = _FORMATS[path.suffix](model, samples, batch_size)
    container.replace(path, content)
    return len(content)


# ONNX ---------------------------------------------------------------------------------


def _onnx(
    model: Fitted | str | Path, samples: int | None, batch_size: int | None
) -> bytes:
    if samples is not None:
        raise InputError(
            f"samples: got {samples} for an .onnx file, which holds the mean network, "
            "allowed: None; a .stablehlo file has draws."
        )
    onnx = optional.load("onnx", "path", "onnx")
    graph, weights, masks, config, classes = _parts(model)
    subspace = masks_lib.to_subspace(masks, weights.posterior)
    kernels = posterior_lib.sample(weights.posterior, subspace, None)
    try:
        ((_, dtype),) = trace_graph.inputs_of(config) or []
        made = onnx_graph.build(
            onnx,
            graph,
            [np.asarray(kernels[path]) for path in masks],
            [np.asarray(leaf) for leaf in trees.flatten(weights.params).values()],
            dtype=dtype,
            batch_size=batch_size,
            output="probabilities" if classes else "mean",
            softmax=classes,
        )
    except container.ERRORS as error:
        reason = str(error).split("\n")[0][:200]
        raise InputError(
            f"model: got a network that cannot be written as ONNX ({reason}); a "
            ".stablehlo file may hold it."
        ) from error
    return made.SerializeToString()


def _parts(
    model: Fitted | str | Path,
) -> tuple[Graph, Weights, Masks, Mapping[str, Any], bool]:
    """Graph, weights, masks, description, and whether the graph's output is logits."""
    if not isinstance(model, Fitted):
        file = artifact.load(model)
        if file.config.get("kind") == network_lib.OWN:
            graph = stored_graph.load(model)
            return graph, file.weights, file.masks(), file.config, True
        model = fitted.load(model)
    classes = isinstance(model.likelihood, likelihoods.Categorical)
    return _traced(model), model.weights, model.masks, model.describes, classes


def _traced(model: Fitted) -> Graph:
    """The graph of logits, or of the mean that another likelihood makes of outputs."""
    apply_fn: Any = model.apply_fn
    if not isinstance(model.likelihood, likelihoods.Categorical):
        apply_fn = _Mean(model)
    inputs = trace_graph.inputs_of(model.describes)
    graph = trace_graph.of_network(
        apply_fn, model.weights, model.masks, inputs, half=False
    )
    if isinstance(graph, str):
        raise InputError(
            f"model: got a network that ONNX does not get: {graph.removesuffix('.')}; "
            "a .stablehlo file may hold it."
        )
    return graph


class _Mean:
    """A network whose output is the mean of its likelihood."""

    def __init__(self, model: Fitted):
        self._model = model
        self.structure = getattr(model.apply_fn, "structure", Structure())
        self.num_members = predictive.num_members(model.apply_fn)

    def __call__(self, params, model_state, x, **options):
        output, state = self._model.apply_fn(params, model_state, x, **options)
        return _mean(self._model.likelihood, output), state


def _mean(likelihood: likelihoods.Likelihood, output: Any) -> Any:
    """What is expected of a label, of a network's output for a batch."""
    found = likelihood.features(output)
    if isinstance(likelihood, likelihoods.Categorical | likelihoods.Poisson):
        found = jnp.exp(found)
    elif isinstance(likelihood, likelihoods.Bernoulli):
        found = jax.nn.sigmoid(found)
    elif isinstance(likelihood, likelihoods.Normal):
        found = found[0]
    return jax.tree.map(lambda leaf: leaf[:, None] if leaf.ndim == 1 else leaf, found)


# StableHLO ----------------------------------------------------------------------------


def _stablehlo(
    model: Fitted | str | Path, samples: int | None, batch_size: int | None
) -> bytes:
    optional.load("flatbuffers", "path", "stablehlo")  # jax.export writes with it
    model = _loaded(model)
    inputs = trace_graph.inputs_of(model.describes)
    if inputs is None or len(inputs) != 1:
        raise InputError(
            "model: got a network whose inputs are not one array of known shape, "
            "allowed: one that was trained on one array."
        )
    ((shape, dtype),) = inputs
    of_mean, of_draws = _programs(model)
    (batch,) = (
        jax_export.symbolic_shape("n", constraints=["n >= 1"])
        if batch_size is None
        else (batch_size,)
    )
    arguments = [jax.ShapeDtypeStruct((batch, *shape[1:]), jnp.dtype(dtype))]
    program = of_mean
    if samples is not None:
        arguments.append(jax.ShapeDtypeStruct((), jnp.uint32))
        passes = predictive.num_passes(model.apply_fn, model.weights, samples)
        program = partial(of_draws, passes=passes)

    try:
        with _without_paths():
            made = jax_export.export(jax.jit(program), platforms=PLATFORMS)(*arguments)
    except _NOT_SYMBOLIC as error:
        if batch_size is not None:
            raise
        reason = str(error).split("\n")[0][:200]
        raise InputError(
            f"batch_size: got None, but this network needs a number ({reason}); give "
            "one, or write x.shape[0] for len(x) in the module."
        ) from error
    return bytes(made.serialize())


@contextmanager
def _without_paths() -> Iterator[None]:
    """Without the source files of operations, which JAX writes into a program."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def _loaded(model: Fitted | str | Path) -> Fitted:
    if isinstance(model, Fitted):
        return model
    file = artifact.load(model)
    network_lib.check_ours(file, model, then="; give what it returns")
    return fitted.load(model)


def _programs(model: Fitted) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The mean network of inputs, and draws of inputs, a seed, and their numbers."""
    apply_fn: Any = model.apply_fn
    subspace = masks_lib.to_subspace(model.masks, model.weights.posterior)
    members = predictive.num_members(apply_fn)

    def drawn(member, key):
        weights, selected = model.weights, subspace
        if hasattr(apply_fn, "one"):
            weights, selected = apply_fn.one(weights, selected, member, key)
        kernels = posterior_lib.sample(weights.posterior, selected, key)
        return trees.merge(weights.params, kernels), weights.model_state

    def output(params, model_state, x):
        fixed = {"train": False, "key": jax.random.key(0)}
        return _mean(model.likelihood, apply_fn(params, model_state, x, **fixed)[0])

    # The means are computed now, so that the program holds them dense.
    means = [jax.jit(drawn)(member, None) for member in range(members)]

    def of_mean(x):
        each = [output(params, state, x) for params, state in means]
        return jax.tree.map(lambda *leaves: sum(leaves) / members, *each)

    def of_draws(x, seed, passes):
        key, each = jax.random.key(seed), passes // members

        def one(i):
            params, state = drawn(i // each, jax.random.fold_in(key, i))
            return output(params, state, x)

        return jax.lax.map(one, jnp.arange(passes))

    return of_mean, of_draws


_FORMATS = {".onnx": _onnx, ".stablehlo": _stablehlo}
"""Suffix → (model, samples, batch_size) → the file's content."""
