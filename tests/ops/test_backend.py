"""The sparse backend against XLA's: the same numbers from whole networks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from ssvi_jax import vi
from ssvi_jax.core.errors import InputError
from ssvi_jax.networks.models.resnet import ResNet
from ssvi_jax.ops import backend, custom_calls, norm
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi import predictive
from ssvi_jax.vi.execution import Execution

needs_kernels = pytest.mark.skipif(
    not custom_calls.available() or jax.default_backend() != "cpu",
    reason="the sparse kernels are not compiled",
)


class Odd(nn.Module):
    """Layers that the kernels leave to XLA, between layers that they take."""

    @nn.compact
    def __call__(self, x, *, train: bool):
        x = nn.Conv(8, (3, 2), strides=(2, 1), padding=((0, 2), (1, 0)))(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.8)(x)
        x = nn.relu(x)
        x = nn.Conv(8, (3, 3), kernel_dilation=2)(x)
        x = nn.Conv(8, (3, 3), feature_group_count=2)(x)
        x = nn.Dense(6)(x)
        x = nn.BatchNorm(use_running_average=not train, use_bias=False)(x)
        x = nn.Conv(5, (3, 3))(x)
        x = nn.BatchNorm(use_running_average=not train, use_scale=False)(x)
        return nn.Dense(10)(x.reshape(x.shape[0], -1))


def problem(module, which, estimator="local_reparam", *, batch=6, density=0.3):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(batch, 8, 8, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 10, batch), jnp.int32)
    model, params, model_state = tiny.from_flax(module, x[:1])
    options = {"estimator": estimator, "execution": Execution(which)}
    inference = vi.VI(model, optax.sgd(0.1), batch, **options)
    shapes = inference.kernel_shapes(params)
    kept = masks_lib.create(shapes, 1 - density, np.random.default_rng(1))
    state = inference.init(
        jax.random.key(1), params, model_state, kept, sigma_init=(0.1, 0.02)
    )
    return inference, state, kept, (x, labels)


def gradients(inference, state, kept, batch):
    trainable = vi.Trainable(state.posterior, state.params)
    subspace = masks_lib.to_subspace(kept)
    return tiny.jit(jax.value_and_grad(inference.negative_elbo, has_aux=True))(
        trainable, state.model_state, subspace, batch, jax.random.key(2), state.step
    )


def assert_near(got, want, tolerance):
    """Relative Euclidean error of every array."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = np.float64(a), np.float64(b)
        assert np.linalg.norm(a - b) <= tolerance * (np.linalg.norm(b) + 1e-6)


@needs_kernels
@pytest.mark.parametrize("estimator", vi.ESTIMATORS)
@pytest.mark.parametrize(
    "module", [ResNet((1, 1), 10, 8), Odd()], ids=["resnet", "odd"]
)
def test_loss_gradients_and_statistics_of_a_network(module, estimator):
    found = {
        which: gradients(*problem(module, which, estimator))
        for which in ("sparse", "xla")
    }
    (got, (_, statistics)), got_gradients = found["sparse"]
    (want, (_, expected)), want_gradients = found["xla"]
    np.testing.assert_allclose(got, want, rtol=2e-6)
    assert_near(statistics, expected, 1e-5)
    # Biases before a batch norm have no gradient but rounding.
    assert_near(got_gradients.posterior, want_gradients.posterior, 1e-4)


@needs_kernels
def test_layers_really_run_in_the_kernels():
    inference, state, kept, batch = problem(ResNet((1,), 10, 8), "sparse")
    subspace = masks_lib.to_subspace(kept)
    step = jax.jit(lambda *args: inference.update(*args))
    text = step.lower(state, subspace, batch).as_text()
    for name in ("ssvi_sample", "ssvi_sample_gradients", "ssvi_sample_weights"):
        assert f"@{name}(" in text
    assert "@ssvi_sample_input(" not in text
    # One a batch norm, in its gradient: what a convolution made has its moments.
    assert text.count("@ssvi_comoment(") == 3
    assert "stablehlo.convolution" not in text


@needs_kernels
@pytest.mark.parametrize("missing", ["scale", "bias"])
def test_batch_norms_without_scale_or_bias_sum_in_the_kernels(missing):
    class Bare(nn.Module):
        @nn.compact
        def __call__(self, x, *, train: bool):
            has = {"use_scale": missing != "scale", "use_bias": missing != "bias"}
            norm = nn.BatchNorm(use_running_average=not train, **has)
            x = nn.relu(norm(nn.Conv(8, (3, 3))(x)))
            return nn.Dense(10)(x.reshape(x.shape[0], -1))

    inference, state, kept, batch = problem(Bare(), "sparse")
    subspace = masks_lib.to_subspace(kept)
    text = jax.jit(inference.update).lower(state, subspace, batch).as_text()
    assert "@ssvi_comoment(" in text


@needs_kernels
def test_prediction_is_the_same(monkeypatch):
    inference, state, kept, (x, _) = problem(ResNet((1, 1), 10, 8), "sparse")
    found = [
        predictive.predict(
            inference.apply_fn,
            state.weights,
            kept,
            np.asarray(x),
            key=jax.random.key(3),
            num_samples=2,
            batch_size=4,
            backend=which,
        )
        for which in ("sparse", "xla")
    ]
    for got, want in zip(*found, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5)


