"""`fit` as a user calls it: any Flax model, any data, any likelihood."""

import logging
import threading

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from digits_fits import KEY, TEST_X, TEST_Y, X, Y, linen, mlp, same
from flax import nnx

import ssvi_jax
from ssvi_jax.core.errors import InputError
from ssvi_jax.vi import predictions

# Models and data ---------------------------------------------------------------------


def test_a_linen_model_becomes_sparse_and_bayesian(tmp_path):
    method = ssvi_jax.SSVI(sparsity=0.9)
    fit = ssvi_jax.fit(method, linen(mlp(), X), (X, Y), epochs=20, batch_size=64)
    scores = fit.evaluate(TEST_X, TEST_Y)
    assert scores["accuracy"] > 0.85
    assert fit.sparsity == pytest.approx(0.9, abs=1e-3)
    found = fit.predict(TEST_X)
    assert isinstance(found, predictions.Classification)
    np.testing.assert_allclose(found.probs.sum(axis=1), 1, rtol=1e-5)
    assert (found.mutual_information <= found.entropy + 1e-6).all()
    assert scores["logit_disagreement"] == pytest.approx(found.disagreement.mean())
    assert found.disagreement.min() > 0
    path = tmp_path / "model.ssvi"
    assert fit.save(path) == path.stat().st_size
    again = ssvi_jax.load(path, mlp())
    assert again.evaluate(TEST_X, TEST_Y)["nll"] == pytest.approx(
        scores["nll"], abs=1e-2
    )
    with pytest.raises(InputError, match=r"module: .* a network of your own"):
        ssvi_jax.load(path)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 64, rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.hidden(x)))


def test_an_nnx_model_does_the_same(tmp_path):
    net = ssvi_jax.from_flax(NnxNet(nnx.Rngs(0)))
    fit = ssvi_jax.fit(ssvi_jax.SSVI(sparsity=0.9), net, (X, Y), epochs=20)
    scores = fit.evaluate(TEST_X, TEST_Y)
    assert scores["accuracy"] > 0.8
    fit.save(tmp_path / "model.ssvi", half=False)
    again = ssvi_jax.load(tmp_path / "model.ssvi", NnxNet(nnx.Rngs(1)))
    assert again.evaluate(TEST_X, TEST_Y) == pytest.approx(scores)

    class Other(NnxNet):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.head = nnx.Linear(64, 11, rngs=rngs)

    with pytest.raises(InputError, match="module: Other has other weights than"):
        ssvi_jax.load(tmp_path / "model.ssvi", Other(nnx.Rngs(0)))


class TwoInputs(nn.Module):
    """A model of a dictionary of inputs."""

    @nn.compact
    def __call__(self, inputs):
        left, right = nn.Dense(32)(inputs["left"]), nn.Dense(32)(inputs["right"])
        return nn.Dense(10)(nn.relu(left + right))


def test_inputs_may_be_a_dictionary(tmp_path):
    halves = {"left": X[:, :32], "right": X[:, 32:]}
    net = ssvi_jax.from_flax(
        TwoInputs(), jax.tree.map(lambda a: a[:1], halves), key=KEY
    )
    fit = ssvi_jax.fit(ssvi_jax.SSVI(sparsity=0.8), net, (halves, Y), epochs=20)
    test = {"left": TEST_X[:, :32], "right": TEST_X[:, 32:]}
    scores = fit.evaluate(test, TEST_Y)
    assert scores["accuracy"] > 0.8
    fit.save(tmp_path / "model.ssvi", half=False)
    again = ssvi_jax.load(tmp_path / "model.ssvi", TwoInputs())
    assert again.evaluate(test, TEST_Y) == pytest.approx(scores)


# Length ------------------------------------------------------------------------------


def test_steps_are_whole_phases():
    net = linen(mlp(), X)
    short = ssvi_jax.fit(ssvi_jax.RigL(), net, (X, Y), steps=25)
    assert short.about["total_steps"] == 27  # of equal length, at most 10
    assert [event["step"] for event in short.history] == [9, 18, 27]
    one = ssvi_jax.fit(ssvi_jax.RigL(), net, (X, Y), steps=5, inner_steps=1000)
    assert (one.about["total_steps"], one.about["inner_steps"]) == (5, 5)


