"""A run on generated stays, by the command: it leaves what every run does."""

import json
from unittest import mock

import mimic_stays
import numpy as np
import pytest
import smoke_run

from ssvi_jax import data
from ssvi_jax.data import mimic
from ssvi_jax.evaluation import predict as predict_command
from ssvi_jax.networks import network

SMALL = ["--preset", "rank1-lstm-mimic3", "--width", ".05", "--inner-steps", "5"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Stays of which only six hours are read: compiling grows with the hours."""
    with mock.patch.object(mimic, "HOURS", 6):
        yield mimic_stays.write(tmp_path_factory.mktemp("mimic"), train=60, test=20)


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    flags = ["--method", "ssvi", "--sparsity", ".5", "--backend", "xla"]
    flags += ["--batch-size", "16", "--epochs", "10", "--samples", "2", "--no-figures"]
    outcome = smoke_run.command(*SMALL, *flags, "--data-dir", root, "--out", folder)
    assert (outcome.code, outcome.err) == (0, "")
    return folder, outcome.out


def test_the_run_says_what_it_read_and_how_well_it_did(run):
    folder, out = run
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["dataset"], summary["model"]) == ("mimic3", "lstm")
    for kind in ("mc", "mean"):
        scores = summary["test"][kind]
        assert 0 <= scores["auroc"] <= 1
        assert 0 <= scores["auprc"] <= 1
    assert f"AUROC{'':>23}" in out
    assert "MIMIC-III in-hospital mortality" in out


def test_the_loss_falls_and_masks_move_in_every_kernel(run):
    phases = [e for e in smoke_run.events(run[0]) if e["event"] == "phase"]
    assert phases[-1]["nll"] < phases[0]["nll"]
    assert phases[-1]["iou_first"] < 1
    layers = json.loads((run[0] / "summary.json").read_text())["layers"]
    paths = [layer["path"] for layer in layers]
    assert len(set(paths)) == len(paths) == 5
    assert all(0 < layer["kept"] <= layer["size"] for layer in layers)


def test_the_model_file_predicts_series(run, root, tmp_path):
    folder, path = run[0], tmp_path / "series.npy"
    inputs = data.load("mimic3", root).test_images
    np.save(path, inputs)
    flags = ["--samples", "2", "--out", tmp_path / "p.npz"]
    outcome = smoke_run.call(predict_command.main, folder / "model.ssvi", path, *flags)
    assert (outcome.code, outcome.err) == (0, "")
    assert len(outcome.out.splitlines()) == 1 + len(inputs)
    with (
        np.load(tmp_path / "p.npz") as got,
        np.load(folder / "predictions.npz") as before,
    ):
        np.testing.assert_allclose(got["mean_probs"], before["mean_probs"], atol=2e-3)
    spec = network.load(folder / "model.ssvi")[0].spec
    assert (spec.input_shape, spec.pixels) == ((6, 76), False)
    np.save(path, inputs.astype(np.float64))
    outcome = smoke_run.call(predict_command.main, folder / "model.ssvi", path)
    assert outcome.code == 2
    assert "this model needs float32 [n, 6, 76]." in outcome.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model", "convnet"], "--model: got convnet, allowed for series: lstm, mlp"),
        (["--train-corruption", "fog"], "images: got float32, allowed: a NumPy array"),
    ],
)
def test_what_is_for_images_is_refused(root, tmp_path, flags, words):
    flags = [*SMALL, "--data-dir", root, "--out", tmp_path / "run", *flags]
    assert words in smoke_run.refused(*flags)


def test_without_the_data_the_command_says_where_to_get_them(tmp_path):
    words = smoke_run.refused(*SMALL, "--data-dir", tmp_path, "--out", tmp_path / "run")
    assert "physionet.org" in words
    assert not (tmp_path / "run").exists()
