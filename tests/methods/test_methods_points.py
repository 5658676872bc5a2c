"""RigL, SET, static masks, pruning by magnitude and sparse variational dropout."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
import oracles
import pytest
import smoke_run
import tiny_methods
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ssvi_jax import vi
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Gaussian, Point
from ssvi_jax.methods import METHODS
from ssvi_jax.methods.algorithms import pruning
from ssvi_jax.ops import custom_calls
from ssvi_jax.vi import densities, masks, posterior
from ssvi_jax.vi.priors import LogUniformPrior

SPARSE = ("rigl", "set", "static")
POINTS = (*SPARSE, "magnitude")


@pytest.fixture(scope="module")
def problem():
    return smoke_run.tiny_problem()


def build(problem, method, **changes) -> Any:
    return smoke_run.tiny_config(method=method, **changes).method.build(problem)


# Sparse from the first step on ------------------------------------------------------


@pytest.mark.parametrize("name", SPARSE)
def test_points_on_masks_of_the_density_rule(problem, name):
    state, kept = build(problem, name, sparsity=0.8).init(
        jax.random.key(0), np.random.default_rng(0)
    )
    counts = densities.layer_counts(problem.shapes, 0.8, "erk")
    assert masks.counts(kept) == counts
    for path, packed in state.posterior.items():
        assert isinstance(packed, Point)
        # He's scale for the average number of selected inputs; 5 standard errors.
        std = math.sqrt(2 * problem.shapes[path][-1] / counts[path])
        error = 5 / math.sqrt(2 * counts[path])
        assert np.std(packed.mean) == pytest.approx(std, rel=error)


@pytest.mark.parametrize("name", ["rigl", "set"])
def test_the_smallest_leave_and_the_rest_stays(problem, name, monkeypatch):
    method = build(problem, name)
    state, old = method.init(jax.random.key(0), np.random.default_rng(0))
    means = {path: np.asarray(q.mean) for path, q in state.posterior.items()}
    scores = {
        path: np.random.default_rng(1).random(mask.shape) for path, mask in old.items()
    }
    asked = []
    monkeypatch.setattr(
        vi.VI, "dense_gradient", lambda *_, **__: asked.append(1) or scores
    )
    rows = np.zeros((1, 4), np.int32)
    rng = np.random.default_rng(2)
    state, new, event = method.swap(state, old, ((), ()), rows, rng)  # type: ignore[arg-type]
    assert bool(asked) == (name == "rigl")
    if name == "set":
        rng = np.random.default_rng(2)
        scores = {path: rng.random(old[path].shape) for path in sorted(old)}
    assert event["replacement_rate"] == 0.3  # Evci et al.: alpha = 0.3
    for path, mask in old.items():
        count = round(0.3 * mask.sum())
        flat, source = oracles.swap(mask, np.abs(means[path]), scores[path], count)
        np.testing.assert_array_equal(new[path].reshape(-1), flat)
        want = [0.0 if s is None else means[path][s] for s in source]
        np.testing.assert_array_equal(state.posterior[path].mean, want)


def test_when_masks_change(problem):
    total = problem.total_steps
    for name, due in (("rigl", 1), ("set", 1), ("static", 0)):
        method = build(problem, name)
        assert method.num_growth_batches(10) == due
        assert method.num_growth_batches(round(0.75 * total)) == 0


# Dense, then pruned -----------------------------------------------------------------


def packed(arrays):
    return {str(i): Point(values) for i, values in enumerate(arrays)}  # type: ignore[arg-type]


few = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 1.0, 3.0])
arrays = st.lists(hnp.arrays(np.float32, st.integers(1, 6), elements=few), min_size=1)


@given(arrays, st.data())
def test_the_largest_of_each_kernel_are_kept(values, draw):
    counts = {str(i): draw.draw(st.integers(0, v.size)) for i, v in enumerate(values)}
    kept = pruning.keep_counts(counts)(packed(values))
    for i, v in enumerate(values):
        order = np.argsort(np.abs(v), kind="stable")  # of ties the later ones stay
        assert set(np.flatnonzero(kept[str(i)])) == {*order[v.size - counts[str(i)] :]}


@given(arrays, st.data())
def test_the_largest_of_all_are_kept_and_one_of_each(values, draw):
    total = sum(v.size for v in values)
    count = draw.draw(st.integers(len(values), total))
    kept = list(pruning.keep_largest(count)(packed(values)).values())
    assert sum(int(k.sum()) for k in kept) == count
    sizes = [np.abs(v) for v in values]
    for k, v in zip(kept, sizes, strict=True):
        assert v[k].max() == v.max()
    # But for the one that every kernel keeps, none that left is larger than one kept.
    gone = max(v[~k].max(initial=0) for k, v in zip(kept, sizes, strict=True))
    beyond = [np.sort(v[k])[:-1] for k, v in zip(kept, sizes, strict=True)]
    assert min(b.min(initial=np.inf) for b in beyond) >= gone


@pytest.mark.parametrize("name", ["magnitude", "svd"])
def test_it_is_dense_until_it_is_pruned_once(problem, name):
    method = build(problem, name, prune_at=0.3)
    state, full = method.init(jax.random.key(0), np.random.default_rng(0))
    assert all(mask.all() for mask in full.values())
    assert posterior.is_random(state.posterior) == (name == "svd")
    due = [step for step in range(0, 80, 10) if method.num_growth_batches(step)]
    assert due == [30]  # the first phase at or after 30 % of 80 steps


@pytest.mark.parametrize("rule", ["uniform", "erk", "global"])
def test_the_pruning_reaches_the_sparsity(problem, rule):
    method = build(problem, "magnitude", sparsity=0.9, densities=rule)
    state, full = method.init(jax.random.key(0), np.random.default_rng(0))
    before = {path: np.asarray(q.mean) for path, q in state.posterior.items()}
    rows, rng = np.zeros((1, 4), np.int32), np.random.default_rng(0)
    state, kept, event = method.swap(state, full, ((), ()), rows, rng)  # type: ignore[arg-type]
    total = sum(mask.size for mask in full.values())
    counts = masks.counts(kept)
    assert sum(counts.values()) == total - event["num_pruned"]
    # `uniform` rounds in each of the three kernels.
    slack = 1.5 if rule == "uniform" else 0
    assert sum(counts.values()) == pytest.approx(round(0.1 * total), abs=slack)
    if rule != "global":
        assert counts == densities.layer_counts(problem.shapes, 0.9, rule)
    for path, mask in kept.items():
        np.testing.assert_array_equal(
            state.posterior[path].mean, before[path][mask.reshape(-1)]
        )


def test_certain_weights_stay_and_one_of_a_kernel_that_is_noise():
    rng = np.random.default_rng(0)
    mean, sigma = rng.normal(size=200), np.exp(rng.normal(size=200))
    mean[0] = 0.0
    mixed = Gaussian(np.float32(mean), np.float32(np.log(np.expm1(sigma))))  # type: ignore[arg-type]
    noise = Gaussian(np.float32([0, 1e-3, -2e-3]), np.float32([0, 0, 0]))  # type: ignore[arg-type]
    kept = pruning.keep_certain({"mixed": mixed, "noise": noise})
    with np.errstate(divide="ignore"):
        np.testing.assert_array_equal(kept["mixed"], np.log(sigma**2 / mean**2) <= 3)
    assert 0 < kept["mixed"].sum() < 200
    np.testing.assert_array_equal(kept["noise"], [False, False, True])


def test_the_prior_of_sparse_variational_dropout_is_log_uniform(problem):
    inference = build(problem, "svd").inference
    assert inference.prior == LogUniformPrior()
    weight = inference.kl_weight(jax.numpy.asarray(problem.total_steps))
    assert np.asarray(weight) == 1


@pytest.mark.parametrize("name", ["magnitude", "svd"])
def test_what_multiplies_is_chosen_anew_when_it_is_pruned(problem, name):
    """XLA while it is dense; then the sparse kernels, where there are any."""
    few = pruning.keep_counts(dict.fromkeys(problem.shapes, 40))
    method = dataclasses.replace(build(problem, name), keep=few)
    state, kept = method.init(jax.random.key(0), np.random.default_rng(0))
    data, rows = tiny_methods.arrays(), np.zeros((1, 64), np.int32)
    assert not runs_kernels(method.inference, state, kept, data, rows)
    state, kept, _ = method.swap(state, kept, data, rows, np.random.default_rng(0))
    found = runs_kernels(method.inference, state, kept, data, rows)
    assert found == custom_calls.available()


def runs_kernels(inference, state, kept, data, rows):
    """Whether a phase calls the sparse kernels."""
    operands = inference, state, masks.to_subspace(kept), data, rows
    return "ssvi_" in type(inference)._scan.lower(*operands).as_text()


# Settings that make no sense --------------------------------------------------------

NOT_OF_POINTS = (
    *("estimator", "prior", "prior_std", "kl_scale", "kl_warmup"),
    *("sigma_init", "sigma_learning_rate", "growth_init", "grow_at_mean"),
)
NOT_OF_STATIC = (
    *("replacement_rate", "replacement_schedule", "replacement_end"),
    *("removal", "removal_lambda", "addition", "grow_batches"),
)
SENSELESS = {
    "rigl": (*NOT_OF_POINTS, "removal", "removal_lambda", "addition", "prune_at"),
    "set": (
        *NOT_OF_POINTS,
        *("removal", "removal_lambda", "addition", "grow_batches", "prune_at"),
    ),
    "static": (*NOT_OF_POINTS, *NOT_OF_STATIC, "prune_at"),
    "magnitude": (*NOT_OF_POINTS, *NOT_OF_STATIC),
    "svd": (
        *NOT_OF_STATIC,
        *("prior", "prior_std", "growth_init", "grow_at_mean"),
        *("sparsity", "densities"),
    ),
    "ssvi": ("prune_at",),
    "deterministic": ("prune_at", "sparsity", *NOT_OF_POINTS, *NOT_OF_STATIC),
}


@pytest.mark.parametrize("name", SENSELESS)
def test_settings_that_would_be_ignored_do_not_exist(name):
    assert not {*SENSELESS[name]} & {*METHODS[name].names()}
    assert {*SENSELESS[name]} <= {*METHODS["ssvi"].names(), "prune_at"}
    field = SENSELESS[name][0]
    with pytest.raises(InputError, match=f"^{field}: no setting of the method {name},"):
        smoke_run.tiny_config(method=name, **{field: 0.5})


@pytest.mark.parametrize("name", ["magnitude", "svd"])
def test_pruning_needs_a_time(problem, name):
    words = "^prune_at: got 0, allowed: a number above 0 and"
    with pytest.raises(InputError, match=words):
        build(problem, name, prune_at=0.0)
    one_phase = dataclasses.replace(problem, inner_steps=80)
    with pytest.raises(InputError, match=r"^inner_steps: got 80 for 80 steps"):
        build(one_phase, name)


def test_every_kernel_keeps_a_weight(problem):
    with pytest.raises(
        InputError, match=r"keeps 1 of 8832 weights, allowed: .* leaves 3"
    ):
        build(problem, "magnitude", sparsity=0.9999, densities="global")
    with pytest.raises(InputError, match="densities: got 'global', allowed: er, erk"):
        build(problem, "rigl", densities="global")