def test_minutes_are_those_of_the_machine():
    fit = ssvi_jax.fit(
        ssvi_jax.SSVI(sparsity=0.9), linen(mlp(), X), (X, Y), minutes=0.1
    )
    steps = fit.about["total_steps"]
    assert steps % fit.about["inner_steps"] == 0
    assert fit.history[-1]["step"] == steps


@pytest.mark.parametrize(
    ("length", "match"),
    [
        ({}, "steps, epochs, minutes: got none of them"),
        ({"steps": 10, "epochs": 1}, "got steps, epochs, needed: exactly one"),
        ({"epochs": 0}, "epochs: got 0, allowed: a finite number above 0"),
        ({"minutes": float("nan")}, "minutes: got nan"),
    ],
)
def test_a_length_that_is_none(length, match):
    with pytest.raises(InputError, match=match):
        ssvi_jax.fit(ssvi_jax.SSVI(), linen(mlp(), X), (X, Y), **length)


# Callbacks, validation, folders ------------------------------------------------------


def test_a_function_is_called_after_every_phase_and_may_stop():
    seen = []

    def stop(phase):
        seen.append((phase.step, phase.metrics["loss"]))
        return phase.step >= 20

    fit = ssvi_jax.fit(
        ssvi_jax.SSVI(), linen(mlp(), X), (X, Y), steps=100, callbacks=[stop]
    )
    assert [step for step, _ in seen] == [10, 20]
    assert fit.about["step"] == 20
    assert np.isfinite([loss for _, loss in seen]).all()


def test_validation_chooses_the_network_and_stops_early():
    fit = ssvi_jax.fit(
        ssvi_jax.Deterministic(),
        linen(mlp(), X),
        (X[:200], Y[:200]),
        epochs=400,
        inner_steps=10,
        batch_size=20,
        validation=(X[200:400], Y[200:400]),
        callbacks=[ssvi_jax.EarlyStopping(patience=5)],
    )
    scores = {
        event["step"]: event["validation"]["nll"]
        for event in fit.history
        if "validation" in event
    }
    assert max(scores) < 4000, "it did not stop"
    assert fit.about["step"] == min(scores, key=lambda step: scores[step])
    found = fit.evaluate(X[200:400], Y[200:400])
    assert found["nll"] == pytest.approx(min(scores.values()), rel=1e-4)
    assert not {"mutual_information", "logit_disagreement"} & found.keys()


def test_a_part_of_the_data_is_held_out():
    fit = ssvi_jax.fit(
        ssvi_jax.SSVI(), linen(mlp(), X), (X, Y), epochs=2, validation=0.2
    )
    assert fit.about["num_data"] == 1200


class Interrupted(Exception):
    """What ends a training from outside."""


def interrupt_at(step):
    def callback(phase):
        if phase.step == step:
            raise Interrupted

    return callback


