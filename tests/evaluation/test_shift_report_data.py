import json

import fake_report
import numpy as np
import pytest
from fake_report import BENCHMARK, Fake

from ssvi_jax.core.errors import InputError
from ssvi_jax.evaluation.shift.report import data as report_data

SMALL = Fake(runs=1, benchmark=BENCHMARK[:2], extra=("speckle_noise",), images=20)


def test_cells_are_by_corruption_and_severity(tmp_path):
    results = fake_report.write(tmp_path, SMALL)
    report = report_data.read(tmp_path)
    network = report_data.headline(report.runs[0])
    found = results["runs"][0]["networks"]["mc"]["cells"]
    for names in (None, ["speckle_noise", "gaussian_noise"]):
        values = report.cells(network, "nll", names)
        for name, row in zip(names or SMALL.benchmark, values, strict=True):
            assert list(row) == [cell["nll"] for cell in found[name]]
    assert np.isnan(report.cells(network, "unknown")).all()
    assert report.cells(network, "nll", []).shape == (0, 5)


def test_labels_baseline_and_networks(tmp_path):
    results = fake_report.write(tmp_path, Fake(runs=3, benchmark=BENCHMARK[:1]))
    report = report_data.read(tmp_path)
    assert report.baseline == 2
    assert report.labels[2] == "deterministic, dense"
    sampled, _, dense = report.runs
    assert report_data.network_label(sampled, "mc") == "posterior samples"
    assert report_data.network_label(sampled, "mean") == "mean network"
    assert report_data.network_label(dense, "mean") == "network"
    del results["runs"][0]["label"], results["baseline"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert report_data.read(tmp_path).baseline == 0
    assert report_data.read(tmp_path).labels[0] == "cifar10-laptop-0"


def damage(results, what):
    run = results["runs"][0]
    match what:
        case "no runs":
            results["runs"] = []
        case "no corruptions":
            del results["corruptions"]
        case "twice":
            results["runs"] *= 2
        case "headline":
            run["headline"] = "best"
        case "cells":
            run["networks"]["mc"]["cells"]["shot_noise"].pop()
        case "NaN":
            run["networks"]["mc"]["clean"]["accuracy"] = float("nan")
        case "text":
            run["networks"]["mc"]["clean"]["accuracy"] = "high"
    return json.dumps(results)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no runs", "runs: got none, allowed: at least one"),
        ("no corruptions", r"damaged \(no 'corruptions'\)\. Write it anew"),
        ("twice", "got a name twice"),
        ("headline", "headline: got 'best', allowed: mc, mean"),
        ("cells", "cells of shot_noise: got 4, allowed: 5"),
        ("NaN", "not JSON .NaN is no number"),
        ("text", "damaged .*high"),
    ],
)
def test_damaged_results_are_refused(tmp_path, what, message):
    results = fake_report.write(tmp_path, SMALL)
    (tmp_path / "results.json").write_text(damage(results, what))
    with pytest.raises(InputError, match=message):
        report_data.read(tmp_path)


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"results\.json is missing"):
        report_data.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((2, 3), np.uint8)}, r"images: got uint8 \(2, 3\)"),
        ({"looks": np.array(["clean"])}, r"looks, labels: got \(1,\)"),
        ({"labels": None}, "no labels"),
    ],
)
def test_damaged_examples_are_refused(tmp_path, change, message):
    fake_report.write(tmp_path, SMALL)
    arrays = {**fake_report.examples(SMALL), **change}
    arrays = {name: value for name, value in arrays.items() if value is not None}
    np.savez(tmp_path / "examples.npz", **arrays)
    with pytest.raises(InputError, match=message):
        report_data.read(tmp_path)
