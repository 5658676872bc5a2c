"""The runtime predicts what the library predicts."""

import copy

import flax.linen as nn
import jax
import numpy as np
import pytest
import runtime_models
import smoke_run

import ssvi_jax
from ssvi_jax import runtime
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Gaussian
from ssvi_jax.io import container
from ssvi_jax.ops import custom_calls
from ssvi_jax.runtime import binding
from ssvi_jax.runtime.model import _pointer
from ssvi_jax.vi import predictive

pytestmark = pytest.mark.skipif(
    not runtime.library_path().exists(), reason="the runtime was not compiled"
)

RUNS = ("cifar10-ivon-s95", "cifar10-rigl-s95", "cifar10-ivon-avx2")
RANDOM = ("mlp", "cnn")


def pickled(model):
    make, arguments = model.__reduce__()
    return make(*arguments)


def library_mean(fit, x) -> np.ndarray:
    return predictive.predict_mean(fit.apply_fn, fit.weights, fit.masks, x)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Kind of a network → its file, the model in it, what the library reads, inputs."""
    made = {}

    def of(kind):
        if kind not in made:
            path = tmp_path_factory.mktemp("model") / "model.ssvi"
            module, shape = runtime_models.KINDS[kind]
            x = runtime_models.inputs(shape)
            runtime_models.fitted(module, x).save(path)
            made[kind] = path, runtime.load(path), ssvi_jax.load(path, module), x
        return made[kind]

    return of


# The mean network ---------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_committed_models(tmp_path, name):
    fit = ssvi_jax.load(smoke_run.ROOT / "results" / name / "model.ssvi")
    fit.save(tmp_path / "model.ssvi")
    model = runtime.load(tmp_path / "model.ssvi")
    x = np.random.default_rng(0).integers(0, 256, (34, 32, 32, 3), np.uint8)
    found = model.predict(x, mode="mean")
    np.testing.assert_allclose(found.probabilities, library_mean(fit, x), atol=1e-5)


@pytest.mark.parametrize("kind", runtime_models.KINDS)
def test_networks_of_users(saved, kind):
    _, model, fit, x = saved(kind)
    assert (model.input_shape, model.num_classes) == (x.shape[1:], 5)
    want = library_mean(fit, x)
    found = model.predict(x, mode="mean")
    np.testing.assert_allclose(found.probabilities, want, atol=1e-5)
    entropy = -(want * np.log(want)).sum(-1)
    np.testing.assert_allclose(found.entropy, entropy, atol=1e-5)
    assert not found.mutual_information.any()


def test_a_dense_network_multiplies_by_its_parameters(tmp_path):
    """Which the graph does not repeat: the file holds every kernel once."""
    module, shape = runtime_models.KINDS["resnet"]
    x, path = runtime_models.inputs(shape, 3), tmp_path / "model.ssvi"
    fit = runtime_models.fitted(module, x, bayesian=False)
    fit.save(path, half=False)
    header, _ = container.read(path)
    kernels = sum(leaf.nbytes for leaf in jax.tree.leaves(fit.weights.params))
    assert header["graph"]["bytes"] < kernels / 4
    found = runtime.load(path).predict(x, samples=2)
    np.testing.assert_allclose(found.probabilities, library_mean(fit, x), atol=1e-5)


@pytest.mark.parametrize("kind", ["resnet", "mlp"])
def test_an_input_is_predicted_the_same_in_any_batch(saved, kind):
    """More sizes than a kernel keeps lists of."""
    _, model, _, x = saved(kind)
    whole = model.predict(x, mode="mean").probabilities
    for rows in (slice(0, 1), slice(5, 8), slice(30, 37), slice(2), slice(4), slice(6)):
        part = model.predict(x[rows], mode="mean").probabilities
        np.testing.assert_allclose(part, whole[rows], atol=1e-6)


@pytest.mark.parametrize("kind", ["resnet", "depthwise", "lstm"])
def test_instruction_sets_agree(saved, kind, monkeypatch):
    _, model, _, x = saved(kind)
    best = model.predict(x, samples=2)
    for name in custom_calls.instruction_sets():
        monkeypatch.setenv("SSVI_JAX_ISA", name)
        found = model.predict(x, samples=2)
        np.testing.assert_allclose(found.probabilities, best.probabilities, atol=1e-5)
    monkeypatch.setenv("SSVI_JAX_ISA", "mmx")
    with pytest.raises(InputError, match="SSVI_JAX_ISA: got mmx"):
        model.predict(x)


# Draws --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["mean", "samples", "moments"])
def test_threads_do_not_change_a_bit(saved, mode):
    path, _, _, x = saved("resnet")
    # Threads share draws, parts of the inputs, or one part's layers.
    for inputs, samples in ((x, 3), (x[:1], 3), (x, 1), (x[:1], 1)):
        one, two, three, five = (
            runtime.load(path).predict(
                inputs, samples=samples, mode=mode, seed=5, threads=threads
            )
            for threads in (1, 2, 3, 5)
        )
        for others in (two, three, five):
            assert all((a == b).all() for a, b in zip(one, others, strict=True))


def test_seeds_differ_and_repeat(saved):
    _, model, _, x = saved("mlp")
    first, other, again = (model.predict(x, samples=2, seed=s) for s in (1, 2**40, 1))
    assert (first.probabilities == again.probabilities).all()
    assert np.abs(first.probabilities - other.probabilities).max() > 1e-3


def test_kept_draws_are_those_of_a_fresh_model(saved):
    path, model, _, x = saved("cnn")
    for seed, samples in ((3, 2), (3, 5), (4, 3), (3, 4)):
        found = model.predict(x, samples=samples, seed=seed)
        fresh = runtime.load(path).predict(x, samples=samples, seed=seed)
        assert (found.probabilities == fresh.probabilities).all()


@pytest.mark.parametrize("kind", RANDOM)
def test_draws_are_those_of_the_library_in_law(saved, kind):
    """Means within 5 standard errors, and variances within 5 of theirs."""
    _, model, fit, x = saved(kind)
    x, number = x[:4], 300
    ours = np.stack(
        [model.predict(x, samples=1, seed=s).probabilities for s in range(number)]
    )
    key = jax.random.key(7)
    passes = predictive.passes(
        fit.apply_fn,
        fit.weights,
        fit.masks,
        x,
        likelihood=fit.likelihood,
        key=key,
        num_samples=number,
    )
    theirs = np.exp(np.stack(list(passes)))
    spread = np.sqrt((ours.var(0) + theirs.var(0)) / number)
    assert spread.min() > 1e-5
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 5 * spread).all()
    squares = [(a - a.mean(0)) ** 2 for a in (ours, theirs)]
    error = np.sqrt(sum(a.var(0) for a in squares) / number)
    assert (np.abs(squares[0].mean(0) - squares[1].mean(0)) < 5 * error).all()


def test_scores_are_of_the_draws(saved):
    """Entropy and mutual information of single draws, averaged by hand."""
    _, model, _, x = saved("mlp")
    number = 20
    found = model.predict(x, samples=number, seed=3)
    one, two = (model.predict(x, samples=k, seed=3) for k in (1, 2))
    second = 2 * two.probabilities.astype(np.float64) - one.probabilities
    assert np.abs(second - one.probabilities).max() > 1e-3
    np.testing.assert_allclose(second.sum(-1), 1, atol=1e-5)

    def entropy(p):
        return -(p * np.log(p)).sum(-1)

    both = entropy(two.probabilities.astype(np.float64))
    np.testing.assert_allclose(two.entropy, both, atol=1e-5)
    each = (entropy(one.probabilities.astype(np.float64)) + entropy(second)) / 2
    np.testing.assert_allclose(two.mutual_information, both - each, atol=1e-4)
    assert (found.mutual_information > 0).all()
    assert (found.labels == found.probabilities.argmax(-1)).all()


@pytest.mark.parametrize("kind", ["mlp", "nnx mlp", "cnn", "resnet", "lstm"])
def test_moments_are_nearer_to_the_draws_than_the_mean_network(saved, kind):
    _, model, _, x = saved(kind)
    drawn = model.predict(x, samples=400)
    means, moments = (model.predict(x, mode=mode) for mode in ("mean", "moments"))
    error = np.abs(moments.entropy - drawn.entropy).mean()
    assert error < 0.006
    assert error < np.abs(means.entropy - drawn.entropy).mean()
    assert np.abs(moments.probabilities - drawn.probabilities).mean() < 0.006
    scores = moments.mutual_information, drawn.mutual_information
    assert np.corrcoef(*scores)[0, 1] > 0.9
    assert 0.7 < scores[0].mean() / scores[1].mean() < 2


def test_moments_of_one_layer_are_exact_in_law(tmp_path):
    """Logits of a dense layer are Gaussian: probabilities by a quadrature in NumPy."""
    x = runtime_models.inputs((6,), 5)
    fit = runtime_models.fitted(nn.Dense(2), x, sigma=0.5)
    fit.save(tmp_path / "model.ssvi", half=False)
    found = runtime.load(tmp_path / "model.ssvi").predict(x, mode="moments")
    (path,) = fit.masks
    packed, mask = fit.weights.posterior[path], fit.masks[path]
    mean, variance = np.zeros(mask.shape), np.zeros(mask.shape)
    mean[mask] = packed.mean
    assert isinstance(packed, Gaussian)
    variance[mask] = np.logaddexp(0, np.asarray(packed.rho, np.float64)) ** 2
    logits = x @ mean + np.asarray(fit.weights.params["bias"])
    spread = np.sqrt((x**2) @ variance)
    node, weight = np.polynomial.hermite_e.hermegauss(60)
    margin = logits[:, 1] - logits[:, 0]
    total = np.hypot(*spread.T)
    shifted = margin[:, None] + total[:, None] * node
    want = (weight / weight.sum() / (1 + np.exp(-shifted))).sum(-1)
    # 512 draws in pairs: a standard error of at most 0.02.
    np.testing.assert_allclose(found.probabilities[:, 1], want, atol=0.03)


def test_points_have_no_mutual_information(tmp_path):
    module, shape = runtime_models.KINDS["nnx mlp"]
    x = runtime_models.inputs(shape, 3)
    runtime_models.fitted(module, x, sigma=0).save(tmp_path / "model.ssvi")
    model = runtime.load(tmp_path / "model.ssvi")
    assert not model.is_random
    mean = model.predict(x, mode="mean").probabilities
    for mode in ("samples", "moments"):
        found = model.predict(x, mode=mode)
        np.testing.assert_allclose(found.probabilities, mean, atol=1e-6)
        assert not found.mutual_information.any()


# Refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mode": "median"}, "mode: got 'median', allowed: mean, moments, samples"),
        ({"samples": 0}, "samples: got 0, allowed: a whole number above 0"),
        ({"seed": -1}, "seed: got -1, allowed: 0 to"),
        ({"seed": 0.5}, "seed: got 0.5, allowed: a whole number, 0 to"),
        ({"threads": 0}, "threads: got 0, allowed: a whole number above 0"),
        ({"x": np.zeros((2, 11))}, r"x: got shape \(2, 11\), allowed: \[n, 12\]"),
        ({"x": np.zeros((0, 12))}, r"x: got shape \(0, 12\)"),
        ({"x": 1.0}, r"x: got shape \(\), allowed: \[n, 12\]"),
        ({"x": [[1, 2], [3]]}, "x: got no array"),
        ({"samples": 2**21}, "samples: got 2097152, allowed: 1 to 1,048,576"),
        ({"threads": 2**32}, "threads: got 4294967296, allowed: 1 to 1,024"),
        ({"x": "text"}, "x: got dtype <U4, allowed: an array of real numbers"),
        ({"x": np.zeros((2, 12), complex)}, "x: got dtype complex128, allowed"),
        ({"x": np.ma.ones((2, 12))}, "x: got a masked array, allowed"),
        ({"x": np.full((2, 12), 1e300)}, "x: input 0 has a number that is not finite"),
    ],
)
def test_refused_calls(saved, options, text):
    _, model, _, x = saved("mlp")
    with pytest.raises(InputError, match=f"^{text}"):
        model.predict(options.pop("x", x), **options)


class OfBytes(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x / 255.0)


def test_a_network_of_bytes_takes_nothing_else(tmp_path):
    """Pixels from 0 to 1 would all be nearly black."""
    x = np.arange(24, dtype=np.uint8).reshape(2, 12) * 10
    runtime_models.fitted(OfBytes(), x).save(tmp_path / "model.ssvi")
    model = runtime.load(tmp_path / "model.ssvi")
    expected = model.predict(x).probabilities
    assert (model.predict(x.astype(float)).probabilities == expected).all()
    for wrong in (x / 255, x - 1.0, x + 256.0):
        with pytest.raises(InputError, match=r"takes pixels: whole numbers from 0"):
            model.predict(wrong)


@pytest.mark.parametrize("name", ["input_shape", "num_classes", "is_random"])
def test_what_a_model_is_cannot_be_set(saved, name):
    """Memory for its results depends on it."""
    _, model, _, _ = saved("mlp")
    with pytest.raises(AttributeError):
        setattr(model, name, 3)


@pytest.mark.parametrize("n", [0, -1, 2**62, 2**63 - 1])
def test_numbers_of_inputs_that_no_memory_holds(saved, n):
    _, model, _, x = saved("mlp")
    out = np.empty((1, model.num_classes), np.float32)
    x, options = np.asarray(x[:1], np.float32), binding.Options(samples=1)
    code = binding.library().ssvi_predict(
        model._handle, _pointer(x), n, options, _pointer(out), None, None
    )
    assert code == binding.BAD_CALL
    with pytest.raises(InputError, match=r"^n: allowed are 1 to"):
        binding.check(code, "x")


@pytest.mark.parametrize("mode", ["mean", "samples", "moments"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_never_predicted_with(saved, mode, value):
    """Nor where no weight reads it, or a rectifier follows."""
    _, model, _, x = saved("cnn")
    x = x[:3].copy()
    x[1, 2, 3, 0] = value
    with pytest.raises(InputError, match="x: input 1 has a number that is not finite"):
        model.predict(x, mode=mode)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])
def test_a_copy_is_a_model_of_its_own(saved, again):
    path, _, _, x = saved("mlp")
    model = runtime.load(path)
    expected, other = model.predict(x), again(model)
    del model
    assert (other.predict(x).probabilities == expected.probabilities).all()


@pytest.mark.parametrize(
    ("kind", "text"),
    [("vision transformer", "attention"), ("weight norm", "a kernel that is computed")],
)
def test_moments_that_are_not_known(saved, kind, text):
    _, model, _, x = saved(kind)
    with pytest.raises(InputError, match=f"moments are not known for {text}"):
        model.predict(x, mode="moments")


def test_files_without_a_graph(tmp_path):
    with pytest.raises(InputError, match=r"path: got .*which cannot be read"):
        runtime.load("a\0b")
    with pytest.raises(InputError, match=r"path: got .*which cannot be read"):
        runtime.load(tmp_path / "none.ssvi")
    old = smoke_run.ROOT / "results" / RUNS[0] / "model.ssvi"
    with pytest.raises(InputError, match="it holds no graph; write it again"):
        runtime.load(old)
    module, shape = runtime_models.KINDS["mlp"]
    x, path = runtime_models.inputs(shape, 2), tmp_path / "model.ssvi"
    likelihood = ssvi_jax.Normal(0.1)
    runtime_models.fitted(module, x, likelihood=likelihood).save(path)
    with pytest.raises(InputError, match="runs under JAX only: its outputs are not"):
        runtime.load(path)
    runtime_models.fitted(nn.Dense(1), x).save(path)
    with pytest.raises(InputError, match="runs under JAX only: it has one output"):
        runtime.load(path)
