"""`fit`: any method, on any Flax model, on any data, in one call."""

import functools
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.structure import Structure
from ssvi_jax.core.types import (
    Augment,
    Data,
    Masks,
    Params,
    Weights,
)
from ssvi_jax.methods.base import Method
from ssvi_jax.methods.problem import OptimizerLike, Problem
from ssvi_jax.networks.describe import layers_of
from ssvi_jax.networks.learned_noise import NOISE, WithNoise
from ssvi_jax.networks.structured import Structured
from ssvi_jax.networks.triple import taken_by
from ssvi_jax.training import arguments, data_check, fingerprint
from ssvi_jax.training.callbacks import (
    Callback,
    CallbackLike,
    Describing,
    History,
    as_callback,
)
from ssvi_jax.training.data_check import Network
from ssvi_jax.training.feeds import Batches
from ssvi_jax.training.fitted import Fitted, describe_model
from ssvi_jax.training.interrupt import Interrupt
from ssvi_jax.training.saving import Saving
from ssvi_jax.training.session import Asked, Trained, train
from ssvi_jax.training.source import Source, as_given, prepare, seed_of
from ssvi_jax.training.validation import Validation
from ssvi_jax.vi import likelihoods
from ssvi_jax.vi.execution import Execution

_GIVE = "give from_flax(module, x[:1]) such inputs, or other data"


def fit(
    method: Method,
    network: Network,
    data: Any,
    *,
    key: jax.Array | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    batch_size: int = 128,
    inner_steps: int | None = None,
    likelihood: likelihoods.LikelihoodLike = likelihoods.Categorical(),  # noqa: B008
    optimizer: OptimizerLike | None = None,
    augment: Augment | None = None,
    validation: float | Data | None = None,
    start: Fitted | Params | None = None,
    callbacks: Sequence[CallbackLike] = (),
    folder: str | Path | None = None,
    execution: Execution = Execution(),  # noqa: B008 (immutable)
) -> Fitted:
    """Trains a network by a method, and returns what predicts with uncertainty.

    Args:
      method: what to train, with its settings: ``SSVI(sparsity=0.95)``, ``RigL()`` …
      network: what `from_flax` returns: function, parameters, running statistics.
      data: inputs and labels, each an array of n rows or a pytree of such arrays (lists
        of numbers and data frames too); or `Batches`, where they do not fit into
        memory.
      key: random key of everything; None: ``jax.random.key(0)``.
      steps: length of the training, rounded up to whole phases; or give one of:
      epochs: passes over the training data;
      minutes: the first phases are timed, and the schedule gets its length.
      batch_size: examples in a step; all of them where there are fewer. `Batches` have
        their own. An epoch has whole batches: the rest of its examples, others every
        epoch, is left out.
      inner_steps: M, steps of a phase, between two swaps; None: a twentieth of the
        training, between 10 and 100.
      likelihood: of the labels: `Categorical`, `Bernoulli`, `Normal`, `Poisson`, or a
        function (output, labels) → log p ``[batch]`` in nats.
      optimizer: any of optax, a function of the number of steps that makes one, or
        `Sgd`; None: the method's own, mostly Adam with a rate that rises to 0.01 and
        falls to 0 (see `problem.adam`).
      augment: (inputs, key) → inputs, random, inside jit.
      validation: inputs and labels that are not trained on, or a fraction of the data
        to take for it: scored at the end of every phase that ends an epoch, and of the
        last; the network with the lowest NLL is returned.
      start: a trained network like this one, sparse or dense, to begin from: its
        largest weights are the first masks and means. What `fit` returned, or full
        parameters; running statistics of the latter are those of `network`.
      callbacks: called after every phase, see `callbacks`; one may stop the training.
      folder: for checkpoints. A training that was stopped continues there, bit for bit;
        one of other data, network or settings is refused (see `fingerprint`).
        Ctrl-C then saves before it is raised.
      execution: what multiplies, on which devices, in how many parts.

    Returns:
      The trained network: `predict`, `evaluate`, `save`.

    Raises:
      InputError: something that does not fit together, which the message names; a loss
        or weight that is not finite; or a folder with another training in it.
    """
    arguments.check(locals())
    batch_size = arguments.plain(batch_size)
    key = jax.random.key(0) if key is None else key
    likelihood = likelihoods.as_likelihood(likelihood)
    data, validation = as_given(data, validation)
    data = data_check.checked(data, validation, likelihood)
    _check_order(method, data)
    source, held_out = prepare(data, validation, batch_size, key, execution)
    plain = _started(method, network, start)
    with taken_by("data", source.example, _GIVE):
        _check_classes(plain, source.example, likelihood, data, held_out)
        network = structured(method, plain, source.example, likelihood, key)
        layers = layers_of(*network, source.example)
    problem = Problem(
        *network,
        layers=layers,
        num_data=source.num_data,
        total_steps=1,
        batch_size=source.batch_size,
        seed=seed_of(key),
        optimizer=method.optimizer() if optimizer is None else optimizer,
        likelihood=likelihood,
        augment=augment,
        execution=execution,
        start=None if start is None else plain[1],
    )
    asked = Asked(*map(arguments.plain, (steps, epochs, minutes, inner_steps)))
    scored = None
    if held_out is not None:
        scored = Validation(held_out, example=source.example, backend=execution.backend)
    saving = None
    if folder is not None:
        says = _said(source, held_out, plain, optimizer, problem)
        saving = Saving(folder, {**_settings(method, problem, asked), **says})
    history = History()
    own = map(as_callback, callbacks)
    every = [Describing(source.example), scored, *own, history, saving]
    given = [callback for callback in every if callback is not None]
    trained = _train(method, problem, source, asked, key, given)
    return _fitted(method, problem, source, trained, scored, saving, history)


