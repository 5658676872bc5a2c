"""rank1 and batch_ensemble in the training loop: bounds, refusals, runs, resuming."""

import dataclasses
import json
import signal
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smoke_run
import tiny_methods
from signals import signal_at
from tiny import jit

import ssvi_jax
from ssvi_jax import data
from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.structure import Rank1Spec
from ssvi_jax.core.types import Point
from ssvi_jax.evaluation.shift import subjects
from ssvi_jax.evaluation.shift.kept_predictions import ImageSet, Predictions
from ssvi_jax.methods import BatchEnsemble, Rank1
from ssvi_jax.methods.algorithms.member_batches import MemberBound
from ssvi_jax.networks import network
from ssvi_jax.networks.rank1_priors import FastPrior
from ssvi_jax.vi import Trainable
from ssvi_jax.vi.likelihoods import Categorical


def build(**changes):
    return tiny_methods.build(**{"method": "rank1", **changes})


# The likelihood of K members ----------------------------------------------------------


def test_bounds_are_those_of_loops():
    logits = np.random.default_rng(0).normal(size=(3, 4, 5)) * 3
    labels = np.array([1, 4, 0])
    average, mixture = [], []
    for row, label in zip(logits, labels, strict=True):
        p = [np.exp(z[label]) / np.exp(z).sum() for z in row]
        average.append(np.mean(np.log(p)))
        mixture.append(np.log(np.mean(p)))
    got = [
        MemberBound(Categorical(), name).log_prob(
            jnp.asarray(logits), jnp.asarray(labels)
        )
        for name in ("average", "mixture")
    ]
    np.testing.assert_allclose(got[0], average, rtol=1e-5)
    np.testing.assert_allclose(got[1], mixture, rtol=1e-5)
    assert (got[1] >= got[0]).all()
    found = MemberBound(Categorical(), "average").metrics(
        jnp.asarray(logits), jnp.asarray(labels)
    )
    right = logits.argmax(axis=-1) == labels[:, None]
    np.testing.assert_allclose(found["accuracy"], right.mean())


def test_tiling_gives_every_example_to_every_member():
    method = build(method="batch_ensemble", member_batch="tile", members=3)
    plain, params = method.problem.apply_fn, method.problem.params
    x = jnp.asarray(data.load("digits").test_images[:4])
    options = {"train": False, "key": jax.random.key(0)}
    tiled, _ = jit(lambda p, x: method.inference.apply_fn(p, {}, x, **options))(
        params, x
    )
    assert tiled.shape == (4, 3, 10)
    for member in range(3):
        alone = jit(lambda p, x: plain(p, {}, x, **options)[0])(
            params, jnp.concatenate([x] * 3)
        )
        np.testing.assert_allclose(
            tiled[:, member], alone[4 * member :][:4], rtol=1e-5, atol=1e-5
        )


def test_the_loss_has_the_kl_of_the_factors_once():
    """(Not divided by K), weighted by β_t / N, on top of the likelihood."""
    method = build(kl_scale=0.5, kl_warmup=0.0)
    state, masks = method.init(jax.random.key(0), np.random.default_rng(0))
    arrays = tiny_methods.arrays()
    prior = FastPrior()
    total = jit(partial(method.problem.apply_fn.kl, prior))(
        state.params, jax.random.key(0)
    )
    _, metrics = method.step(state, masks, arrays, np.arange(64, dtype=np.int32)[None])
    np.testing.assert_allclose(metrics["kl"][0], total, rtol=1e-5)
    weight = 0.5 / method.problem.num_data
    np.testing.assert_allclose(
        metrics["loss"], metrics["nll"] + weight * metrics["kl"], rtol=1e-6
    )


def test_factors_have_a_rate_of_their_own_and_no_decay():
    """One step with only decay and no gradient: N/A to factors; rates by ratio."""
    rates = {}
    for scale in (1.0, 0.5):
        method = build(method="batch_ensemble", fast_rate_scale=scale, momentum=0.0)
        state, _ = method.init(jax.random.key(0), np.random.default_rng(0))
        gradients = jax.tree.map(jnp.ones_like, state.params)
        updates, _ = method.inference.tx.update(
            Trainable({}, gradients), state.opt_state, Trainable({}, state.params)
        )
        rates[scale] = trees.flatten(updates.params)
    for path, update in rates[1.0].items():
        factor = "rank1_" in path
        np.testing.assert_allclose(
            rates[0.5][path], (0.5 if factor else 1.0) * update, rtol=1e-6
        )
        assert (np.ptp(update) == 0) == (factor or path.endswith("bias")), path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"members": 3}, "^batch_size: got 64 for 3 members, allowed: a multiple of"),
        ({"bound": "mixture"}, "^bound: got mixture with member_batch split, allowed"),
        ({"fast_posterior": "cauchy"}, "got gaussian with a cauchy posterior"),
        ({"backend": "sparse"}, "^backend: got sparse for a dense network, allowed: "),
        ({"prior_std": 0.3}, "^prior_std: no setting of the method rank1"),
        (
            {"method": "batch_ensemble", "kl_scale": 1.0},
            "^kl_scale: no setting of the method batch_ensemble",
        ),
        (
            {"method": "batch_ensemble", "fast_prior": "cauchy"},
            "^fast_prior: no setting of the method batch_ensemble",
        ),
        (
            {"method": "deterministic", "members": 2},
            "^members: no setting of the method deterministic",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        build(**changes)


def test_a_network_without_factors_is_refused():
    plain = smoke_run.tiny_problem(method="deterministic")
    plain = dataclasses.replace(plain, apply_fn=lambda *args, **options: None)
    with pytest.raises(InputError, match=r"^network: got one without rank-1 factors"):
        Rank1().build(plain)


def test_factors_begin_around_one_or_as_signs():
    assert (Rank1().structure.rank1, BatchEnsemble().structure.rank1) == (
        Rank1Spec(init="normal", init_std=0.1),
        Rank1Spec(init="normal", init_std=0.1, posterior="point"),
    )
    signs = Rank1(fast_init_std=0.0, fast_sign_probability=0.75)
    assert signs.structure.rank1 == Rank1Spec(init="sign", sign_probability=0.75)


# Whole runs ---------------------------------------------------------------------------

RUNS = {
    "rank1": {"method": "rank1"},
    "batch ensemble": {"method": "batch_ensemble"},
    "tiled cauchy": {
        "method": "rank1",
        "members": 2,
        "member_batch": "tile",
        "bound": "mixture",
        "fast_posterior": "cauchy",
        "fast_prior": "cauchy",
    },
    "sparse": {"method": "rank1", "sparsity": 0.9},
}


SLOW = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("sparse", "tiled cauchy")
]


