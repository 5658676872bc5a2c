from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssvi_jax.core.errors import InputError
from ssvi_jax.metrics import cost as flops
from ssvi_jax.metrics.cost import Growth, LayerCost

# A 3x3 convolution from 2 to 4 channels with an 8x8 output, then a dense layer 4 -> 10.
#   conv  : 3*3*2*4 = 72 weights, 64 positions, 18 kept
#   dense : 4*10    = 40 weights,  1 position,  10 kept
# One product of the kept weights : 2*(18*64 + 10*1) = 2*1162 =  2,324 FLOPs
# One product of all weights      : 2*(72*64 + 40*1) = 2*4648 =  9,296 FLOPs
NET = [LayerCost("conv/kernel", 72, 18, 64), LayerCost("dense/kernel", 40, 10)]


def test_forward_by_hand():
    assert flops.forward_flops(NET) == 2324
    assert flops.forward_flops(flops.dense(NET)) == 9296


@pytest.mark.parametrize(
    ("estimator", "want"),
    [
        # 16 examples * 3 (forward, two gradients) * products * 2,324
        ("local_reparam", 16 * 3 * 2 * 2324),
        ("flipout", 16 * 3 * 2 * 2324),
        ("weight_sample", 16 * 3 * 2324),
        ("deterministic", 16 * 3 * 2324),
    ],
)
def test_step_by_hand(estimator, want):
    assert flops.train_step_flops(NET, batch_size=16, estimator=estimator) == want


@pytest.mark.parametrize(
    ("estimator", "products"), [("weight_sample", 1), ("flipout", 2)]
)
def test_each_draw_of_a_step_costs_its_products(estimator, products):
    options = {"batch_size": 16, "estimator": estimator, "draws": 4}
    got = flops.train_step_flops(NET, **options)
    assert got == 16 * 4 * 3 * products * 2324
    # The dense gradient for addition draws once, whatever a step does.
    growth = (2 * products * 2324 + 9296) / 100
    grown = flops.train_step_flops(NET, growth=Growth(100), **options)
    assert grown == pytest.approx(got + 16 * growth)
    summary = flops.flops_summary(
        NET, num_samples=1, dense_part=0.25, times_seen=3, **options
    )
    dense = 16 * 4 * 3 * products * 9296
    assert summary["train_step_flops"] == 3 * (0.25 * dense + 0.75 * got)
    assert summary["train_step_flops_dense_vi"] == 16 * 6 * 9296


@pytest.mark.parametrize(
    ("growth", "extra"),
    [
        # Forward and input gradient with two products each, one dense product.
        (Growth(100), (2 * 2 * 2324 + 9296) / 100),
        # At the mean network: one product each.
        (Growth(100, at_mean=True), (2 * 2324 + 9296) / 100),
        # Five batches, every 50 steps.
        (Growth(50, num_batches=5), 5 * (2 * 2 * 2324 + 9296) / 50),
        # And three forward passes besides.
        (Growth(50, num_passes=3), (2 * 2 * 2324 + 9296 + 3 * 2324) / 50),
    ],
)
def test_growth_by_hand(growth, extra):
    got = flops.train_step_flops(NET, batch_size=16, growth=growth)
    assert got == pytest.approx(16 * (3 * 2 * 2324 + extra), rel=1e-15)


def test_matches_rigl():
    # Evci et al.: (3 f_S T + 2 f_S + f_D) / (T + 1) a step, where the update is itself
    # one of T + 1 steps; here it comes on top of T steps.
    f_s, f_d, steps = 2324, 9296, 100
    got = flops.train_step_flops(
        NET, batch_size=1, estimator="deterministic", growth=Growth(steps)
    )
    rigl = (3 * f_s * steps + 2 * f_s + f_d) / (steps + 1)
    assert got * steps / (steps + 1) == pytest.approx(rigl, rel=1e-15)


def test_prediction_by_hand():
    assert flops.predict_flops(NET) == 2324
    assert flops.predict_flops(NET, num_samples=10) == 23240


