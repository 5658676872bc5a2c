import copy
import math

import fake_report
import numpy as np
import pytest
from fake_report import BENCHMARK, Fake
from html_page import Page

from ssvi_jax.evaluation.shift.report import data as report_data
from ssvi_jax.evaluation.shift.report.data import Report
from ssvi_jax.evaluation.shift.report.facts import standard_error
from ssvi_jax.evaluation.shift.report.page import render

SMALL = Fake(runs=3, benchmark=BENCHMARK[:3], ood=("svhn",), images=40)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return fake_report.write(tmp_path_factory.mktemp("words"), SMALL)


@pytest.fixture
def report(results) -> Report:
    """A report that a test may change."""
    return Report(copy.deepcopy(results), {})


def headline(report: Report, run: int) -> dict:
    found = report.results["runs"][run]
    return found["networks"][found["headline"]]


def items(report: Report, heading: str) -> list[str]:
    """Sentences below a heading of the page, no-break spaces as spaces."""
    found = Page(render(report, {})).items.get(heading, [])
    return [text.replace("\N{NO-BREAK SPACE}", " ") for text in found]


def said(report: Report, topic: str) -> str:
    """Everything on a topic; "" where nothing is said."""
    return " | ".join(items(report, topic))


def set_cells(report: Report, run: int, score: str, values) -> None:
    """The same values, one a severity, for every corruption."""
    for cells in headline(report, run)["cells"].values():
        for cell, value in zip(cells, values, strict=True):
            cell[score] = value


def test_the_lead_counts_what_was_evaluated(report):
    lead = " ".join(Page(render(report, {})).texts["p.lead"].split())
    assert lead == (
        "3 models on 1,000 clean images, 15 cells of 40 images each (3 corruptions at "
        "5 severities) and 1 out-of-distribution set (svhn)."
    )


def test_best_and_worst_are_by_accuracy_under_corruption(report):
    for run, accuracy in enumerate((0.4, 0.9, 0.6)):
        headline(report, run)["summary"]["corrupted_accuracy"] = accuracy
    page = Page(render(report, {}))
    assert "Most accurate under corruption:" in page.texts["p"]
    assert page.texts["bdi"].startswith("ssvi, 90 % sparse")
    assert page.items[""][1] == "90.0\N{NO-BREAK SPACE}%accuracy under corruption"
    text = said(report, "Best and worst")
    assert "“ssvi, 90 % sparse” is most accurate (90.0 % on average)" in text
    assert "“ssvi, 95 % sparse” least (40.0 %)" in text
    assert "may be chance" not in text


def test_a_difference_within_the_standard_error_is_called_so(report):
    # At 50 % of 40 images one standard error is 7.9 points.
    for run, accuracy in enumerate((0.5, 0.46, 0.48)):
        headline(report, run)["summary"]["corrupted_accuracy"] = accuracy
    text = said(report, "Best and worst")
    assert "4.0 points is smaller than the standard error" in text
    assert "(7.9 points)" in text


def test_equal_models_have_no_best(report):
    for run in range(3):
        headline(report, run)["summary"]["corrupted_accuracy"] = 0.5
    assert said(report, "Best and worst") == "All models are equally accurate (50.0 %)."


def test_the_fall_names_the_hardest_and_the_mildest(report):
    headline(report, 0)["clean"]["accuracy"] = 0.9
    set_cells(report, 0, "accuracy", (0.8, 0.7, 0.6, 0.5, 0.4))
    for name, change in (("shot_noise", -0.1), ("impulse_noise", 0.1)):
        for cell in headline(report, 0)["cells"][name]:
            cell["accuracy"] += change
    assert items(report, "Accuracy")[0] == (
        "ssvi, 95 % sparse: 90.0 % on clean images, 60.0 % under corruption, a fall of "
        "30.0 points; 80.0 % at severity 1, 40.0 % at severity 5. Hardest: shot noise "
        "(50.0 %), mildest: impulse noise (70.0 %)."
    )


def test_extras_are_in_no_mean(report):
    before = said(report, "Accuracy")
    for cell in headline(report, 0)["cells"]["speckle_noise"]:
        cell["accuracy"] = 0.0
    assert said(report, "Accuracy") == before


@pytest.mark.parametrize(
    ("scale", "word"),
    [(1.5, "overconfident"), (0.5, "underconfident"), (1.0, "neither over- nor under")],
)
def test_temperature_says_what_was_wrong_and_whether_it_helped(report, scale, word):
    fitted = headline(report, 0)["temperature"]
    fitted["value"] = scale
    fitted["summary"] |= {"ece": 0.01, "corrupted_ece": 0.05}
    headline(report, 0)["summary"] |= {"ece": 0.1, "corrupted_ece": 0.06}
    text = items(report, "Calibration")[0]
    assert text.startswith(
        "ssvi, 95 % sparse: ECE 0.100 on clean images, 0.060 under corruption."
    )
    assert f"T = {scale:.2f}: {word}" in text
    assert text.endswith(
        "makes it 0.010 on clean images and 0.050 under corruption, better there."
    )
    fitted["summary"]["corrupted_ece"] = 0.07
    assert "no better there" in items(report, "Calibration")[0]


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ((0.2, 0.3, 0.4, 0.5, 0.6), "entropy grows at every step, from 0.100 nats"),
        ((0.2, 0.3, 0.25, 0.5, 0.6), "to 0.600 nats, but not at every step"),
        ((0.1, 0.1, 0.1, 0.1, 0.05), "entropy does not grow with severity"),
    ],
)
def test_uncertainty_grows_or_does_not(report, levels, words):
    headline(report, 2)["clean"]["predictive_entropy"] = 0.1
    set_cells(report, 2, "predictive_entropy", levels)
    assert words in items(report, "Uncertainty")[2]


