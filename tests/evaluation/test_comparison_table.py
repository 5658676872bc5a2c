import csv
import itertools
import math

import fake_comparison
import numpy as np
import pytest
from fake_comparison import comparison
from matplotlib.text import Annotation

from ssvi_jax.core.errors import InputError
from ssvi_jax.evaluation.comparison import figures, summary, table
from ssvi_jax.evaluation.comparison.runs import Run

THREE = [("ssvi", s, {"accuracy": a}) for s, a in enumerate((0.80, 0.83, 0.86))]
ONE = [("rigl", 0, {"accuracy": 0.7})]


def test_mean_and_standard_error_by_hand():
    found = comparison(*THREE, *ONE)["methods"]
    # Deviations -0.03, 0, 0.03: s² = 0.0018 / 2, s = 0.03, s / √3 = 0.0173205.
    accuracy = found["ssvi"]["metrics"]["accuracy"]
    assert accuracy["mean"] == pytest.approx(0.83)
    assert accuracy["standard_error"] == pytest.approx(0.03 / math.sqrt(3))
    assert accuracy["values"] == [0.80, 0.83, 0.86]
    assert found["ssvi"]["seeds"] == [0, 1, 2]
    assert found["rigl"]["metrics"]["accuracy"]["standard_error"] is None
    assert list(found) == ["ssvi", "rigl"]


def test_runs_may_come_in_any_order():
    runs = [Run(m, s, fake_comparison.values(**v)) for m, s, v in THREE]
    assert summary.aggregate(runs[::-1]) == summary.aggregate(runs)


@pytest.mark.parametrize(
    ("name", "mean", "error", "shown"),
    [
        ("accuracy", 0.83074, 0.0123, "83.07 ± 1.23"),
        ("accuracy", 0.83074, None, "83.07"),
        ("nll", 0.48523, 0.00314, "0.4852 ± 0.0031"),
        ("auroc_cifar100", 0.80219, 0.00014, "0.8022 ± 0.0001"),
        ("disagreement_auroc_svhn", 0.91234, 0.002, "0.9123 ± 0.0020"),
        ("weights_kept", 232586, 0.0, "232,586"),
        ("weights_kept", 232586.4, 12.3, "232,586 ± 12"),
        ("state_bytes", 4_700_000, 12_000, "4.7 ± 0.0"),
        ("model_bytes", 783_300, 2_000, "783 ± 2"),
        ("train_flops", 4.66e14, None, "466"),
        ("train_flops", 1.8e18, None, "1,800,000"),
        ("predict_flops", 202.3e6, None, "202"),
        ("train_seconds", 1692.0, 6.0, "28.2 ± 0.1"),
        ("predict_seconds", 0.001234, None, "1,234"),
        ("predict_seconds", 9.996e-4, None, "1,000"),
    ],
)
def test_cells_have_the_unit_of_their_column(name, mean, error, shown):
    assert table.cell({name: {"mean": mean, "standard_error": error}}, name) == shown


def test_text_has_every_number_once_in_80_columns():
    lines = table.text(comparison(*THREE)).splitlines()
    assert max(map(len, lines)) == 80
    assert lines[-1] == "mean ± standard error over 3 seeds"
    rows = [line.split(maxsplit=1)[1] for line in lines if line.startswith("ssvi")]
    assert len(rows) == 6
    assert rows[0].split() == ["83.00", "±", "1.73", "0.5000", "0.0200", "0.2500"]
    assert rows[1].split() == ["0.0300", "0.5500"]
    assert rows[2].split() == ["70.00", "0.9000", "0.1000", "0.0700"]
    assert rows[4].split() == ["1,000", "50", "4.7", "783"]


def test_one_seed_is_said_and_has_no_error():
    found = comparison(*ONE)
    for text in (table.text(found), table.markdown(found)):
        assert "one seed: no standard errors" in text
        assert "±" not in text


def test_unequal_seeds_and_failures_are_said():
    found = comparison(*THREE, *ONE, failures={"rigl-1": "the loss is not finite"})
    for text in (table.text(found), table.markdown(found)):
        assert "seeds (ssvi 3, rigl 1; of one seed there is none)" in text
        assert "rigl-1 failed: the loss is not finite" in text


def test_a_number_that_one_method_lacks_is_a_dash():
    found = comparison(*THREE, *ONE)
    del found["methods"]["rigl"]["metrics"]["auroc_noise"]
    lines = table.text(found).splitlines()
    assert any(line.split() == ["rigl", "-"] for line in lines)
    assert "| `rigl` | - |" in table.markdown(found)


def test_columns_stand_below_their_heads_whatever_a_method_is_called():
    long = ("small_deterministic", 0, {})
    lines = table.text(comparison(*ONE, long)).splitlines()
    assert max(map(len, lines)) <= 80
    for name in ("rigl", "small_deterministic"):
        line = next(line for line in lines if line.startswith(name))
        head = lines[lines.index(line) - (2 if name == "rigl" else 3)]
        assert len(line) == len(head)