@pytest.mark.parametrize("name", ["rank1", "batch ensemble", *SLOW])
def test_resumes_bit_for_bit(name, tmp_path, monkeypatch):
    changes = {**RUNS[name], "epochs": 2}
    whole = smoke_run.tiny_train(tmp_path / "whole", **changes)
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
    losses = [e["nll"] for e in smoke_run.events(tmp_path / "run") if "nll" in e]
    assert losses[-1] < losses[0]
    if name == "sparse":
        leaves = whole.progress.state.posterior.values()
        assert {type(leaf) for leaf in leaves} == {Point}
        assert any("num_swapped" in e for e in smoke_run.events(tmp_path / "run"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the command, and what it said."""
    folder = tmp_path_factory.mktemp("rank1") / "run"
    flags = ["--method", "rank1", "--members", "2", "--no-figures", "--out", folder]
    outcome = smoke_run.command(*smoke_run.TINY, *flags)
    assert (outcome.code, outcome.err) == (0, "")
    return folder, outcome.out


def test_a_run_leaves_its_members(finished):
    folder, said = finished
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["members"], summary["samples"]) == (2, 3)
    assert summary["test"].keys() == {"mc", "mean"}
    assert summary["predict_flops"] == 2 * 3 * 2 * summary["weights_kept"]
    assert summary["diversity"].keys() == {"disagreement", "kl", "cosine_similarity"}
    assert summary["model_file"]["max_probability_difference_mean"] < 1e-2
    assert "2 × 3 samples" in said
    assert "members' means" in said
    with np.load(folder / "predictions.npz") as stored:
        assert stored["member_probs"].shape[0] == 2
        assert stored["sample_entropy"].shape[0] == 6


def test_model_file_and_checkpoint_are_one_network_under_shift(finished, tmp_path):
    folder, _ = finished
    digits = data.load("digits")
    net, weights, masks = network.load(folder / "model.ssvi")
    assert (net.num_members, net.is_random, masks) == (2, True, {})
    layers = weights.params.values()
    assert all(layer.keys() >= {"rank1_r", "rank1_s", "kernel"} for layer in layers)
    images = ImageSet("clean", digits.test_images[:20], digits.test_labels[:20])
    predictions, found = Predictions(tmp_path, samples=2, seed=0), []
    for source in subjects.find([folder], [], [folder]):
        found.append(predictions.get(subjects.load(source, digits), images))
    for kind in ("mc", "mean"):
        a, b = (predicted.probs[kind] for predicted in found)
        np.testing.assert_allclose(a, b, atol=0.02)
        assert (a != b).any()
    assert found[0].sample_entropy.shape == (4, 20)


def test_a_broken_description_of_members_is_refused(finished):
    spec = network.load(finished[0] / "model.ssvi")[0].spec
    values = dataclasses.asdict(spec)
    assert network.NetworkSpec.from_json(values) == spec
    del values["rank1"]
    assert network.NetworkSpec.from_json(values).rank1 is None
    with pytest.raises(InputError, match="needed: the fields of NetworkSpec"):
        network.NetworkSpec.from_json({**values, "rank1": {"x": 1}})
    with pytest.raises(InputError, match="num_members: got 0"):
        network.NetworkSpec.from_json({**values, "rank1": {"num_members": 0}})


@pytest.mark.parametrize("member_batch", ["split", "tile"])
def test_inputs_of_several_arrays_are_drawn_for_and_tiled(member_batch):
    """As one array of them, of which every example has its own draw of the factors."""

    class Both(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(jnp.concatenate([x["a"], x["b"]], axis=-1))

    class Whole(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(x)

    x = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    y, method = (x[:, 0] > 0).astype(int), Rank1(members=2, member_batch=member_batch)
    parts = {"a": x[:, :2], "b": x[:, 2:]}
    found = []
    for module, inputs in ((Both(), parts), (Whole(), x)):
        one = jax.tree.map(lambda leaf: leaf[:1], inputs)
        net = ssvi_jax.from_flax(module, one, key=jax.random.key(0))
        fit = ssvi_jax.fit(method, net, (inputs, y), steps=6, inner_steps=3)
        found.append(fit.predict(inputs, samples=2).probs)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("member_batch", ["split", "tile"])
def test_outputs_of_several_arrays_are_cut_by_members(member_batch):
    x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    net = ssvi_jax.from_flax(nn.Dense(1), x[:1], key=jax.random.key(0))
    method = BatchEnsemble(members=2, member_batch=member_batch)
    fit = ssvi_jax.fit(
        method, net, (x, x[:, :1]), steps=200, likelihood=ssvi_jax.Normal()
    )
    assert fit.evaluate(x, x[:, :1])["r2"] > 0.8