@pytest.mark.parametrize("place", ["main thread", "another thread"])
def test_continued_equals_uninterrupted_across_a_swap(tmp_path, place):
    net, options = linen(mlp(), X), {"epochs": 4, "inner_steps": 10, "batch_size": 50}
    method = ssvi_jax.SSVI(sparsity=0.9)

    def run(folder, **more):
        return ssvi_jax.fit(method, net, (X, Y), folder=folder, **options, **more)

    whole = run(tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", callbacks=[interrupt_at(70)])
    found = []
    if place == "main thread":
        found.append(run(tmp_path / "parts"))
    else:
        thread = threading.Thread(target=lambda: found.append(run(tmp_path / "parts")))
        thread.start()
        thread.join()
    (resumed,) = found
    assert 0 < resumed.history[0]["step"] - 10 < 70, "it began anew"
    assert same(whole, resumed)


def test_a_folder_of_another_training_is_refused(tmp_path):
    net, options = linen(mlp(), X), {"epochs": 1, "folder": tmp_path}
    ssvi_jax.fit(ssvi_jax.SSVI(sparsity=0.9), net, (X, Y), **options)
    with pytest.raises(InputError, match=r"sparsity: saved 0\.9, now 0\.8"):
        ssvi_jax.fit(ssvi_jax.SSVI(sparsity=0.8), net, (X, Y), **options)


# The loop is the one that a user may write -------------------------------------------


def test_fit_equals_the_loop_written_by_hand():
    from ssvi_jax import masks, subspace, vi
    from ssvi_jax.data.batches import batch_indices
    from ssvi_jax.networks.describe import layers_of
    from ssvi_jax.training.phases import host_rng
    from ssvi_jax.vi import schedules

    steps, inner, size, seed = 60, 10, 50, 5
    net = linen(mlp(), X)
    tx = optax.adam(1e-3)
    method = ssvi_jax.SSVI(sparsity=0.9)
    found = ssvi_jax.fit(
        method,
        net,
        (X, Y),
        key=jax.random.key(seed),
        steps=steps,
        inner_steps=inner,
        batch_size=size,
        optimizer=tx,
    )
    apply_fn, params, model_state = net
    data = jnp.asarray(X), jnp.asarray(Y)
    bayes = vi.VI(
        apply_fn,
        tx,
        num_data=len(X),
        kl_weight=schedules.kl_weight(0.01, steps, 0.5),
    )
    layers = layers_of(apply_fn, params, model_state, jnp.asarray(X[:1]))
    shapes = {layer.path: layer.shape for layer in layers}
    kept = masks.create(shapes, 0.9, host_rng(seed, 0))
    state = bayes.init(
        jax.random.key(seed), params, model_state, kept, sigma_init=(6e-4, 5e-4)
    )
    rate = schedules.replacement_rate("cosine", 0.3, round(0.75 * steps))
    for step in range(0, steps, inner):
        rows = {"num_examples": len(X), "batch_size": size, "seed": seed}
        if step and rate(step) > 0:
            first = batch_indices(step, 1, **rows)
            gradients = bayes.dense_gradient(state, kept, data, first)
            state, kept, _ = subspace.removal_addition(
                state,
                kept,
                jax.device_get(gradients),
                rate=rate(step),
                rng=host_rng(seed, step),
            )
        indices = batch_indices(step, inner, **rows)
        state, _ = bayes.inner_loop(state, kept, data, indices)
    assert all((found.masks[path] == kept[path]).all() for path in kept)
    for ours, theirs in zip(
        jax.tree.leaves(found.weights), jax.tree.leaves(state.weights), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


# Bad input ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"data": X}, "data: got ndarray, allowed: "),
        ({"data": (X, Y[:10])}, r"data: got arrays of \[10, 1500\] rows"),
        ({"validation": 1.5}, "validation: got 1.5 of 1500 .* a fraction between"),
        ({"validation": 1e-9}, "validation: got 1e-09 of 1500 examples"),
        ({"callbacks": [3]}, "callbacks: got int, allowed: a Callback"),
        ({"batch_size": 0}, "batch_size: got 0"),
    ],
)
def test_bad_input_names_the_argument(change, match):
    given = {"data": (X, Y), "epochs": 1, **change}
    with pytest.raises(InputError, match=match) as error:
        ssvi_jax.fit(ssvi_jax.SSVI(), linen(mlp(), X), given.pop("data"), **given)
    assert "--" not in str(error.value)


def test_a_value_that_is_not_finite_is_named():
    with pytest.raises(InputError, match="the loss is not finite at step"):
        ssvi_jax.fit(ssvi_jax.SSVI(), linen(mlp(), X), (X * 1e38, Y), epochs=1)


def test_what_it_does_is_said_once(caplog):
    with caplog.at_level(logging.INFO, logger="ssvi_jax"):
        ssvi_jax.fit(ssvi_jax.SSVI(sparsity=0.9), linen(mlp(), X), (X, Y), steps=20)
    (said,) = [r.message for r in caplog.records if "layers_0/kernel" in r.message]
    assert "64×64" in said
