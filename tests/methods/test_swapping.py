"""SSVI on a network: its start, when its masks change, and what a swap does."""

import json
import math

import jax
import numpy as np
import pytest
import smoke_run

from ssvi_jax import vi
from ssvi_jax.core.errors import InputError
from ssvi_jax.methods import SSVI
from ssvi_jax.methods.algorithms import gaussians
from ssvi_jax.methods.algorithms.swapping import Swapping
from ssvi_jax.vi import criteria, priors


@pytest.fixture(scope="module")
def problem():
    return smoke_run.tiny_problem()


def rng():
    return np.random.default_rng(3)


def make_ssvi(problem, **changes) -> Swapping:
    return SSVI(**changes).build(problem)


def test_initial_values_are_those_of_the_configuration(problem):
    method = make_ssvi(problem, sparsity=0.0, mean_init=0.01, sigma_init=6e-4)
    state, masks = method.init(jax.random.key(0), rng())
    assert all(mask.all() for mask in masks.values())
    mean, rho = (np.asarray(leaf) for leaf in state.posterior["dense1/kernel"])
    sigma = np.logaddexp(0, rho)
    # Standard errors: 0.01/√(2n) of a standard deviation, n = 4096; 5 of them.
    assert np.std(mean) == pytest.approx(0.01, abs=5 * 0.01 / math.sqrt(2 * 4096))
    # E abs N(a, b²) with b = 5a/6, a = 6e-4 (its folded mean), 5 standard errors.
    a, b = 6e-4, 5e-4
    folded = a * math.erf(a / b / 2**0.5) + b * math.sqrt(2 / math.pi) * math.exp(
        -((a / b) ** 2) / 2
    )
    assert np.mean(sigma) == pytest.approx(folded, abs=5 * b / 64)
    he = make_ssvi(problem, sparsity=0.0).init(jax.random.key(0), rng())[0]
    mean = np.asarray(he.posterior["dense1/kernel"].mean)
    assert np.std(mean) == pytest.approx(math.sqrt(2 / 64), rel=5 / math.sqrt(2 * 4096))


def test_the_same_key_and_rng_give_the_same_start(problem):
    method = make_ssvi(problem)
    starts = [
        method.init(jax.random.key(k), np.random.default_rng(k)) for k in (0, 0, 1)
    ]
    (one, a), (two, b), (three, c) = starts
    for path in a:
        np.testing.assert_array_equal(a[path], b[path])
        np.testing.assert_array_equal(
            one.posterior[path].mean, two.posterior[path].mean
        )
        assert (a[path] != c[path]).any()
        assert (one.posterior[path].mean != three.posterior[path].mean).any()


@pytest.mark.parametrize("changes", [{"sparsity": 0.9999}, {"densities": "x"}])
def test_densities_are_checked_when_it_is_built(problem, changes):
    with pytest.raises(InputError, match="densities: "):
        make_ssvi(problem, **changes)


def test_swaps_are_due_while_there_is_something_to_swap(problem, tmp_path):
    method = make_ssvi(problem, grow_batches=3, replacement_end=0.5)
    total = problem.total_steps
    assert method.num_growth_batches(10) == 3
    assert method.num_growth_batches(total // 2) == 0
    assert make_ssvi(problem, replacement_rate=0.0).num_growth_batches(10) == 0
    assert make_ssvi(problem, sparsity=0.0).num_growth_batches(10) == 0
    # Densities by hand set the sparsity, whatever --sparsity says.
    path = tmp_path / "densities.json"
    for density, due in ((0.5, 1), (1.0, 0)):
        path.write_text(json.dumps({layer.path: density for layer in problem.layers}))
        by_hand = make_ssvi(problem, sparsity=0.0, densities=str(path))
        assert by_hand.num_growth_batches(10) == due


def test_the_replacement_rate_follows_its_schedule(problem):
    method = make_ssvi(problem, replacement_rate=0.2, replacement_schedule="linear")
    end = 0.75 * problem.total_steps
    assert method.rate(0) == 0.2
    assert method.rate(15) == pytest.approx(0.2 * (1 - 15 / end))
    assert method.rate(int(end)) == 0


def stub_swap(problem, monkeypatch, **changes):
    """One swap with given gradients: (method, masks before, after, log)."""
    method = make_ssvi(problem, replacement_rate=0.3, **changes)
    state, masks = method.init(jax.random.key(0), rng())
    asked = {}

    def gradient(self, state, masks, arrays, rows, *, at_mean):
        asked.update(at_mean=at_mean, rows=rows)
        generator = np.random.default_rng(0)
        return {path: generator.random(mask.shape) for path, mask in masks.items()}

    monkeypatch.setattr(vi.VI, "dense_gradient", gradient)
    rows = np.zeros((1, 4), np.int32)
    _, new, event = method.swap(state, masks, ((), ()), rows, rng())  # type: ignore[arg-type]
    return method, masks, new, event, asked


def test_a_swap_moves_the_announced_number(problem, monkeypatch):
    method, old, new, event, asked = stub_swap(problem, monkeypatch, grow_at_mean=True)
    rate = method.rate(0)
    assert event["replacement_rate"] == rate == 0.3
    counts = {path: int(mask.sum()) for path, mask in old.items()}
    assert {path: int(mask.sum()) for path, mask in new.items()} == counts
    assert event["num_swapped"] == sum(round(rate * count) for count in counts.values())
    assert asked["at_mean"] is True


def test_random_addition_needs_no_gradient(problem, monkeypatch):
    *_, event, asked = stub_swap(problem, monkeypatch, addition="random")
    assert event["num_swapped"] > 0
    assert asked == {}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("log_uniform", {}),
        ("gaussian", {"std": 0.2}),
        ("scale_mixture", {"pi": 0.5, "std1": 0.2, "std2": 0.02}),
        ("laplace", {"scale": 0.2 / math.sqrt(2)}),  # of variance 2 · scale²
    ],
)
def test_every_prior_has_the_standard_deviation_asked_for(name, parameters):
    prior = gaussians.prior(SSVI(prior=name, prior_std=0.2))
    assert type(prior) is priors.PRIORS[name]
    assert {key: getattr(prior, key) for key in parameters} == parameters


@pytest.mark.parametrize("name", sorted(criteria.REMOVAL))
def test_every_removal_score_can_be_asked_for(problem, name, monkeypatch):
    *_, event, _ = stub_swap(problem, monkeypatch, removal=name, removal_lambda=2.0)
    assert event["num_swapped"] > 0


def test_settings_reach_the_training_step(problem):
    method = make_ssvi(problem, estimator="weight_sample", kl_scale=0.3, kl_warmup=0.25)
    assert method.inference.estimator == "weight_sample"
    assert method.inference.num_data == problem.num_data == 1294
    total = problem.total_steps
    for step, weight in ((0, 0.0), (total // 8, 0.15), (total, 0.3)):
        got = method.inference.kl_weight(jax.numpy.asarray(step))
        np.testing.assert_allclose(np.asarray(got), weight, rtol=1e-6)
