"""Ensembles: what every member is alone, swaps, and mixtures on one mask."""

import dataclasses
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smoke_run
from signals import signal_at
from tiny import assert_close, assert_equal
from tiny_methods import arrays, build

from ssvi_jax import data
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Gaussian, Weights
from ssvi_jax.evaluation.shift import subjects
from ssvi_jax.evaluation.shift.kept_predictions import ImageSet, Predictions
from ssvi_jax.io import artifact
from ssvi_jax.methods import DeepEnsemble
from ssvi_jax.networks import members, network
from ssvi_jax.vi import criteria
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi.execution import Execution

ROWS = np.random.default_rng(7).integers(0, 500, (2, 10, 16)).astype(np.int32)
SPARSE = {"sparsity": 0.9, "replacement_rate": 0.3}
SSVI = {**SPARSE, "sigma_init": 0.05}
IVONS = ("ssvi_ivon_ensemble", "ssvi_ivon_mixture")
PAIRS = [("ensemble", "deterministic", {}), ("ssvi_ensemble", "ssvi", SSVI)]
KEY = jax.random.key(0)


def rngs(number=1):
    """Those of K members for the initialization, and for the swap."""
    for seed in (3, 4):
        rng = np.random.default_rng(seed)
        yield [rng, *rng.spawn(number - 1)]


def trained(method, of=(0, 1), key=KEY, inputs=None):
    """Two phases with a swap between them, of member k of K: state, masks, traces."""
    inputs = inputs or arrays()
    first, second = (each[of[0]] for each in rngs(of[1]))
    state, found = method.init(key, first)
    state, traces = method.step(state, found, inputs, ROWS[0])
    if method.num_growth_batches(10):
        state, found, _ = method.swap(state, found, inputs, ROWS[1][:1], second)
    state, _ = method.step(state, found, inputs, ROWS[1])
    return state, found, traces


def assert_member(ensemble, got, k, expected):
    """Member k is this state on these masks, bit for bit."""
    assert_equal(ensemble.member(got[0], k)._asdict(), expected[0]._asdict())
    assert_equal({path: mask[k] for path, mask in got[1].items()}, expected[1])


@pytest.mark.parametrize(
    ("several", "single", "changes"),
    [
        *PAIRS,
        ("ssvi_mixture", "ssvi", SSVI),
        *((several, "ssvi_ivon", SPARSE) for several in IVONS),
    ],
)
def test_one_member_is_the_method_itself(several, single, changes):
    ensemble = build(several, members=1, **changes)
    got, expected = trained(ensemble), trained(build(single, **changes))
    assert_member(ensemble, got, 0, expected)
    assert_close(got[2], expected[2], 1e-6)


@pytest.mark.usefixtures("optimized")  # two programs, compiled alike
@pytest.mark.parametrize(("several", "single", "changes"), PAIRS)
def test_a_member_is_the_method_with_its_own_start_and_order(several, single, changes):
    ensemble, alone = build(several, members=3, **changes), build(single, **changes)
    got, (x, y) = trained(ensemble), arrays()
    keys, traces = members.keys(KEY, 3), []
    for k, order in enumerate(ensemble.orders):
        np.testing.assert_array_equal(np.sort(order), np.arange(len(y)))
        assert (order == np.arange(len(y))).all() == (k == 0)
        params, model_state = alone.problem.apply_fn.init(keys[k])
        own = dataclasses.replace(alone.problem, params=params, model_state=model_state)
        member = dataclasses.replace(alone, problem=own)
        expected = trained(member, (k, 3), keys[k], (x[order], y[order]))
        if several == "ensemble":  # XLA's convolutions of several are not those of one
            weights = ensemble.member(got[0], k).weights
            assert_close(weights, expected[0].weights, 1e-4)
        else:
            assert_member(ensemble, got, k, expected)
        traces.append(expected[2])
    mean = jax.tree.map(lambda *t: np.mean(t, axis=0), *traces)
    assert_close(got[2], mean, 1e-5)


@pytest.mark.parametrize(("several", "single", "changes"), PAIRS)
def test_members_at_once_are_members_one_by_one(several, single, changes):
    del single
    changes = {**changes, "members": 3, "backend": "xla"}
    one, two = (build(several, members_at_once=n, **changes) for n in (1, 2))
    assert (one.at_once, two.at_once) == (1, 2)
    a, b = (trained(method) for method in (one, two))
    assert_close(a[0].params, b[0].params, 1e-4)
    assert_close(a[2], b[2], 1e-4)


