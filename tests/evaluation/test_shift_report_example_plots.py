from typing import Any

import fake_report
import numpy as np
import pytest
from fake_report import BENCHMARK, Fake

from ssvi_jax.evaluation.shift.report import data as report_data
from ssvi_jax.evaluation.shift.report import example_plots
from ssvi_jax.evaluation.shift.report.data import Report


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Report:
    folder = tmp_path_factory.mktemp("report")
    fake_report.write(folder, Fake(benchmark=BENCHMARK[:1], images=5))
    return report_data.read(folder)


def axes_of(report: Report) -> Any:
    """The only axes of the figure."""
    figure = example_plots.examples(report)
    assert figure is not None
    (ax,) = figure.axes
    return ax


def test_examples_say_class_probability_and_truth(three):
    ax = axes_of(three)
    said = [text.get_text() for text in ax.texts]
    arrays = three.examples
    names = three.results["dataset"]["class_names"]
    for r in range(3):
        guess = arrays[f"probs_{r}"].argmax(axis=-1)
        best = arrays[f"probs_{r}"].max(axis=-1)
        for at in np.ndindex(guess.shape):
            assert f"{names[guess[at]]} {100 * best[at]:.0f}%" in said
    known = arrays["labels"] >= 0
    right = sum(
        int(((arrays[f"probs_{r}"].argmax(-1) == arrays["labels"]) & known).sum())
        for r in range(3)
    )
    assert said.count("✓") == right
    assert said.count("✗") == 3 * known.sum() - right
    assert "foreign:\ncifar100" in said
    assert len(ax.images) == arrays["labels"].size
    np.testing.assert_array_equal(ax.images[0].get_array(), arrays["images"][0, 0])


def test_bars_of_examples_are_the_share_of_the_largest_entropy(three):
    ax = axes_of(three)
    track, entropy, information = ax.patches[:3]
    # Clean, first image: the largest entropy of ten classes is ln 10.
    for bar, name in ((entropy, "entropy_0"), (information, "mutual_information_0")):
        share = three.examples[name][0, 0] / np.log(10)
        assert bar.get_width() == pytest.approx(share * track.get_width())


def test_at_most_four_runs_six_images_and_eight_looks_are_drawn(three):
    arrays = {name: np.asarray(a) for name, a in three.examples.items()}
    tiled = {
        name: np.tile(a, (2, 3) + (1,) * (a.ndim - 2))
        for name, a in arrays.items()
        if name != "looks"
    }
    tiled["looks"] = np.tile(arrays["looks"], 3)
    for name in ("probs", "entropy"):
        tiled |= {f"{name}_{r}": tiled[f"{name}_0"] for r in range(6)}
    runs = [{**three.runs[0], "name": str(r), "label": str(r)} for r in range(6)]
    ax = axes_of(Report({**three.results, "runs": runs}, tiled))
    assert len(ax.images) == 6 * 8
    assert sum("%" in text.get_text() for text in ax.texts) == 4 * 6 * 8


def test_classes_without_names_are_numbered(three):
    dataset = {"name": "digits"}
    ax = axes_of(Report({**three.results, "dataset": dataset}, three.examples))
    said = [text.get_text() for text in ax.texts]
    assert said[-1] == "class 4"
    assert example_plots.examples(Report(three.results, {})) is None
