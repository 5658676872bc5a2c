import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssvi_jax import metrics
from ssvi_jax.core.errors import InputError
from ssvi_jax.metrics import corruption_error

KEYS = ["accuracy", "nll", "brier", "ece", "ece_if_calibrated"]


def scores(accuracy, nll=1.0, brier=0.5, ece=0.1, **others):
    values = (accuracy, nll, brier, ece, ece / 2)
    return {**dict(zip(KEYS, values, strict=True)), **others}


def cells_of(**accuracies):
    return {name: [scores(a) for a in row] for name, row in accuracies.items()}


def test_summary_by_hand():
    cells = {
        "fog": [scores(0.9, 0.2, 0.1, 0.01), scores(0.7, 0.6, 0.3, 0.05)],
        "snow": [scores(0.5, 1.0, 0.7, 0.2), scores(0.1, 3.0, 1.1, 0.4)],
        "spatter": [scores(0.0, 99.0, 2.0, 1.0), scores(0.0, 99.0, 2.0, 1.0)],
    }
    clean = scores(0.95, 0.1, 0.05, 0.02, adaptive_ece=0.3)
    got = corruption_error.summarize(clean, cells, ["fog", "snow", "frost"])
    assert got == pytest.approx(
        {
            "accuracy": 0.95,
            "nll": 0.1,
            "brier": 0.05,
            "ece": 0.02,
            "ece_if_calibrated": 0.01,
            "corrupted_accuracy": 0.55,
            "corrupted_nll": 1.2,
            "corrupted_brier": 0.55,
            "corrupted_ece": 0.165,
            "corrupted_ece_if_calibrated": 0.0825,
            "corruption_error": 0.45,
        }
    )
    assert all(type(value) is float for value in got.values())


def test_corruptions_weigh_the_same_in_the_corruption_error():
    cells = cells_of(fog=[0.9, 0.7], snow=[0.4])
    got = corruption_error.summarize(scores(1.0), cells, ["fog", "snow"])
    assert got["corrupted_accuracy"] == pytest.approx(2.0 / 3)
    assert got["corruption_error"] == pytest.approx((0.2 + 0.6) / 2)


@pytest.mark.parametrize("cells", [{}, cells_of(spatter=[0.3])])
def test_without_cells_of_the_benchmark_only_clean_scores_come(cells):
    got = corruption_error.summarize(scores(0.5), cells, ["fog", "snow"])
    assert got == scores(0.5)


tables = st.lists(
    st.lists(st.floats(0, 1), min_size=5, max_size=5), min_size=1, max_size=6
)


@given(tables, st.randoms(use_true_random=False))
def test_summary_agrees_with_plain_loops(table, random):
    names = [f"corruption_{i}" for i in range(len(table))]
    cells = cells_of(**dict(zip(names, table, strict=True)))
    got = corruption_error.summarize(scores(0.5), cells, names)
    total = 0.0
    for row in table:
        for value in row:
            total += value
    mean = total / (5 * len(table))
    assert got["corrupted_accuracy"] == pytest.approx(mean, abs=1e-12)
    # With equally many severities the two means are one.
    assert got["corruption_error"] == pytest.approx(1 - mean, abs=1e-12)
    shuffled = random.sample(names, len(names))
    assert corruption_error.summarize(scores(0.5), cells, shuffled) == pytest.approx(
        got
    )


def test_scores_come_from_metrics_as_they_are():
    rng = np.random.default_rng(0)
    probs, labels = rng.dirichlet(np.ones(4), size=(3, 50)), rng.integers(0, 4, 50)
    clean, *cells = [metrics.evaluate(p, labels) for p in probs]
    got = corruption_error.summarize(clean, {"fog": cells}, ["fog"])
    assert [got[key] for key in KEYS] == [clean[key] for key in KEYS]
    both = np.concatenate([probs[1], probs[2]]), np.concatenate([labels, labels])
    # Means over cells of one size are means over their images; the ECE is not.
    assert got["corrupted_nll"] == pytest.approx(metrics.nll(*both))
    assert got["corrupted_brier"] == pytest.approx(metrics.brier(*both))
    want = (cells[0]["ece"] + cells[1]["ece"]) / 2
    assert got["corrupted_ece"] == pytest.approx(want)


# Relative to a baseline --------------------------------------------------------------


def test_mce_by_hand():
    cells = cells_of(fog=[0.9, 0.7], snow=[0.5, 0.1], spatter=[0.0, 0.0])
    baseline = cells_of(fog=[0.8, 0.6], snow=[0.5, 0.3])
    # (.1 + .3) / (.2 + .4) and (.5 + .9) / (.5 + .7)
    want = (0.4 / 0.6 + 1.4 / 1.2) / 2
    assert corruption_error.mce(cells, baseline, ["fog", "snow"]) == pytest.approx(want)