@pytest.mark.parametrize("method", ["ssvi_ensemble", "ssvi_mixture", *IVONS])
def test_every_member_keeps_its_counts(method):
    ensemble = build(method, members=3, **SPARSE)
    _, before = ensemble.init(KEY, np.random.default_rng(3))
    state, after, _ = trained(ensemble)
    for path, mask in after.items():
        count = ensemble.base.counts[path]
        for old, new in zip(before[path], mask, strict=True):
            assert old.sum() == new.sum() == count
            assert (old != new).any()
        same = [(mask[0] == mask[k]).all() for k in (1, 2)]
        assert same == [method.endswith("mixture")] * 2
        means = np.reshape(state.posterior[path].mean, (3, count))
        assert all((means[0] != means[k]).any() for k in (1, 2))


def test_a_mixture_swaps_by_the_components_means_of_scores():
    mixture = build("ssvi_mixture", members=3, removal="snr", **SSVI)
    (x, y), (first, second) = arrays(), (each[0] for each in rngs())
    state, old = mixture.init(KEY, first)
    state, _ = mixture.step(state, old, (x, y), ROWS[0])
    each = [mixture.member(state, k) for k in range(3)]
    own = {path: mask[0] for path, mask in old.items()}
    gradients = [
        mixture.base.inference.dense_gradient(
            each[k], own, (x, y), mixture.orders[k][ROWS[1][:1]]
        )
        for k in range(3)
    ]
    scores = {
        path: np.mean([score(member.posterior[path]) for member in each], axis=0)
        for path in own
    }
    state, new, event = mixture.swap(state, old, (x, y), ROWS[1][:1], second)
    rate, swapped, came = mixture.base.rate(10), 0, 0
    for path, mask in own.items():
        count = round(rate * mask.sum())
        swapped += count
        kept = mask.reshape(-1).copy()
        kept[np.flatnonzero(kept)[np.argsort(scores[path])[:count]]] = False
        gradient = np.mean([g[path] for g in gradients], axis=0).reshape(-1)
        gradient[kept] = -1
        kept[np.argsort(-gradient)[:count]] = True
        came += np.count_nonzero(kept & ~mask.reshape(-1))
        for k in range(3):
            np.testing.assert_array_equal(new[path][k].reshape(-1), kept)
    assert event == {
        "replacement_rate": rate,
        "num_swapped": swapped,
        "num_returned": swapped - came,
    }


def test_an_ensemble_logs_the_swaps_of_all():
    ensemble = build("ssvi_ensemble", members=3, **SSVI)
    state, old = ensemble.init(KEY, np.random.default_rng(3))
    _, new, event = ensemble.swap(
        state, old, arrays(), ROWS[1][:1], np.random.default_rng(4)
    )
    came = sum(int((new[path] & ~mask).sum()) for path, mask in old.items())
    assert event["num_swapped"] - event["num_returned"] == came > 0


def score(packed):
    sigma = np.logaddexp(0, np.asarray(packed.rho, np.float64))
    return criteria.removal_scores("snr", np.asarray(packed.mean), sigma)


def test_a_member_is_taken_out_of_weights_and_masks():
    rng = np.random.default_rng(0)
    each = [masks_lib.random_masks({"a": (3, 4)}, {"a": 5}, rng) for _ in range(3)]
    mean = np.arange(15, dtype=np.float32)
    params = {"b": jnp.asarray(rng.normal(size=(3, 4)))}
    weights = Weights(
        {"a": Gaussian(jnp.asarray(mean), jnp.asarray(-mean))},
        params,
        {"c": jnp.arange(3)},
    )
    stacked = masks_lib.to_subspace(members.stack(each))
    for k, mask in enumerate(members.unstack(members.stack(each), 3)):
        assert_equal(mask, each[k])
        got, subspace = jax.jit(members.one, static_argnums=3)(weights, stacked, k, 3)
        np.testing.assert_array_equal(got.posterior["a"].mean, mean[5 * k : 5 * k + 5])
        np.testing.assert_array_equal(got.params["b"], params["b"][k])
        assert got.model_state["c"] == k
        np.testing.assert_array_equal(subspace.index["a"], np.flatnonzero(mask["a"]))
        assert subspace.shapes == (("a", (3, 4)),)


