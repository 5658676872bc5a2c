"""Whole runs of the methods besides SSVI, and what they leave."""

import shutil

import numpy as np
import pytest
import smoke_run
from method_runs import run, summary_of

from ssvi_jax import data
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Gaussian, Point
from ssvi_jax.evaluation.run import results
from ssvi_jax.evaluation.shift import subjects
from ssvi_jax.evaluation.shift.kept_predictions import ImageSet, Predictions
from ssvi_jax.io import run_log
from ssvi_jax.networks import network

METHODS = ("rigl", "set", "static", "masked_bnn", "magnitude", "svd")
TOTAL, KEPT = 8832, 442  # weights of the tiny network, round(0.05 · 8832)
# Biases and their moments, step, key, and the step counters of two schedules.
REST = 2 * 4 * (64 + 64 + 10) + 4 + 8 + 2 * 4
FORWARD, DENSE = 2 * KEPT, 2 * TOTAL
STEP_FLOPS = {
    # The dense gradient once in 10 steps: RigL's 2 f_S + f_D (Evci et al., appendix).
    "rigl": 3 * FORWARD + (2 * FORWARD + DENSE) / 10,
    "set": 3 * FORWARD,
    "static": 3 * FORWARD,
    "magnitude": 3 * (FORWARD + DENSE) / 2,
}


@pytest.mark.parametrize("method", STEP_FLOPS)
def test_a_sparse_point_estimate_by_hand(method):
    found, said = summary_of(method), run(method)[1]
    assert found["method"] == method
    assert found["weights_kept"] == KEPT
    assert found["test"].keys() == found["val"].keys() == {"mean"}
    assert not {"samples", "snr_histogram"} & found.keys()
    assert found["test"]["mean"]["accuracy"] > 0.2  # one of ten classes
    # A weight, its moment, its index; the largest state is the one before a pruning.
    weights = TOTAL if method == "magnitude" else KEPT
    assert found["state_bytes"] == weights * 12 + REST
    assert found["state_bytes_dense_vi"] == TOTAL * 16 + REST
    assert found["train_step_flops"] == pytest.approx(64 * STEP_FLOPS[method])
    assert found["predict_flops"] == FORWARD
    assert f"{method} | mlp | digits" in said
    assert "mean network" not in said
    _, weights, masks = network.load(run(method)[0] / "model.ssvi")
    assert {type(packed) for packed in weights.posterior.values()} == {Point}
    assert sum(int(mask.sum()) for mask in masks.values()) == KEPT
    assert found["model_file"]["max_probability_difference_mean"] < 1e-2


def test_masks_move_as_the_method_says():
    overlap, swapped = {}, {}
    for method in METHODS:
        phases = [e for e in smoke_run.events(run(method)[0]) if e["event"] == "phase"]
        overlap[method] = [event["iou_first"] for event in phases[1:]]
        swapped[method] = sum("num_swapped" in event for event in phases)
    assert overlap["static"] == [1.0] * 7
    moving, still = ("rigl", "set", "masked_bnn"), ("static", "magnitude", "svd")
    assert swapped == dict.fromkeys(moving, 5) | dict.fromkeys(still, 0)
    for method in ("rigl", "set"):
        assert 0.4 < overlap[method][-1] < 0.7
    assert overlap["magnitude"] == [1.0] * 3 + [pytest.approx(KEPT / TOTAL)] * 4
    assert overlap["svd"][:-1] == [1.0] * 6
    assert overlap["svd"][-1] < 1  # 90 % of 8 phases: before the last


def test_a_masked_network_accepts_moves_and_keeps_its_counts():
    found = summary_of("masked_bnn")
    assert found["weights_kept"] == KEPT
    assert found["test"].keys() == {"mc", "mean"}
    assert found["test"]["mean"]["accuracy"] > 0.2
    # A mean, a rho, two moments and an index.
    assert found["state_bytes"] == KEPT * 20 + REST
    # 10 moves a phase, each with a dense gradient and a pass before and after it.
    growth = 20 * (3 * FORWARD + DENSE) / 10
    assert found["train_step_flops"] == pytest.approx(64 * (6 * FORWARD + growth))
    phases = smoke_run.events(run("masked_bnn")[0])
    swaps = [event for event in phases if "acceptance_rate" in event]
    assert len(swaps) == 5
    assert 0 < np.mean([event["acceptance_rate"] for event in swaps]) <= 1
    for event in swaps:
        assert (event["num_swapped"] > 0) == (event["iou_previous"] < 1)
    _, weights, masks = network.load(run("masked_bnn")[0] / "model.ssvi")
    assert {type(packed) for packed in weights.posterior.values()} == {Gaussian}
    assert sum(int(mask.sum()) for mask in masks.values()) == KEPT


