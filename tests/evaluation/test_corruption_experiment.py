"""experiments/corruptions.py from its command line to its files, on the digits."""

import csv
import json
import runpy
import subprocess
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import smoke_run

from ssvi_jax import corruptions, data, metrics
from ssvi_jax.evaluation.shift import kept_predictions
from ssvi_jax.vi import predictive

SCRIPT = Path(__file__).parents[2] / "experiments" / "corruptions.py"
FLAGS = ["--images", "12", "--samples", "2", "--ood", "noise"]


def command(*flags: str | Path) -> smoke_run.Outcome:
    return smoke_run.call(runpy.run_path(str(SCRIPT))["main"], *flags)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two runs in one report: the shared one, and its mean as a model file."""
    out = tmp_path_factory.mktemp("runs")
    run = smoke_run.copy_of(smoke_run.smoke().folder, out / "first")
    (out / "second").mkdir()
    (out / "second" / "model.ssvi").write_bytes((run / "model.ssvi").read_bytes())
    outcome = command(
        "--run", run, "--model", out / "second" / "model.ssvi", "--out", out, *FLAGS
    )
    return out / "corruptions", outcome


def test_files(report):
    folder, outcome = report
    assert outcome.code == 0, outcome.err
    names = {path.name for path in folder.iterdir()}
    assert {"results.json", "examples.npz", "report.html", "figures"} <= names
    assert {"cells.csv", "summary.csv", "ood.csv"} <= names
    assert "*** " in outcome.out  # made on the fly, loudly
    assert str(folder / "report.html") in outcome.out


def test_results_are_the_metrics_of_the_kept_predictions(report):
    folder, _ = report
    results = json.loads((folder / "results.json").read_text())
    assert results["corruptions"]["benchmark"] == list(corruptions.BENCHMARK)
    assert results["corruptions"]["images_per_cell"] == 12
    assert results["dataset"]["test_images"] == 12
    first, second = results["runs"]
    assert (first["name"], second["name"]) == ("first", "second")
    assert first["label"] != second["label"]
    for network in ("mc", "mean"):
        numbers = first["networks"][network]
        errors = []
        for name in corruptions.BENCHMARK:
            for severity in corruptions.SEVERITIES:
                path = folder / "predictions" / "first" / f"{name}-{severity}.npz"
                with np.load(path) as kept:
                    probs, labels = kept[f"{network}_probs"], kept["labels"]
                cell = numbers["cells"][name][severity - 1]
                assert cell["nll"] == metrics.nll(probs, labels)
                errors.append(1 - metrics.accuracy(probs, labels))
        summary = numbers["summary"]
        assert summary["corrupted_accuracy"] == pytest.approx(1 - np.mean(errors))
        assert summary["corruption_error"] == pytest.approx(np.mean(errors))


def test_equal_models_get_equal_numbers_and_relative_error_one(report):
    folder, _ = report
    first, second = json.loads((folder / "results.json").read_text())["runs"]
    assert first["networks"] == second["networks"]
    summary = first["networks"]["mc"]["summary"]
    assert "mce" not in summary or summary["mce"] == pytest.approx(1.0)


def test_cells_hold_the_corrupted_test_images(report):
    folder, _ = report
    digits = data.load("digits")
    with np.load(folder / "examples.npz", allow_pickle=False) as kept:
        looks, images, labels = (kept[k] for k in ("looks", "images", "labels"))
        probs, entropies = kept["probs_0"], kept["entropy_0"]
        disagreement = kept["logit_disagreement_0"]
    where = looks.tolist().index("fog/5")
    made = corruptions.corrupt_any(digits.test_images[:12], "fog", 5, seed=0)
    rows = [
        int(np.flatnonzero((digits.test_images[:12] == image).all((1, 2, 3)))[0])
        for image in images[:, looks.tolist().index("clean")]
    ]
    with np.load(
        next((folder / "predictions").iterdir()) / "fog-5.npz", allow_pickle=False
    ) as kept:
        odds = kept["sample_log_odds"][:, rows]
    np.testing.assert_allclose(disagreement[:, where], odds.std(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(images[:, where], made[rows])
    np.testing.assert_array_equal(labels[:, where], digits.test_labels[rows])
    assert (labels[:, looks.tolist().index("ood/noise")] == -1).all()
    assert probs.shape == (*labels.shape, 10)
    assert entropies.shape == labels.shape


def test_table_of_cells_repeats_the_results(report):
    folder, _ = report
    results = json.loads((folder / "results.json").read_text())
    with (folder / "cells.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["corruption"] != "clean"]
    assert len(rows) == 2 * 2 * 75
    row = rows[-1]
    run = next(r for r in results["runs"] if r["name"] == row["run"])
    cell = run["networks"][row["network"]]["cells"][row["corruption"]]
    assert float(row["nll"]) == cell[int(row["severity"]) - 1]["nll"]


def test_resuming_predicts_nothing_again_and_gives_the_same(report, monkeypatch):
    folder, _ = report
    before = json.loads((folder / "results.json").read_text())
    (folder / "predictions" / "second" / "fog-3.npz").unlink()
    made = mock.Mock(wraps=predictive.predict)
    monkeypatch.setattr(kept_predictions, "predict", made)
    run, model = folder.parent / "first", folder.parent / "second" / "model.ssvi"
    outcome = command(
        "--run", run, "--model", model, "--out", folder.parent, "--resume", *FLAGS
    )
    assert outcome.code == 0, outcome.err
    assert made.call_count == 1
    after = json.loads((folder / "results.json").read_text())
    assert after["runs"] == before["runs"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--samples", "0"], "--samples: got 0, allowed: a whole number above 0"),
        (["--images", "-1"], "--images: got -1"),
        (["--seed", "-1"], "--seed: got -1"),
        (["--run", "nowhere"], "nowhere/model.ssvi is missing"),
        (["--ood", "none", "--ood", "noise"], "none alone"),
        (["--baseline", "who"], "--baseline: got 'who', allowed: first"),
        (["--ood", "some.npz"], "some.npz"),
        (["--corruptions-dir", "nowhere"], "nowhere"),
        (["--dataset", "cifar10", "--data-dir", "nowhere"], "not prepared"),
    ],
)
def test_bad_input_ends_with_code_2_and_advice(report, flags, words, tmp_path):
    run = ["--run", report[0].parent / "first"] if "--run" not in flags else []
    outcome = command(*run, "--out", tmp_path / "out", *flags)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    assert words in " ".join(outcome.err.split())


def test_resume_refuses_other_settings(report):
    folder, _ = report
    run = folder.parent / "first"
    outcome = command("--run", run, "--out", folder.parent, "--resume", *FLAGS)
    assert outcome.code == 2
    assert "another models" in outcome.err
    outcome = command("--run", run, "--out", folder.parent / "none", "--resume")
    assert outcome.code == 2
    assert "leave --resume out" in outcome.err


def test_without_a_run_it_trains_the_smoke_model_first(tmp_path, monkeypatch):
    asked = []

    def train(command, **_):
        asked.append([str(part) for part in command])
        smoke_run.copy_of(smoke_run.smoke().folder, tmp_path / "smoke")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("subprocess.run", train)
    outcome = command("--out", tmp_path, *FLAGS)
    assert outcome.code == 0, outcome.err
    assert asked[0][1:3] == ["-m", "ssvi_jax.evaluation.run.main"]
    assert asked[0][3:5] == ["--preset", "smoke"]
    assert "No run in" in outcome.out
    assert (tmp_path / "corruptions" / "report.html").exists()