# Runs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ensemble", "ssvi_ensemble", "ssvi_mixture"])
def test_resumes_bit_for_bit(method, tmp_path, monkeypatch):
    changes = {"method": method, "members": 2, "epochs": 2}
    smoke_run.tiny_train(tmp_path / "whole", **changes)
    with monkeypatch.context() as patch:
        signal_at(patch, 20, signal.SIGTERM)
        stopped = smoke_run.tiny_train(tmp_path / "run", **changes)
    assert (stopped.signal, stopped.step) == (signal.SIGTERM, 20)
    smoke_run.tiny_train(tmp_path / "run", resume=True, **changes)
    assert smoke_run.events(tmp_path / "run") == smoke_run.events(tmp_path / "whole")
    np.testing.assert_array_equal(
        smoke_run.checkpoint_bytes(tmp_path / "run"),
        smoke_run.checkpoint_bytes(tmp_path / "whole"),
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the command, and what it said."""
    folder = tmp_path_factory.mktemp("ensemble") / "run"
    flags = ["--method", "ssvi_ensemble", "--members", "2", "--out", folder]
    outcome = smoke_run.command(*smoke_run.TINY, "--no-figures", *flags)
    assert (outcome.code, outcome.err) == (0, "")
    return folder, outcome.out


def test_a_run_counts_all_members(finished):
    folder, said = finished
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["members"], summary["samples"]) == (2, 3)
    assert summary["weights_total"] == 2 * 8832
    assert summary["weights_kept"] == 2 * 442
    assert summary["layers"][0]["shape"] == [2, 64, 64]
    assert summary["predict_flops"] == 3 * 2 * summary["weights_kept"]
    growth = (2 * 2 * 2 * 884 + 2 * 17664) / 10
    step = 64 * (3 * 2 * 2 * 884 + growth)
    assert summary["train_step_flops"] == pytest.approx(step)
    assert summary["diversity"]["disagreement"] > 0
    assert summary["model_file"]["max_probability_difference_mean"] < 1e-2
    assert "2 × 3 samples" in said


def test_model_file_and_checkpoint_are_one_network_under_shift(finished, tmp_path):
    folder, _ = finished
    digits = data.load("digits")
    images = ImageSet("clean", digits.test_images[:20], digits.test_labels[:20])
    predictions, found = Predictions(tmp_path, samples=2, seed=0), []
    for source in subjects.find([folder], [], [folder]):
        subject = subjects.load(source, digits)
        assert subject.about["weights_total"] == 2 * 8832
        found.append(predictions.get(subject, images))
    for kind in ("mc", "mean"):
        a, b = (predicted.probs[kind] for predicted in found)
        np.testing.assert_allclose(a, b, atol=0.02)


def test_members_of_a_model_file_must_be_even(finished, tmp_path):
    net, weights, masks = network.load(finished[0] / "model.ssvi")
    assert net.spec.copies == 2
    mask = next(mask for mask in masks.values() if not mask.all())
    mask[0].reshape(-1)[np.argmin(mask[0])] = True
    mask[1].reshape(-1)[np.argmax(mask[1])] = False
    config = dataclasses.asdict(net.spec)
    path = tmp_path / "uneven.ssvi"
    artifact.save(path, weights, masks, config=config)
    with pytest.raises(InputError, match="do not keep equally many weights"):
        network.load(path)
    with pytest.raises(InputError, match="copies: got -1"):
        network.NetworkSpec.from_json({**config, "copies": -1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members_at_once": 5}, "^members_at_once: got 5, allowed: 0 to 4, the num"),
        ({"members_at_once": -1}, "^members_at_once: got -1, allowed: 0 or more"),
        ({"members": 0}, "^members: got 0, allowed"),
        ({"sparsity": 0.5}, "^sparsity: no setting of the method ensemble"),
        ({"prior_std": 0.3}, "^prior_std: no setting of the method ensemble"),
        ({"replacement_rate": 0.5}, "^replacement_rate: no setting of the method ens"),
        ({"bound": "mixture"}, "^bound: no setting of the method ensemble"),
        ({"method": "ssvi", "members_at_once": 2}, "^members_at_once: no setting of "),
        ({"method": "ssvi_mixture", "sparsity": 0.9999}, "densities: "),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        build(**{"method": "ensemble", **changes})


def test_data_that_is_streamed_is_refused():
    problem = smoke_run.tiny_problem(method="ensemble")
    streamed = dataclasses.replace(problem, execution=Execution(streamed=True))
    with pytest.raises(InputError, match="got an ensemble with data that is streamed"):
        DeepEnsemble().build(streamed)