def dense_gradient(inference, state, kept, batch, estimator):
    rows = np.array([[0, 1, 2, 3], [4, 5, 1, 0]], np.int32)

    def run(state, subspace, batch):
        return inference._dense_gradient(state, subspace, batch, rows, estimator)

    return tiny.jit(run)(state, masks_lib.to_subspace(kept), batch)


@needs_kernels
@pytest.mark.parametrize("estimator", [*vi.ESTIMATORS, "mean"])
@pytest.mark.parametrize("module", [ResNet((1,), 10, 8), Odd()], ids=["resnet", "odd"])
def test_dense_gradient_does_not_depend_on_the_backend(module, estimator):
    got, want = (
        dense_gradient(*problem(module, which), estimator)
        for which in ("sparse", "xla")
    )
    assert_near(got, want, 1e-4)  # gradients through a batch norm cancel
    assert all(np.any(np.asarray(gradient)) for gradient in got.values())


@needs_kernels
def test_dense_gradient_computes_no_packed_gradients():
    inference, state, kept, batch = problem(ResNet((1,), 10, 8), "sparse")
    rows = np.arange(6, dtype=np.int32)[None, :]

    def run(state, subspace):
        return inference._dense_gradient(state, subspace, batch, rows, "local_reparam")

    lowered = tiny.jit(run).lower(state, masks_lib.to_subspace(kept))
    text = str(lowered.compile().as_text())
    assert 'custom_call_target="ssvi_sample"' in text
    assert 'custom_call_target="ssvi_sample_input"' in text
    assert "ssvi_sample_weights" not in text
    assert "convolution(" not in text


@needs_kernels
@settings(max_examples=15)
@given(
    st.tuples(*(st.integers(1, n) for n in (40, 5, 6, 4))),
    st.integers(0, 2**32 - 1),
)
def test_comoment_equals_float64(shape, seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.normal(3, 1, shape).astype(np.float32) for _ in range(2))
    total, product = norm.comoment(jnp.asarray(a), jnp.asarray(b))
    a, b = np.float64(a), np.float64(b)
    np.testing.assert_allclose(total, a.sum((0, 1, 2)), rtol=1e-5)
    centred = (a - a.mean((0, 1, 2))) * (b - b.mean((0, 1, 2)))
    scale = 1e-5 * (np.square(a).sum((0, 1, 2)) + np.square(b).sum((0, 1, 2)))
    assert np.all(np.abs(product - centred.sum((0, 1, 2))) <= scale)


@needs_kernels
def test_batch_norm_and_its_gradients_are_those_of_plain_jax():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(2, 3, (5, 4, 3, 7)), jnp.float32)
    scale, bias = (jnp.asarray(rng.normal(size=7), jnp.float32) for _ in range(2))
    weights = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in (x.shape, 7, 7)]

    def plain(x, scale, bias):
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        normal = (x - mean[None, None, None]) * jax.lax.rsqrt(variance + 1e-5)[
            None, None, None
        ]
        return normal * scale[None, None, None] + bias[None, None, None], mean, variance

    def total(fn, *args):
        return sum((w * y).sum() for w, y in zip(weights, fn(*args), strict=True))

    def ours(x, scale, bias):
        return norm.batch_norm(x, scale, bias, 1e-5)

    for got, want in zip(ours(x, scale, bias), plain(x, scale, bias), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5)
    got, want = (
        jax.grad(lambda *a, fn=fn: total(fn, *a), (0, 1, 2))(x, scale, bias)
        for fn in (ours, plain)
    )
    assert_near(got, want, 1e-4)


@needs_kernels
def test_auto_takes_the_kernels_for_sparse_networks_only():
    assert backend.choose("auto", 0.05) == "sparse"
    assert backend.choose("auto", 1.0) == "xla"
    assert backend.choose("xla", 0.05) == "xla"
    assert backend.choose("sparse", 1.0) == "sparse"


def test_without_compiled_kernels(monkeypatch):
    monkeypatch.setattr(custom_calls, "library", lambda: "they were not compiled")
    assert backend.choose("auto", 0.05) == "xla"
    assert backend.slower_because("auto", 0.05) == "they were not compiled"
    assert backend.slower_because("xla", 0.05) == ""
    assert backend.slower_because("auto", 1.0) == ""
    with pytest.raises(InputError, match=r"^backend: got sparse, but they were not"):
        backend.choose("sparse", 0.05)


def test_unknown_backend_lists_the_names():
    with pytest.raises(InputError, match=r"^backend: got 'tpu', allowed: auto, sparse"):
        backend.choose("tpu", 0.1)


@pytest.mark.skipif(not custom_calls.available(), reason=custom_calls.why_not())
@pytest.mark.parametrize(("major", "minor"), [(0, -1), (1, 0)])
def test_kernels_for_another_interface_are_not_registered(major, minor, monkeypatch):
    there = custom_calls.interface_version()
    older = there[0] + major, there[1] + minor
    monkeypatch.setattr(custom_calls, "interface_version", lambda: older)
    why = custom_calls.library.__wrapped__()
    assert isinstance(why, str)
    assert f"this jaxlib has {older[0]}.{older[1]}; install" in why
