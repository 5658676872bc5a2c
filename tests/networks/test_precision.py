"""Training in bfloat16: what is rounded, what is not, and that it learns the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smoke_run
import tiny
import tiny_methods

from ssvi_jax import data as data_lib
from ssvi_jax.core import jaxprs
from ssvi_jax.core.errors import InputError
from ssvi_jax.networks import precision
from ssvi_jax.training.run_config import Training

PRODUCTS = ("dot_general", "conv_general_dilated")


def problem(name, **changes):
    """A method on the digits, its state and masks, and a phase of two steps."""
    method = tiny_methods.build(name, **changes)
    state, masks = method.init(tiny.KEY, np.random.default_rng(0))
    rows = np.arange(2 * method.problem.batch_size, dtype=np.int32).reshape(2, -1)
    return method, state, masks, tiny_methods.arrays(), rows


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for called in jaxprs.inner(equation):
            yield from equations(called)


def products(precision_name):
    """Types of the operands of all products in a phase of a convolutional network."""
    method, state, masks, data, rows = problem(
        "ssvi", model="convnet", precision=precision_name, backend="xla"
    )
    traced = jax.make_jaxpr(lambda s: method.step(s, masks, data, rows))(state)
    return {
        str(operand.aval.dtype)
        for equation in equations(traced.jaxpr)
        if equation.primitive.name in PRODUCTS
        for operand in equation.invars
    }


def test_products_of_a_phase_are_in_the_precision_asked_for():
    assert products("bfloat16") == {"bfloat16"}
    assert products("float32") == {"float32"}


@pytest.mark.parametrize(
    "method", ["ssvi", "deterministic", "rigl", "rank1", "ensemble", "mc_dropout"]
)
def test_a_state_stays_in_float32_and_a_step_is_nearly_the_same(method):
    after = {}
    for name in precision.PRECISIONS:
        built, state, masks, data, rows = problem(method, precision=name, backend="xla")
        before = tiny.host(state.weights)
        state, metrics = built.step(state, masks, data, rows)
        types = {leaf.dtype for leaf in jax.tree.leaves((state.weights, metrics))}
        assert types == {np.dtype("float32")}
        after[name] = before, tiny.host(state.weights), np.asarray(metrics["loss"])
    (start, rounded, low), (_, exact, high) = after["bfloat16"], after["float32"]
    assert not np.array_equal(low, high)
    np.testing.assert_allclose(low, high, rtol=0.03)
    for a, b, c in zip(*map(jax.tree.leaves, (rounded, exact, start)), strict=True):
        moved = np.linalg.norm(b - c)
        assert np.linalg.norm(a - b) <= 0.2 * moved + 1e-6


def test_predictions_are_in_float32():
    problems = [
        smoke_run.tiny_problem(method="deterministic", precision=name)
        for name in precision.PRECISIONS
    ]
    logits = [
        given.apply_fn(
            given.params,
            given.model_state,
            jnp.asarray(data_lib.load("digits").test_images[:8]),
            train=False,
            key=tiny.KEY,
        )[0]
        for given in problems
    ]
    np.testing.assert_array_equal(logits[0], logits[1])


def test_a_network_learns_the_same(tmp_path):
    scores = {}
    for name in precision.PRECISIONS:
        smoke_run.tiny_train(tmp_path / name, precision=name, backend="xla")
        events = smoke_run.events(tmp_path / name)
        (scores[name],) = [e["val"]["nll"] for e in events if e["event"] == "epoch"][
            -1:
        ]
    assert scores["bfloat16"] == pytest.approx(scores["float32"], abs=0.05)
    assert scores["bfloat16"] != scores["float32"]


def test_float32_is_the_network_itself():
    assert precision.train_in("float32", tiny.mlp) is tiny.mlp
    with pytest.raises(
        InputError, match=r"precision: got 'float16', allowed: bfloat16, float32"
    ):
        precision.train_in("float16", tiny.mlp)


def test_the_sparse_kernels_are_refused_and_not_chosen():
    with pytest.raises(InputError, match="precision: got bfloat16 with backend sparse"):
        Training(precision="bfloat16", backend="sparse")
    rounded = Training(precision="bfloat16")
    assert rounded.training_backend == rounded.execution().backend == "xla"
    assert Training().training_backend == Training().execution().backend == "auto"
