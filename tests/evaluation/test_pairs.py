"""Differences between methods, seed by seed, and the study's few numbers."""

import math

import pytest
from fake_comparison import comparison

from ssvi_jax.evaluation.comparison import headline, pairs

OURS = [
    ("ssvi_ivon", 0, {"accuracy": 0.90, "nll": 0.30, "corrupted_nll": 0.60}),
    ("ssvi_ivon", 1, {"accuracy": 0.92, "nll": 0.28, "corrupted_nll": 0.66}),
]
RIGL = [
    ("rigl", 1, {"accuracy": 0.91, "nll": 0.27, "corrupted_nll": 0.88}),
    ("rigl", 0, {"accuracy": 0.90, "nll": 0.31, "corrupted_nll": 0.75}),
    ("rigl", 2, {"accuracy": 0.50, "nll": 2.00, "corrupted_nll": 3.00}),
]


def test_differences_are_of_the_seeds_that_both_have():
    found = pairs.differences(comparison(*OURS, *RIGL), "rigl")
    assert list(found) == ["ssvi_ivon"]
    accuracy = found["ssvi_ivon"]["accuracy"]  # 0 and 0.01
    assert accuracy.mean == pytest.approx(0.005)
    assert accuracy.standard_error == pytest.approx(0.005)
    assert accuracy.seeds == [0, 1]
    assert found["ssvi_ivon"]["nll"].mean == pytest.approx(0.0)


def test_one_seed_has_no_standard_error():
    found = pairs.differences(comparison(OURS[1], *RIGL), "rigl")
    assert found["ssvi_ivon"]["nll"] == (pytest.approx(0.01), None, [1])


@pytest.mark.parametrize("runs", [OURS, [*OURS, RIGL[2]]])
def test_without_a_pair_there_is_no_difference(runs):
    found = comparison(*runs)
    assert pairs.differences(found, "rigl") == {}
    assert pairs.markdown(found, ("rigl", "deterministic")) == ""


def test_the_table_has_signs_and_errors():
    lines = pairs.markdown(comparison(*OURS, *RIGL), ("rigl",)).splitlines()
    assert lines[0] == "Difference to `rigl`, paired over seeds:"
    assert lines[2].startswith("| method | accuracy (%) | NLL (nats) |")
    assert lines[4].startswith("| `ssvi_ivon` | +0.50 ± 0.50 | +0.0000 ± 0.0100 |")
    assert lines[4].endswith("| 2 |")


def test_headline_by_hand():
    ours = [
        (name, seed, {**values, "mean_nll": 0.4, "auroc_far": 0.9})
        for name, seed, values in OURS
    ]
    ours[0][2]["disagreement_auroc_far"] = ours[1][2]["disagreement_auroc_far"] = 0.95
    rigl = [(name, seed, {**v, "auroc_far": 0.9}) for name, seed, v in RIGL]
    thirty = comparison(*ours, *rigl)
    found = headline.numbers({"thirty": thirty})
    assert found["accuracy_30"] == {
        "mean": pytest.approx(0.91),
        "standard_error": pytest.approx(0.01),
        "seeds": [0, 1],
        "part": "thirty",
        "methods": ["ssvi_ivon"],
    }
    assert found["nll_gain_of_samples"]["mean"] == pytest.approx((0.25 + 0.3) / 2)
    ratio = found["corrupted_nll_vs_rigl"]
    assert ratio["mean"] == pytest.approx((0.6 / 0.75 + 0.66 / 0.88) / 2)
    spread = abs(0.6 / 0.75 - 0.66 / 0.88) / math.sqrt(2)
    assert ratio["standard_error"] == pytest.approx(spread / math.sqrt(2))
    # The better score of each set, the mean over the two sets: 0.75 and 0.95, 0.9.
    assert found["auroc_vs_rigl"]["mean"] == pytest.approx(0.05 / 2)
    missing = {"accuracy_60", "corrupted_nll_vs_dense", "auroc_vs_ensemble"}
    assert found.keys() == headline.NUMBERS.keys() - missing
    assert headline.numbers({}) == {}


def test_without_foreign_images_their_numbers_are_left_out():
    thirty = comparison(*OURS, *RIGL)
    found = headline.numbers({"thirty": thirty})
    assert "auroc_vs_rigl" in found
    del thirty["methods"]["rigl"]["metrics"]["auroc_noise"]
    without = {name: value for name, value in found.items() if name != "auroc_vs_rigl"}
    assert headline.numbers({"thirty": thirty}) == without
    del thirty["methods"]["ssvi_ivon"]["metrics"]["auroc_noise"]
    assert headline.numbers({"thirty": thirty}) == without
