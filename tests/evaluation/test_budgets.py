"""Figures of methods at several training times."""

import numpy as np
import pytest
from fake_comparison import comparison

from ssvi_jax.evaluation.comparison import budgets

PARTS = {
    30.0: comparison(("rigl", 0, {"accuracy": 0.9, "train_flops": 6e14})),
    5.0: comparison(
        ("rigl", 0, {"accuracy": 0.7, "train_flops": 1e14}),
        ("rigl", 1, {"accuracy": 0.8, "train_flops": 1e14}),
        ("vi", 0, {"accuracy": 0.5}),
    ),
}


def test_points_are_means_by_budget():
    found = budgets.points(PARTS, "rigl", "minutes", "accuracy")
    np.testing.assert_allclose(found.cost, [5, 30])
    np.testing.assert_allclose(found.score, [0.75, 0.9])
    np.testing.assert_allclose(found.error, [0.05, np.nan])
    found = budgets.points(PARTS, "rigl", "train_flops", "nll")
    np.testing.assert_allclose(found.cost, [1e14, 6e14])
    assert budgets.points(PARTS, "vi", "minutes", "nll").cost.tolist() == [5]


@pytest.mark.parametrize(
    ("options", "panels"),
    [({}, 9), ({"costs": ["minutes"], "scores": ["accuracy", "corrupted_nll"]}, 2)],
)
def test_a_panel_for_each_score_and_cost(options, panels):
    figure = budgets.figure(PARTS, **options)
    axes = figure.axes
    assert len(axes) == panels
    labels = {(ax.get_xlabel(), ax.get_ylabel()) for ax in axes}
    assert len(labels) == panels
    drawn = [np.asarray(line.get_ydata(), float).tolist() for line in axes[0].lines]
    assert pytest.approx([0.75, 0.9]) in drawn
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["rigl", "vi"]


def test_few_methods_in_their_order():
    figure = budgets.figure(PARTS, ["vi", "static", "rigl"])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["vi", "rigl"]