def test_severities_are_summed_before_the_ratio():
    # Without the sum the first severity's ratio would not exist.
    cells, baseline = cells_of(fog=[0.9, 0.7]), cells_of(fog=[1.0, 0.8])
    assert corruption_error.mce(cells, baseline, ["fog"]) == pytest.approx(0.4 / 0.2)


@given(tables, st.floats(0.0, 1.0))
def test_mce_of_a_scaled_error_is_the_scale(table, scale):
    names = [f"corruption_{i}" for i in range(len(table))]
    # Accuracy at most .75, so that every baseline makes errors.
    rows = [[0.75 * value for value in row] for row in table]
    better = [[1 - scale * (1 - value) for value in row] for row in rows]
    cells = cells_of(**dict(zip(names, better, strict=True)))
    baseline = cells_of(**dict(zip(names, rows, strict=True)))
    assert corruption_error.mce(cells, baseline, names) == pytest.approx(
        scale, abs=1e-12
    )
    assert corruption_error.mce(baseline, baseline, names) == pytest.approx(1.0)


@given(tables, tables)
def test_mce_agrees_with_plain_loops(table, other):
    pairs = list(zip(table, other, strict=False))
    names = [f"corruption_{i}" for i in range(len(pairs))]
    cells = {n: [scores(a) for a in p[0]] for n, p in zip(names, pairs, strict=True)}
    baseline = {
        n: [scores(0.9 * a) for a in p[1]] for n, p in zip(names, pairs, strict=True)
    }
    total = 0.0
    for mine, theirs in pairs:
        total += sum(1 - a for a in mine) / sum(1 - 0.9 * a for a in theirs)
    got = corruption_error.mce(cells, baseline, names)
    assert got == pytest.approx(total / len(pairs), abs=1e-12)


def test_a_baseline_without_errors_is_refused():
    cells, perfect = cells_of(fog=[0.9]), cells_of(fog=[1.0])
    with pytest.raises(InputError, match=r"baseline_cells\['fog'\]: .* no error"):
        corruption_error.mce(cells, perfect, ["fog"])
    assert corruption_error.mce(perfect, cells, ["fog"]) == 0.0


def test_missing_names_are_refused_by_name():
    cells, baseline = cells_of(fog=[0.9], snow=[0.8], frost=[0.8]), cells_of(fog=[0.9])
    with pytest.raises(InputError, match="baseline_cells: got no cells of snow, frost"):
        corruption_error.mce(cells, baseline, ["snow", "fog", "frost"])
    with pytest.raises(InputError, match=r"^cells: got no cells of snow, frost"):
        corruption_error.mce(baseline, cells, ["snow", "fog", "frost"])
    with pytest.raises(InputError, match="benchmark: got no names"):
        corruption_error.mce(cells, baseline, [])


def test_unequal_severities_are_refused():
    cells, baseline = cells_of(fog=[0.9, 0.8]), cells_of(fog=[0.9])
    with pytest.raises(InputError, match=r"\['fog'\]: got 2 severities, .* has 1"):
        corruption_error.mce(cells, baseline, ["fog"])


BAD_CELLS = {
    "NaN accuracy": (scores(math.nan), r"cells\['fog'\]: accuracy: got nan"),
    "percent": (scores(95.0), r"accuracy: got 95.0, allowed: .*\[0, 1\]"),
    "no accuracy": ({"nll": 1.0}, r"\['fog'\]: got nll, allowed: .* accuracy"),
    "nothing": ({}, "got nothing, allowed: metrics with accuracy"),
}


@pytest.mark.parametrize("case", BAD_CELLS)
def test_bad_cells_are_refused(case):
    bad, message = BAD_CELLS[case]
    good = cells_of(fog=[0.5])
    with pytest.raises(InputError, match=message):
        corruption_error.summarize(scores(0.5), {"fog": [bad]}, ["fog"])
    with pytest.raises(InputError, match=message):
        corruption_error.mce({"fog": [bad]}, good, ["fog"])
    with pytest.raises(InputError, match=message):
        corruption_error.mce(good, {"fog": [bad]}, ["fog"])


@pytest.mark.parametrize("key", KEYS[1:])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_refused(key, value):
    bad = scores(0.5) | {key: value}
    with pytest.raises(InputError, match=f"clean: {key}: got {value}, allowed"):
        corruption_error.summarize(bad, {}, ["fog"])
    with pytest.raises(InputError, match=rf"cells\['fog'\]: {key}: got {value}"):
        corruption_error.summarize(scores(0.5), {"fog": [bad]}, ["fog"])


def test_a_corruption_without_severities_is_refused():
    with pytest.raises(InputError, match=r"cells\['fog'\]: got no severities"):
        corruption_error.summarize(scores(0.5), {"fog": []}, ["fog"])