def test_sparse_variational_dropout_prunes_noise_and_samples():
    found = summary_of("svd")
    assert 0.05 < found["sparsity"] < 0.95
    assert found["test"].keys() == {"mc", "mean"}
    assert sum(found["snr_histogram"]["counts"]) == found["weights_kept"]
    assert found["state_bytes"] == TOTAL * 20 + REST
    assert found["step"] == 80  # of the pruned network there is one checkpoint
    last = [e for e in smoke_run.events(run("svd")[0]) if e["event"] == "phase"][-1]
    assert last["num_pruned"] == TOTAL - found["weights_kept"]


def test_only_a_pruned_network_is_the_best():
    assert summary_of("magnitude")["step"] > 40
    scores = {
        event["step"]: event["val"]["nll"]
        for event in smoke_run.events(run("magnitude")[0])
        if event["event"] == "epoch"
    }
    best = min((step for step in scores if step > 40), key=scores.__getitem__)
    assert summary_of("magnitude")["step"] == best
    assert min(scores[20], scores[40]) < scores[best]  # or this would show nothing


def test_a_point_estimate_has_no_figure_of_its_noise():
    names = {path.name for path in (run("rigl")[0] / "figures").iterdir()}
    assert names == {"curves.png", "reliability.png", "masks.png"}


# Under shift ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["magnitude", "svd"])
def test_a_pruned_checkpoint_and_the_model_file_are_one_network(method, tmp_path):
    digits = data.load("digits")
    folder = run(method)[0]
    images = ImageSet("clean", digits.test_images[:20], digits.test_labels[:20])
    predictions = Predictions(tmp_path, samples=2, seed=0)
    kinds, found = {"magnitude": Point, "svd": Gaussian}, []
    for source in subjects.find([folder], [], [folder]):
        subject = subjects.load(source, digits)
        assert subject.about["weights_kept"] == summary_of(method)["weights_kept"]
        posterior = subject.weights.posterior.values()
        assert {type(packed) for packed in posterior} == {kinds[method]}
        found.append(predictions.get(subject, images))
    sampled = method == "svd"
    for predicted in found:
        assert predicted.probs.keys() == ({"mc", "mean"} if sampled else {"mean"})
        assert (predicted.sample_entropy is not None) == sampled
        assert (predicted.sample_log_odds is not None) == sampled
    np.testing.assert_allclose(
        found[0].probs["mean"], found[1].probs["mean"], atol=0.02
    )


def test_a_checkpoint_before_the_pruning_is_no_subject(tmp_path):
    out = smoke_run.copy_of(run("magnitude")[0], tmp_path / "run")
    for step in ("60", "80"):
        shutil.rmtree(out / "checkpoints" / step)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["40"]
    (source,) = subjects.find([], [], [out])
    with pytest.raises(InputError, match="beyond the pruning if the method prunes"):
        subjects.load(source, data.load("digits"))


def test_results_are_written_again_from_the_checkpoint(tmp_path):
    """As if the evaluation at the end of a pruned run had been interrupted."""
    out = smoke_run.copy_of(run("magnitude")[0], tmp_path / "run")
    (out / "summary.json").unlink()
    trained = smoke_run.tiny_train(out, method="magnitude", resume=True)
    settings = smoke_run.tiny_config(method="magnitude")
    log = run_log.RunLog(out)
    found = results.finish(settings, data.load("digits"), trained, log)
    want = summary_of("magnitude")
    for name in ("test", "sparsity", "state_bytes", "train_step_flops", "step"):
        assert found[name] == want[name]