def _train(
    method: Method,
    problem: Problem,
    source: Source,
    asked: Asked,
    key: jax.Array,
    callbacks: list[Callback],
) -> Trained:
    """Trains; where it is saved, Ctrl-C waits for the phase and its checkpoint."""
    saved = any(isinstance(callback, Saving) for callback in callbacks)
    interrupt = None
    with ExitStack() as stack:
        if saved and threading.current_thread() is threading.main_thread():
            interrupt = stack.enter_context(Interrupt(again="the same call"))
            stopper = as_callback(_stopper(interrupt))
            callbacks = [callbacks[0], stopper, *callbacks[1:]]
        trained = train(method, problem, source.feed, asked, key, callbacks)
    if interrupt and interrupt.requested:
        raise KeyboardInterrupt
    return trained


def structured(
    method: Method,
    network: Network,
    example: Any,
    likelihood: likelihoods.Likelihood,
    key: jax.Array,
) -> Network:
    """The network with the members, factors and noise that it is trained with.

    Raises:
      InputError: a network that was given another structure already.
    """
    apply_fn: Any = network[0]
    _, params, model_state = network
    structure = method.structure
    if isinstance(apply_fn, Structured):
        if apply_fn.structure != structure:
            raise InputError(
                f"network: got one with {apply_fn.structure}, allowed for "
                f"{type(method).__name__}: the model itself (ssvi_jax.from_flax), or "
                f"one with {structure}."
            )
    elif structure != Structure():
        apply_fn = Structured(apply_fn, structure, example)
        if structure.copies is None:
            params = apply_fn.with_factors(params, model_state, key)
        else:
            params, model_state = apply_fn.init(key)
    if likelihood == likelihoods.Normal("learned"):
        apply_fn = WithNoise(apply_fn)
        params = apply_fn.with_noise(params, structure.copies)
    return apply_fn, params, model_state


def _check_order(method: Method, data: Any) -> None:
    """Refuses batches for several networks, each of which has an order of its own."""
    if isinstance(data, Batches) and method.structure.copies is not None:
        raise InputError(
            f"data: got Batches for {type(method).__name__}, allowed: (inputs, "
            "labels): each of its networks takes the examples in an order of its own, "
            "and Batches come in one. Train a network of each of several keys."
        )


def _check_classes(
    network: Network,
    example: Any,
    likelihood: likelihoods.Likelihood,
    data: Any,
    held_out: Data | None,
) -> None:
    """Refuses labels that a classifier has no output for."""
    if not isinstance(likelihood, likelihoods.Categorical):
        return
    for argument, pair in (("data", data), ("validation", held_out)):
        if isinstance(pair, tuple):
            data_check.check_classes(network, example, pair[1], argument)