def test_summary_beside_dense_vi():
    got = flops.flops_summary(NET, batch_size=16, num_samples=10, growth=Growth(100))
    assert got == {
        "train_step_flops": pytest.approx(16 * (6 * 2324 + (4 * 2324 + 9296) / 100)),
        "train_step_flops_dense_vi": 16 * 6 * 9296,
        "predict_flops": 23240,
        "predict_flops_dense_vi": 92960,
    }
    ordinary = flops.flops_summary(
        flops.dense(NET), batch_size=16, num_samples=1, estimator="deterministic"
    )
    assert ordinary["train_step_flops_dense_vi"] == 2 * ordinary["train_step_flops"]


@given(st.floats(0.01, 1.0), st.integers(1, 64))
def test_cost_is_proportional_to_the_kept_weights(density, batch_size):
    size = 10_000
    layer = LayerCost("x", size, round(density * size), 49)
    ratio = flops.train_step_flops([layer], batch_size=batch_size) / (
        flops.train_step_flops(flops.dense([layer]), batch_size=batch_size)
    )
    assert ratio == pytest.approx(layer.kept / size, rel=1e-12)


def test_counts_what_the_compiler_counts():
    # XLA's own count of the dense product of this layer, 7 rows of 30 into 20.
    def product(x, kernel):
        return x @ kernel

    x, kernel = jnp.ones((7, 30)), jnp.ones((30, 20))
    cost: Any = jax.jit(product).lower(x, kernel).compile().cost_analysis()
    layer = LayerCost("x", 600, 600)
    assert 7 * flops.forward_flops([layer]) == cost["flops"]


def test_tree_bytes():
    params = {"kernel": jnp.zeros((3, 5)), "mask": np.zeros(7, bool)}
    assert flops.tree_bytes(params) == 3 * 5 * 4 + 7
    assert flops.tree_bytes({}) == 0
    abstract = jax.eval_shape(lambda: params)
    assert flops.tree_bytes(abstract) == flops.tree_bytes(params)


@pytest.mark.parametrize(
    ("optimizer", "num_moments"), [(optax.sgd(0.1, momentum=0.9), 1), (optax.sgd(1), 0)]
)
def test_dense_vi_state_is_what_its_arrays_take(optimizer, num_moments):
    def state(weights):
        posterior = [(jnp.zeros(size), jnp.zeros(size)) for size in weights]
        return posterior, optimizer.init(posterior)

    rest = {"bias": jnp.zeros(10)}
    want = flops.tree_bytes(state([72, 40])) + flops.tree_bytes(rest)
    got = flops.dense_vi_state_bytes(NET, num_moments=num_moments, rest_bytes=40)
    # 112 weights * 4 bytes * (mean, rho) * (value, moments) + 40
    assert got == want == 112 * 4 * 2 * (1 + num_moments) + 40


def test_masks_take_one_bit_a_weight():
    assert flops.mask_bits(NET) == 112


@pytest.mark.parametrize(
    "numbers",
    [(10, 11, 1), (10, -1, 1), (10, 5, 0)],
    ids=["kept", "negative", "nowhere"],
)
def test_impossible_layers_are_refused(numbers):
    with pytest.raises(InputError, match=r"LayerCost of a/kernel: got size 10"):
        LayerCost("a/kernel", *numbers)


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match=r"estimator: got 'lrt', allowed: determ"):
        flops.train_step_flops(NET, batch_size=1, estimator="lrt")
    with pytest.raises(InputError, match=r"draws: got 0, allowed"):
        flops.train_step_flops(NET, batch_size=1, draws=0)
    with pytest.raises(InputError, match=r"Growth: got inner_steps 0"):
        Growth(0)
    with pytest.raises(InputError, match=r"num_batches 0"):
        Growth(10, num_batches=0)
    with pytest.raises(InputError, match=r"num_passes -1"):
        Growth(10, num_passes=-1)
