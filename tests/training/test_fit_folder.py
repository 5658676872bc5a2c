"""`fit(folder=…)`: which training is continued, which is another, and what is said."""

import logging
import os
import signal

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from digits_fits import X, Y, linen, mlp, same

import ssvi_jax
from ssvi_jax.core.errors import InputError
from ssvi_jax.training import fingerprint

SHORT = {"steps": 4, "batch_size": 20}


def shifted(x, key):
    return x + 0.1 * jax.random.normal(key, x.shape)


def more_shifted(x, key):
    return x + 0.2 * jax.random.normal(key, x.shape)


def run(folder, network=None, data=(X[:60], Y[:60]), **changes):
    network = network or linen(mlp(), X)
    options = {**SHORT, "optimizer": optax.adam(1e-3), "augment": shifted, **changes}
    return ssvi_jax.fit(
        ssvi_jax.Static(sparsity=0.5), network, data, folder=folder, **options
    )


def tanh_mlp():
    return nn.Sequential([nn.Dense(64), nn.tanh, nn.Dense(10)])


OTHERS = [
    ({"data": (X[60:120], Y[60:120])}, r"\n  data: saved "),
    ({"data": (X[:60], Y[60:120])}, r"\n  data: saved "),
    ({"validation": (X[60:80], Y[60:80])}, r"\n  validation: saved \"none\", now "),
    ({"network": linen(tanh_mlp(), X)}, r"network\.operations: .* now .* tanh"),
    ({"network": linen(mlp(width=32), X)}, r"network\.params\.layers_0/kernel: "),
    ({"optimizer": optax.adam(1e-1)}, r"\n  optimizer: saved \"updates of 0\.001"),
    ({"optimizer": optax.adam(1e-3, b2=0.9)}, r"\n  optimizer: saved "),
    ({"optimizer": lambda steps: optax.sgd(1e-3)}, r"\n  optimizer: saved "),
    ({"optimizer": ssvi_jax.Sgd(0.1)}, r"\n  optimizer\.learning_rate: saved nothing"),
    ({"optimizer": None}, r"optimizer: saved .* now \"the method's\""),
    ({"augment": None}, r"\n  augment: saved .*, now \"none\""),
    ({"augment": more_shifted}, r"\n  augment: saved "),
    ({"key": jax.random.key(7)}, r"\n  key: saved .*key\(0\).*, now .*key\(7\)"),
]


def test_a_training_of_something_else_is_refused_by_name(tmp_path):
    run(tmp_path)
    for change, match in OTHERS:
        with pytest.raises(InputError, match=match):
            run(tmp_path, **change)


def test_two_starts_are_two_trainings(tmp_path):
    network = linen(mlp(), X)
    first = network[1]
    second = jax.tree.map(lambda leaf: 2 * leaf, first)
    run(tmp_path, start=first)
    with pytest.raises(InputError, match=r"\n  start: saved "):
        run(tmp_path, start=second)


def test_batches_are_told_by_their_shapes(tmp_path):
    def batches(size):
        rows = range(0, 60, size)
        return ssvi_jax.Batches([(X[i : i + size], Y[i : i + size]) for i in rows], 60)

    run(tmp_path, data=batches(20))
    with pytest.raises(InputError, match=r"\n  data: saved .*\[20, 64\].*\[30, 64\]"):
        run(tmp_path, data=batches(30))


@pytest.mark.parametrize("make", [lambda: lambda o, y: -optax.losses.l2_loss(o[:, 0])])
def test_equal_functions_at_other_addresses_continue(tmp_path, make):
    assert same(
        run(tmp_path, likelihood=make(), optimizer=optax.adam(1e-3)),
        run(tmp_path, likelihood=make(), optimizer=optax.adam(1e-3)),
    )


def test_a_training_that_is_found_says_so(tmp_path, caplog):
    def stop(phase):
        return phase.step == 2

    with caplog.at_level(logging.INFO, logger="ssvi_jax"):
        run(tmp_path, callbacks=[stop], inner_steps=2)
        run(tmp_path, inner_steps=2)
        run(tmp_path, inner_steps=2)
    found = [r.message for r in caplog.records if "the training in" in r.message]
    assert found == [
        f"the training in {tmp_path} continues at step 2 of 4",
        f"the training in {tmp_path} was finished at step 4: nothing was trained",
    ]


def test_ctrl_c_says_how_fit_continues(tmp_path, capsys):
    def press(phase):
        if phase.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        assert isinstance(phase, ssvi_jax.Phase)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=[press], inner_steps=2, steps=6)
    said = capsys.readouterr().out
    assert "goes back to the last checkpoint on the same call" in said
    assert "--" not in said
    found = run(tmp_path, inner_steps=2, steps=6)
    assert [event["step"] for event in found.history] == [6]


def test_of_a_large_array_rows_are_read(monkeypatch):
    x = np.arange(4000, dtype=np.float32).reshape(1000, 4)
    monkeypatch.setattr(fingerprint, "WHOLE_BYTES", 1600)
    other = x.copy()
    other[500:] += 1
    assert fingerprint.of_arrays(x) == fingerprint.of_arrays(x.copy())
    assert fingerprint.of_arrays(x) != fingerprint.of_arrays(other)


def test_the_first_updates_are_those_of_adam():
    params = linen(mlp(), X)[1]
    said = fingerprint.of_optimizer(optax.adam(1e-2), params)
    # A constant gradient makes Adam's first update the rate, whatever its size.
    assert said.startswith("updates of 0.01 0.01 0.01, ")
