import json
from typing import NamedTuple

import jax
import numpy as np
import pytest
import smoke_run

from ssvi_jax import data, metrics
from ssvi_jax.evaluation.run import results
from ssvi_jax.io import run_log
from ssvi_jax.metrics import uncertainty
from ssvi_jax.networks import network
from ssvi_jax.ops import custom_calls
from ssvi_jax.training.run_config import Config
from ssvi_jax.vi import predictive

REQUIRED = (
    "dataset method sparsity weights_total weights_kept train_minutes state_bytes "
    "state_bytes_dense_vi train_step_flops train_step_flops_dense_vi backend test"
)
SIZES = {"dense1/kernel": 4096, "dense2/kernel": 4096, "linear/kernel": 640}
TOTAL = 8832
BIASES = 64 + 64 + 10
KEPT = 442  # round(0.05 · 8832)


@pytest.fixture(scope="module")
def smoke():
    return smoke_run.smoke()


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def summary(smoke):
    return json.loads((smoke.folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def predictions(smoke):
    with np.load(smoke.folder / "predictions.npz") as stored:
        return dict(stored)


class Finished(NamedTuple):
    config: Config
    summary: dict
    predictions: dict


def finished(folder, dataset, **changes) -> Finished:
    """Trains and evaluates."""
    config = smoke_run.tiny_config(epochs=1, **changes)
    trained = smoke_run.tiny_train(folder, epochs=1, **changes)
    found = results.finish(config, dataset, trained, run_log.RunLog(folder))
    assert json.loads((folder / "summary.json").read_text()) == found
    with np.load(folder / "predictions.npz") as stored:
        return Finished(config, found, dict(stored))


@pytest.fixture(scope="module")
def dense_vi(tmp_path_factory, digits):
    return finished(tmp_path_factory.mktemp("dense"), digits, sparsity=0.0)


@pytest.fixture(scope="module")
def point(tmp_path_factory, digits):
    folder = tmp_path_factory.mktemp("point")
    return finished(folder, digits, method="deterministic", test_every=1)


# The sparse run -----------------------------------------------------------------------


def test_the_command_says_what_it_did(smoke, summary):
    outcome = smoke.outcome
    assert (outcome.code, outcome.err) == (0, "")
    assert f"run folder: {smoke.folder}" in outcome.out
    assert "data: digits: 1,797 real handwritten digits" in outcome.out
    assert [f"epoch   {n}/4" in outcome.out for n in (1, 2, 3, 4)] == [True] * 4
    assert f"{100 * summary['test']['mc']['accuracy']:.2f} %" in outcome.out
    assert "442 of 8,832" in outcome.out
    figures = sorted(path.name for path in (smoke.folder / "figures").iterdir())
    assert figures == ["curves.png", "masks.png", "reliability.png", "snr.png"]
    assert all(f"figures/{name}" in outcome.out for name in figures)


def test_the_required_fields_are_there(summary):
    assert set(REQUIRED.split()) <= summary.keys()
    for kind in ("mc", "mean"):
        assert {"accuracy", "nll", "brier", "ece"} <= summary["test"][kind].keys()
    assert summary["dataset"] == "digits"
    assert summary["method"] == "ssvi"
    assert summary["backend"] == ("sparse" if custom_calls.available() else "xla")
    assert summary["train_minutes"] > 0
    assert summary["samples"] == 3
    assert summary["test_evaluated"] == "once, at the end"


def test_a_clean_run_has_no_corrupted_test_set(smoke, summary):
    assert not {"train_corruption", "train_severity", "test_corrupted"} & set(summary)
    assert "test set, " not in smoke.outcome.out


def test_sparsity_is_counted_from_the_masks(smoke, summary):
    masks = smoke.masks[summary["step"] // 10 - 1]
    zeros = sum(int((~mask).sum()) for mask in masks.values())
    assert summary["sparsity"] == pytest.approx(zeros / TOTAL, abs=1e-12)
    assert summary["sparsity"] == pytest.approx(1 - KEPT / TOTAL)
    assert (summary["weights_total"], summary["weights_kept"]) == (TOTAL, KEPT)
    for layer in summary["layers"]:
        mask = masks[layer["path"]]
        assert layer["shape"] == list(mask.shape)
        assert (layer["size"], layer["kept"]) == (mask.size, mask.sum())
        assert layer["density"] == mask.mean()
    assert [layer["path"] for layer in summary["layers"]] == list(SIZES)


def test_prunable_sparsity_leaves_out_dense_layers(smoke):
    masks = dict(smoke.masks[0])
    masks["linear/kernel"] = np.ones_like(masks["linear/kernel"])
    trained = smoke_run.tiny_trained(masks)
    found = results.sizes(trained.progress, trained.problem.layers)
    kept = sum(int(masks[path].sum()) for path in ("dense1/kernel", "dense2/kernel"))
    assert found["sparsity_prunable"] == pytest.approx(1 - kept / 8192)
    assert found["sparsity"] == pytest.approx(1 - (kept + 640) / TOTAL)


def test_state_bytes_by_hand(summary):
    # Two numbers a kept weight with one moment each, and its index; a bias and its
    # moment; the step, the random key, and the step counters of the two schedules.
    rest = 2 * 4 * BIASES + 4 + 8 + 2 * 4
    assert summary["state_bytes"] == KEPT * (2 * 4 * 2 + 4) + rest
    assert summary["state_bytes_dense_vi"] == TOTAL * 2 * 4 * 2 + rest


def test_flops_by_hand(summary):
    batch, products = 64, 2
    forward, everything = 2 * KEPT, 2 * TOTAL
    step = 3 * products * forward
    # Once in 10 steps: forward and input gradients through the kept weights, and the
    # dense gradient of the means.
    growth = (2 * products * forward + everything) / 10
    assert summary["train_step_flops"] == batch * (step + growth)
    assert summary["train_step_flops_dense_vi"] == batch * 3 * products * everything
    assert summary["predict_flops"] == 3 * forward
    assert summary["predict_flops_dense_vi"] == 3 * everything


def test_scores_are_those_of_the_predictions(summary, predictions, digits):
    labels = predictions["labels"]
    np.testing.assert_array_equal(labels, digits.test_labels)
    assert predictions["mc_probs"].shape == predictions["mean_probs"].shape == (360, 10)
    assert predictions["sample_entropy"].shape == (3, 360)
    assert predictions["sample_log_odds"].shape == (3, 360)
    for kind in ("mc", "mean"):
        probs = predictions[f"{kind}_probs"].astype(np.float64)
        found = summary["test"][kind]
        assert found["accuracy"] == np.mean(probs.argmax(axis=1) == labels)
        assert found["nll"] == pytest.approx(
            -np.log(probs[np.arange(360), labels]).mean(), rel=1e-5
        )
        assert found["brier"] == pytest.approx(
            ((probs - np.eye(10)[labels]) ** 2).sum(axis=1).mean(), rel=1e-5
        )
        assert found["ece"] == pytest.approx(metrics.evaluate(probs, labels)["ece"])
    information = uncertainty.uncertainty_from_entropies(
        predictions["mc_probs"],
        predictions["sample_entropy"],
        predictions["mixture_entropy"],
    ).mutual_information.mean()
    assert summary["test"]["mc"]["mutual_information"] == pytest.approx(information)
    disagreement = predictions["sample_log_odds"].std(axis=0).mean()
    found = summary["test"]["mc"]["logit_disagreement"]
    assert found == pytest.approx(disagreement, rel=1e-5)
    assert "logit_disagreement" not in summary["test"]["mean"]


def test_validation_scores_repeat_the_best_epoch(smoke, summary):
    epochs = [event for event in smoke_run.events(smoke.folder) if "val" in event]
    best = min(epochs, key=lambda event: event["val"]["nll"])
    assert best["step"] == summary["step"]
    assert summary["val"]["mean"]["nll"] == pytest.approx(best["val"]["nll"], rel=1e-5)


def test_the_snr_histogram_is_of_the_kept_weights(smoke, summary):
    weights = smoke.weights[summary["step"] // 10 - 1]
    ratios = [
        np.abs(mean.astype(np.float64)) / np.logaddexp(0, rho)
        for mean, rho in weights.posterior.values()
    ]
    logs = np.log10(np.concatenate(ratios))
    histogram = summary["snr_histogram"]
    assert sum(histogram["counts"]) == KEPT
    edges = np.array(histogram["edges_log10"])
    assert edges[0] == pytest.approx(max(logs.min(), -6), abs=1e-5)
    assert edges[-1] == pytest.approx(logs.max(), abs=1e-5)
    assert (np.diff(edges) > 0).all()


def test_the_model_file_predicts_what_the_checkpoint_does(
    smoke, summary, predictions, digits
):
    found = summary["model_file"]
    path = smoke.folder / found["name"]
    assert found["bytes"] == path.stat().st_size
    assert found["bytes"] < found["bytes_single_precision"] < found["bytes_dense_vi"]
    assert found["bytes_dense_vi"] == 2 * 4 * TOTAL + 4 * BIASES
    assert found["times_smaller"] == found["bytes_dense_vi"] / found["bytes"]
    net, weights, masks = network.load(path)
    config = smoke_run.tiny_config()
    key = jax.random.fold_in(jax.random.key(config.run.seed), summary["step"])
    again = predictive.predict(
        net,
        weights,
        masks,
        digits.test_images,
        key=key,
        num_samples=3,
        backend=predictive.backend_for(masks),
    )
    for kind in ("mc", "mean"):
        ours, theirs = getattr(again, f"{kind}_probs"), predictions[f"{kind}_probs"]
        gap = found[f"max_probability_difference_{kind}"]
        assert gap == pytest.approx(np.abs(ours - theirs).max())
        assert 0 < gap < 1e-2
        right = np.mean(ours.argmax(axis=1) == predictions["labels"])
        difference = right - summary["test"][kind]["accuracy"]
        assert found[f"accuracy_difference_{kind}"] == pytest.approx(difference)


# The other methods --------------------------------------------------------------------


def test_dense_vi_costs_what_dense_vi_costs(dense_vi):
    found = dense_vi.summary
    assert (found["sparsity"], found["weights_kept"]) == (0.0, TOTAL)
    assert "sparsity_prunable" not in found
    assert found["train_step_flops"] == found["train_step_flops_dense_vi"]
    assert found["predict_flops"] == found["predict_flops_dense_vi"]
    # Only the index is more: packed training of a dense network has one all the same.
    assert found["state_bytes"] == found["state_bytes_dense_vi"] + 4 * TOTAL
    assert sum(found["snr_histogram"]["counts"]) == TOTAL
    assert dense_vi.predictions["sample_entropy"].shape == (3, 360)
    assert found["model_file"]["max_probability_difference_mc"] < 1e-2


def test_a_run_that_averages_logits_is_finished(tmp_path, digits):
    changes = {"method": "ensemble", "members": 3, "average": "logits"}
    found = finished(tmp_path, digits, **changes)
    kept, scores = found.predictions, found.summary["test"]["mc"]
    probs = kept["member_probs"].astype(np.float64)
    logits = np.exp(np.log(probs).mean(axis=0))
    logits /= logits.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(kept["mc_probs"], logits, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(
        kept["mixture_entropy"], uncertainty.entropy(probs.mean(axis=0)), atol=1e-5
    )
    # Some predictions are surer than their members are on average.
    below = uncertainty.entropy(logits) - kept["sample_entropy"].mean(axis=0)
    assert below.min() < -uncertainty.SUM_TOLERANCE
    information = uncertainty.uncertainty(probs).mutual_information.mean()
    assert scores["mutual_information"] == pytest.approx(information, rel=1e-4)
    entropy = uncertainty.entropy(logits).mean()
    assert scores["predictive_entropy"] == pytest.approx(entropy, rel=1e-4)


def test_a_point_estimate_has_no_samples(point):
    found = point.summary
    assert found["test"].keys() == found["val"].keys() == {"mean"}
    assert not {"samples", "snr_histogram", "sparsity_prunable"} & found.keys()
    assert point.predictions.keys() == {"mean_probs", "labels"}
    assert found["weights_kept"] == TOTAL
    assert found["test_evaluated"] == "for curves too"
    forward = 2 * TOTAL
    assert found["train_step_flops"] == 64 * 3 * forward
    assert found["predict_flops"] == forward
    rest = 2 * 4 * BIASES + 4 + 8 + 2 * 4
    assert found["state_bytes"] == TOTAL * 4 * 2 + rest
    assert found["state_bytes_dense_vi"] == TOTAL * 2 * 4 * 2 + rest
    assert found["model_file"]["bytes_dense_vi"] == 2 * 4 * TOTAL + 4 * BIASES
    assert found["model_file"]["max_probability_difference_mean"] < 1e-2


@pytest.mark.parametrize(
    ("changes", "products", "grows"),
    [
        ({"addition": "random"}, 2, False),
        ({"replacement_rate": 0.0}, 2, False),
        ({"estimator": "weight_sample", "addition": "random"}, 1, False),
        ({"grow_at_mean": True, "grow_batches": 2}, 2, True),
    ],
)
def test_the_ledger_follows_the_configuration(smoke, changes, products, grows):
    trained = smoke_run.tiny_trained(smoke.masks[0], **changes)
    found = results.costs(smoke_run.tiny_config(**changes), trained)
    forward = 2 * KEPT
    growth = 2 * (2 * forward + 2 * TOTAL) / 10 if grows else 0
    assert found["train_step_flops"] == 64 * (3 * products * forward + growth)
    assert found["train_step_flops_dense_vi"] == 64 * 3 * 2 * 2 * TOTAL


@pytest.mark.parametrize("method", ["ivon", "ssvi_ivon"])
def test_the_ledger_counts_the_draws_of_a_step(smoke, method):
    kept = KEPT if method == "ssvi_ivon" else TOTAL
    changes = {"method": method}
    masks = smoke.masks[0]
    if method == "ssvi_ivon":
        changes |= {"addition": "random"}
    else:
        masks = {path: np.ones_like(mask) for path, mask in masks.items()}
    for draws in (1, 4):
        trained = smoke_run.tiny_trained(masks, draws=draws, **changes)
        found = results.costs(smoke_run.tiny_config(draws=draws, **changes), trained)
        assert found["train_step_flops"] == 64 * draws * 3 * 2 * kept


def test_dense_vi_costs_the_same_beside_every_method(smoke):
    """Also beside IVON, which has no moments of the standard deviations."""
    masks = smoke.masks[0]
    found = [
        results.sizes(trained.progress, trained.problem.layers)["state_bytes_dense_vi"]
        for method in ("ssvi", "ssvi_ivon", "rigl")
        for trained in [smoke_run.tiny_trained(masks, method=method)]
    ]
    # IVON counts its steps once, SGD in each of its two schedules.
    assert found[0] == found[2] == found[1] + 4


@pytest.mark.parametrize("sparsity", [0.0, 0.9])
@pytest.mark.parametrize(("member_batch", "seen"), [("split", 1), ("tile", 4)])
def test_the_ledger_counts_the_members_that_see_an_example(
    member_batch, seen, sparsity
):
    options = {"method": "rank1", "sparsity": sparsity, "member_batch": member_batch}
    algorithm = smoke_run.tiny_algorithm(**options)
    assert (algorithm.times_seen, algorithm.draws) == (seen, 1)
