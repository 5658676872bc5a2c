"""The runtime predicts what the library predicts."""

import numpy as np
import pytest
import runtime_models
import smoke_run

import ssvi_jax
from ssvi_jax import runtime
from ssvi_jax.vi import predictive

RUNS = ("cifar10-ivon-s95", "cifar10-rigl-s95")

pytestmark = pytest.mark.skipif(
    not runtime.library_path().exists(), reason="the runtime was not compiled"
)


def opened(fit, path):
    """A network as the runtime and the library read it from its file."""
    fit.save(path)
    module = getattr(fit.apply_fn, "module", None)
    return runtime.load(path), module


def library_mean(fit, x) -> np.ndarray:
    return predictive.predict_mean(fit.apply_fn, fit.weights, fit.masks, x)


@pytest.mark.parametrize("name", RUNS)
def test_committed_models(tmp_path, name):
    fit = ssvi_jax.load(smoke_run.ROOT / "results" / name / "model.ssvi")
    fit.save(tmp_path / "model.ssvi")
    model = runtime.load(tmp_path / "model.ssvi")
    x = np.random.default_rng(0).integers(0, 256, (34, 32, 32, 3), np.uint8)
    found = model.predict(x, mode="mean")
    np.testing.assert_allclose(found.probabilities, library_mean(fit, x), atol=1e-5)


@pytest.mark.parametrize("kind", runtime_models.KINDS)
def test_networks_of_users(tmp_path, kind):
    module, shape = runtime_models.KINDS[kind]
    x = runtime_models.inputs(shape)
    runtime_models.fitted(module, x).save(tmp_path / "model.ssvi")
    fit = ssvi_jax.load(tmp_path / "model.ssvi", module)
    model = runtime.load(tmp_path / "model.ssvi")
    assert (model.input_shape, model.num_classes) == (shape, 5)
    want = library_mean(fit, x)
    found = model.predict(x, mode="mean")
    np.testing.assert_allclose(found.probabilities, want, atol=1e-5)
    entropy = -(want * np.log(want)).sum(-1)
    np.testing.assert_allclose(found.entropy, entropy, atol=1e-5)
    assert not found.mutual_information.any()