def test_logit_disagreement_is_spoken_of_where_every_cell_has_it(report):
    headline(report, 1)["clean"]["logit_disagreement"] = 0.25
    set_cells(report, 1, "logit_disagreement", (0.3, 0.4, 0.5, 0.6, 0.7))
    words = "logit disagreement grows at every step, from 0.250 nats on clean images"
    assert f"{words} to 0.700 nats." in items(report, "Uncertainty")[1]
    del headline(report, 1)["cells"]["shot_noise"][0]["logit_disagreement"]
    assert "logit" not in items(report, "Uncertainty")[1]


def test_the_best_detection_is_named_with_its_run_and_score(report):
    found = headline(report, 1)["ood"]["svhn"]
    found["max_probability"] = {"auroc": 0.999, "aupr": 0.9, "fpr95": 0.02}
    assert said(report, "Out of distribution") == (
        "svhn is detected best by the max probability of “ssvi, 90 % sparse”: AUROC "
        "0.999; 2.0 % of the test images are reported by mistake when 95 % of svhn are "
        "found."
    )
    for run in range(3):
        for areas in headline(report, run)["ood"]["svhn"].values():
            areas["auroc"] = 0.52
    assert "hardly better than chance" in said(report, "Out of distribution")


def test_selection_gives_the_accuracy_at_80_percent(report):
    chosen = headline(report, 0)["selective"]
    chosen["clean"]["accuracy_at"] |= {"0.8": 0.95, "1.0": 0.9}
    text = items(report, "Selective prediction")[0]
    assert "from 90.0 % to 95.0 % on clean images and from" in text


def test_many_runs_are_spoken_of_by_the_best_and_the_worst(tmp_path):
    fake_report.write(tmp_path, Fake(runs=5, benchmark=BENCHMARK[:1], images=30))
    report = report_data.read(tmp_path)
    values = [
        headline(report, run)["summary"]["corrupted_accuracy"] for run in range(5)
    ]
    ends = [int(np.argmax(values)), int(np.argmin(values))]
    names = [text.partition(":")[0] for text in items(report, "Accuracy")]
    assert names == [report.labels[run] for run in ends]
    assert "the tables have all 5" in said(report, "Best and worst")


def test_without_a_benchmark_only_clean_scores_are_spoken_of(report):
    report.results["corruptions"]["benchmark"] = []
    for run in report.results["runs"]:
        for network in run["networks"].values():
            for part in (network["summary"], network["temperature"]["summary"]):
                for name in list(part):
                    if name.startswith("corrupt") or name == "mce":
                        del part[name]
    assert said(report, "Uncertainty") == ""
    assert "On clean images" in said(report, "Best and worst")
    assert "under corruption" not in said(report, "Accuracy")
    assert "cell" not in items(report, "Read with care")[0]


# Caveats -----------------------------------------------------------------------------


def warned(report: Report) -> str:
    return " ".join(items(report, "Read with care"))


def test_the_standard_error_follows_from_the_number_of_images(report):
    assert standard_error(0.5, 100) == pytest.approx(0.05)
    for run in range(3):
        headline(report, run)["summary"]["corrupted_accuracy"] = 0.8
    error = 100 * math.sqrt(0.8 * 0.2 / 40)
    text = warned(report)
    assert "at an accuracy of 80.0 % its standard error" in text
    assert f"sqrt(p (1 - p) / n) is {error:.1f} points" in text
    assert f"between {error / math.sqrt(15):.1f} points" in text


def test_where_all_answers_agree_no_error_is_estimated(report):
    for run in range(3):
        headline(report, run)["summary"]["corrupted_accuracy"] = 1.0
    assert "no standard error can be estimated" in warned(report)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("generated", "made on the fly"),
        ("folder", "read from files"),
        ("tfds", "the published ones"),
    ],
)
def test_the_kind_of_data_is_said(report, kind, words):
    report.results["corruptions"]["kind"] = kind
    assert words in warned(report)
    assert ("Do not set them beside" in warned(report)) == (kind == "generated")


def test_few_corruptions_images_and_seeds_are_said(report):
    text = warned(report)
    assert "3 of the benchmark's 15 corruptions" in text
    assert "With 40 images a cell, the ECE" in text
    assert "trained with one seed" in text
    assert "Extra corruptions (1)" in text
    report.results["corruptions"]["images_per_cell"] = 10_000
    report.results["runs"][0]["seed"] = 1
    text = warned(report)
    assert "the ECE of a cell" not in text
    assert "2 seeds" in text


def test_posterior_samples_that_hardly_differ_are_said(report):
    assert "hardly differ" not in warned(report)
    headline(report, 1)["clean"] |= {
        "mutual_information": 0.00005,
        "predictive_entropy": 0.5,
    }
    text = warned(report)
    assert "samples of “ssvi, 90 % sparse” hardly differ" in text
    assert "is 0.01 % of the predictive entropy" in text
    set_cells(report, 1, "mutual_information", (1e-4, 2e-4, 3e-4, 4e-4, 6e-4))
    grown = items(report, "Uncertainty")[1]
    assert "from 5.0e-05 nats on clean images to 0.001 nats; logit dis" in grown


def test_other_clean_images_than_in_a_cell_are_said(report):
    words = "Clean scores are over 1,000 images, those of a cell over 40"
    assert words in warned(report)
    report.results["dataset"]["test_images"] = 40
    assert "Clean scores" not in warned(report)


def test_a_temperature_at_the_border_is_said(report):
    assert "border" not in warned(report)
    headline(report, 1)["temperature"]["value"] = 100.0
    assert "“ssvi, 90 % sparse” is at the border" in warned(report)