def _started(
    method: Method, network: Network, start: Fitted | Params | None
) -> Network:
    """The network with the parameters of a trained one, or as it is.

    Raises:
      InputError: a method of copies, which would all be the same, other parameters, or
        values that are not finite.
    """
    if start is None:
        _check_finite("network", network[1])
        return network
    if method.structure.copies is not None:
        raise InputError(
            f"start: got a trained network for {type(method).__name__}, whose members "
            "would all be it, allowed: None."
        )
    apply_fn, params, model_state = network
    if isinstance(start, Fitted):
        params_of, model_state = start.params, start.weights.model_state
    else:
        params_of = start
    params_of = {name: leaf for name, leaf in params_of.items() if name != NOISE}
    expected = {path: jnp.shape(leaf) for path, leaf in trees.flatten(params).items()}
    found = {path: jnp.shape(leaf) for path, leaf in trees.flatten(params_of).items()}
    if found != expected:
        unlike = sorted(map(str, {*found.items()} ^ {*expected.items()}))[:4]
        raise InputError(
            f"start: got other parameters than the network's, at {', '.join(unlike)}; "
            "give those of a network like this one, without members."
        )
    _check_finite("start", params_of)
    if isinstance(start, Fitted):
        _check_finite("start", model_state)
    return apply_fn, params_of, model_state


def _check_finite(argument: str, tree: Params) -> None:
    """Refuses weights with NaN, which the first loss would be blamed for."""
    for path, leaf in trees.flatten(tree).items():
        inexact = jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
        if inexact and not np.isfinite(leaf).all():
            raise InputError(
                f"{argument}: got weights that are not finite, in {path}, allowed: "
                "finite numbers; give a network whose training did not diverge."
            )


def _stopper(interrupt: Interrupt) -> Any:
    return lambda phase: bool(interrupt.requested)


def _settings(method: Method, problem: Problem, asked: Asked) -> dict[str, Any]:
    """What a continuation must share, as JSON values."""
    return {
        "method": method.name,
        **method.as_dict(),
        "num_data": problem.num_data,
        "batch_size": problem.batch_size,
        "likelihood": fingerprint.of_name(problem.likelihood),
        "key": f"jax.random.key({problem.seed})",
        **asked._asdict(),
    }


def _said(
    source: Source,
    held_out: Data | None,
    network: Network,
    optimizer: OptimizerLike | None,
    problem: Problem,
) -> dict[str, Any]:
    """What tells this training from others that have the same settings."""
    apply_fn, params, model_state = network
    evaluated = functools.partial(apply_fn, train=False, key=jax.random.key(0))
    of, start = fingerprint.of_arrays, problem.start
    return {
        "data": source.says(),
        "validation": "none" if held_out is None else of(held_out),
        "network": {
            "params": fingerprint.of_shapes(params),
            "operations": fingerprint.of_function(
                evaluated, params, model_state, source.example
            ),
        },
        "start": "none" if start is None else of(start),
        "optimizer": fingerprint.of_optimizer(optimizer, params),
        "augment": fingerprint.of_augment(problem.augment, source.example),
    }


def _best(
    scored: Validation, saving: Saving | None
) -> tuple[int, Weights, Masks] | None:
    """Step, weights and masks of the lowest validation NLL, if there was any."""
    if saving is None:
        return scored.best
    if saving.best is None:
        return None
    step, progress = saving.best
    return step, progress.state.weights, progress.masks


def _fitted(
    method: Method,
    problem: Problem,
    source: Source,
    trained: Trained,
    scored: Validation | None,
    saving: Saving | None,
    history: History,
) -> Fitted:
    session, progress, seconds = trained
    step = int(progress.state.step)
    weights, masks = progress.state.weights, progress.masks
    best = None if scored is None else _best(scored, saving)
    if best is not None:
        step, weights, masks = best
    about = {
        "method": method.name,
        **method.as_dict(),
        "seed": problem.seed,
        "num_data": problem.num_data,
        "batch_size": problem.batch_size,
        "inner_steps": session.inner_steps,
        "total_steps": session.total_steps,
        "step": step,
        "train_minutes": seconds / 60,
    }
    noise = isinstance(problem.apply_fn, WithNoise)
    described = describe_model(method.structure, source.example, noise=noise)
    return Fitted(
        problem.apply_fn,
        weights,
        masks,
        problem.likelihood,
        about,
        history.events,
        described,
    )