def test_many_sets_go_on_in_a_second_block():
    sets = {f"auroc_s{i}": 0.5 for i in range(6)}
    lines = table.text(comparison(("ssvi", 0, sets))).splitlines()
    assert max(map(len, lines)) == 80
    assert sum(line.startswith("ssvi") for line in lines) == 7


def test_logit_disagreement_has_a_block_of_its_own():
    posterior = {"disagreement_auroc_noise": 0.6}
    found = comparison(("ssvi", 0, posterior), ("rigl", 0, {}))
    lines = table.text(found).splitlines()
    title = "AUROC of the logit disagreement, out-of-distribution images"
    start = lines.index(title)
    assert [line.split() for line in lines[start + 1 : start + 5]] == [
        ["noise"],
        [80 * "-"],
        ["ssvi", "0.6000"],
        ["rigl", "-"],
    ]
    head = "| method | AUROC of the logit disagreement, noise |"
    assert head in table.markdown(found)
    assert "disagreement_auroc_noise" in table.as_csv(found).splitlines()[0]


def test_a_number_that_one_seed_lacks_is_left_out():
    for old, new in ((0, 1), (1, 0)):
        runs = (("ssvi", old, {}), ("ssvi", new, {"disagreement_auroc_noise": 0.6}))
        metrics = comparison(*runs)["methods"]["ssvi"]["metrics"]
        assert "disagreement_auroc_noise" not in metrics
        assert len(metrics["auroc_noise"]["values"]) == 2


def test_csv_gives_the_numbers_back():
    found = comparison(*THREE, *ONE)
    rows = list(csv.DictReader(table.as_csv(found).splitlines()))
    assert [(row["method"], row["seeds"]) for row in rows] == [
        ("ssvi", "3"),
        ("rigl", "1"),
    ]
    for row in rows:
        metrics = found["methods"][row["method"]]["metrics"]
        assert len(row) == 2 + 2 * len(metrics)
        for name, value in metrics.items():
            assert float(row[name]) == value["mean"]
            error = row[f"{name}_standard_error"]
            assert (float(error) if error else None) == value["standard_error"]


def test_markdown_rows_have_as_many_cells_as_heads():
    blocks = table.markdown(comparison(*THREE, *ONE)).split("\n\n")
    tables = [block.splitlines() for block in blocks if block.startswith("|")]
    assert len(tables) == 6
    for rows in tables:
        assert len({row.count("|") for row in rows}) == 1
        assert len(rows) == 4


@pytest.mark.parametrize("content", [None, "{", "[]", '{"methods": 3}'])
def test_a_folder_without_a_comparison_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / summary.FILE).write_text(content)
    with pytest.raises(InputError, match=r"comparison\.json.*run the comparison first"):
        summary.read(tmp_path)


# Figures ------------------------------------------------------------------------------


def test_the_front_is_what_nothing_beats():
    rng = np.random.default_rng(0)
    cost = rng.integers(0, 6, 40).astype(float)
    score = rng.integers(0, 6, 40).astype(float)
    pairs = list(zip(cost, score, strict=True))
    best = {
        (c, s)
        for c, s in pairs
        if not any(c2 <= c and s2 >= s and (c2, s2) != (c, s) for c2, s2 in pairs)
    }
    found = figures.front(cost, score)
    assert [pairs[row] for row in found] == sorted(best)


NAMES = [f"a_method_{i:02}" for i in range(15)]


def crowded():
    rng = np.random.default_rng(1)
    return comparison(
        *(
            (method, seed, {"accuracy": 0.8 + 0.01 * rng.normal(), "train_flops": f})
            for method, f in zip(NAMES, itertools.cycle([1e14, 1e15]))
            for seed in range(2)
        )
    )


def test_every_point_has_its_name_and_names_do_not_overlap():
    figure = figures.pareto(crowded())
    figure.draw_without_rendering()
    (ax,) = figure.axes
    assert ax.get_xscale() == "log"
    labels = [child for child in ax.get_children() if isinstance(child, Annotation)]
    assert [label.get_text() for label in labels] == NAMES
    boxes = [figures.text_box(label) for label in labels]
    for one, two in itertools.combinations(boxes, 2):
        assert not one.overlaps(two)
    for box in boxes:
        assert ax.get_window_extent().count_contains(box.get_points()) == 2


def test_the_shift_figure_shows_both_scores_of_every_method():
    figure = figures.shift(crowded())
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == NAMES
    for ax, clean, corrupted in ((left, 0.5, 0.9), (right, 0.02, 0.1)):
        points = {x for line in ax.lines for x in np.atleast_1d(line.get_xdata())}
        assert {clean, corrupted} <= points


def test_figures_are_files_and_none_without_a_method(tmp_path):
    paths = figures.make_figures(comparison(*ONE), tmp_path)
    assert [path.name for path in paths] == ["pareto.png", "shift.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert figures.make_figures(comparison(), tmp_path) == []
