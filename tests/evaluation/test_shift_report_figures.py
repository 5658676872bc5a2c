import copy
import itertools
import json
import math
import subprocess
import sys
from typing import Any

import fake_report
import matplotlib
import numpy as np
import pytest
from fake_report import BENCHMARK, HOSTILE, Fake
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from ssvi_jax.evaluation.run_style import COLOURS
from ssvi_jax.evaluation.shift.report import curves, heat_maps, severity_plots
from ssvi_jax.evaluation.shift.report import data as report_data
from ssvi_jax.evaluation.shift.report import figures as report_figures
from ssvi_jax.evaluation.shift.report.data import Report
from ssvi_jax.evaluation.shift.report.figures import FIGURES, make_figures

SMALL = Fake(runs=1, benchmark=BENCHMARK[:2], extra=(), ood=(), images=20)


def fake(tmp_path_factory, what: Fake) -> Report:
    folder = tmp_path_factory.mktemp("report")
    fake_report.write(folder, what)
    return report_data.read(folder)


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Report:
    return fake(tmp_path_factory, Fake())


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Report:
    return fake(tmp_path_factory, Fake(runs=1, extra=(), ood=("svhn",)))


def drawn(figure: Figure | None) -> Any:
    """The figure, with artists untyped: each is of the class that drew it."""
    assert figure is not None
    return figure


def headline_cells(report: Report, run: int, score: str) -> np.ndarray:
    """Cells of the benchmark ``[corruptions, severities]``, straight from the JSON."""
    found = report.results["runs"][run]
    cells = found["networks"][found["headline"]]["cells"]
    return np.array([[cell[score] for cell in cells[name]] for name in BENCHMARK])


def texts(figure: Figure) -> list[Text]:
    """The texts that one sees: those that a draw draws."""
    seen, draw = [], Text.draw

    def note(text, *args, **kwargs):
        if text.get_visible() and text.get_text().strip():
            seen.append(text)
        draw(text, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", note)
        figure.draw_without_rendering()
    return seen


def overlaps(seen: list[Text]) -> list[tuple[str, str]]:
    """Pairs of texts that touch each other by more than two pixels."""
    boxes = [(text.get_text(), text.get_window_extent()) for text in seen]
    found = []
    for (name, a), (other, b) in itertools.combinations(boxes, 2):
        wide = min(a.x1, b.x1) - max(a.x0, b.x0)
        high = min(a.y1, b.y1) - max(a.y0, b.y0)
        if wide > 2 and high > 2:
            found.append((name, other))
    return found


def clipped(figure: Figure, seen: list[Text]) -> list[str]:
    """Texts that reach beyond the figure by more than a pixel."""
    frame = figure.bbox
    boxes = [(text.get_text(), text.get_window_extent()) for text in seen]
    return [
        name
        for name, box in boxes
        if box.x0 < frame.x0 - 1
        or box.y0 < frame.y0 - 1
        or box.x1 > frame.x1 + 1
        or box.y1 > frame.y1 + 1
    ]


# Files -------------------------------------------------------------------------------


def test_writes_all_figures_at_page_width(tmp_path):
    fake_report.write(tmp_path, Fake(runs=2, benchmark=BENCHMARK[:2], images=20))
    paths = make_figures(tmp_path)
    assert paths == [tmp_path / "figures" / f"{name}.png" for name in FIGURES]
    for path in paths:
        assert path.stat().st_size < 500_000
        with Image.open(path) as image:
            assert 1000 <= image.width <= 1500
            assert 400 <= image.height <= 3000
            assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)


def test_a_figure_that_is_no_longer_drawn_is_removed(tmp_path, monkeypatch):
    drawn = {name: FIGURES[name] for name in ("roc", "selective")}
    monkeypatch.setattr(report_figures, "FIGURES", drawn)  # only to save time
    fake_report.write(tmp_path, SMALL)
    old = tmp_path / "figures" / "roc.png"
    old.parent.mkdir()
    old.write_bytes(b"of an earlier evaluation")
    assert make_figures(tmp_path) == [old.with_name("selective.png")]
    assert not old.exists()


# What an evaluation lacks → the figures that it cannot have.
MISSING = {
    "baseline": ({"runs": 2, "baseline": False}, set()),
    "foreign sets": ({"ood": ()}, {"difference", "roc"}),
    "posterior": ({"deterministic_only": True}, {"difference"}),
    "images": ({"images": 1, "clean_images": 1}, {"difference"}),
    "colour and names": ({"grey": True}, {"difference"}),
}


@pytest.mark.parametrize("case", MISSING)
def test_what_an_evaluation_lacks_is_left_out(tmp_path, case):
    fields, without = MISSING[case]
    small = {"runs": 1, "benchmark": BENCHMARK[:2], "ood": ("svhn",), "images": 20}
    fake_report.write(tmp_path, Fake(**small | fields))
    report = report_data.read(tmp_path)
    figures = {name: draw(report) for name, draw in FIGURES.items()}
    assert {name for name, figure in figures.items() if figure is None} == without
    for figure in figures.values():
        if figure is not None:
            figure.draw_without_rendering()


def test_curves_and_examples_may_be_missing(tmp_path):
    results = fake_report.write(tmp_path, SMALL)
    for network in results["runs"][0]["networks"].values():
        del network["curves"], network["ood"], network["selective"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "examples.npz").unlink()
    report = report_data.read(tmp_path)
    names = [name for name, draw in FIGURES.items() if draw(report) is not None]
    assert names == ["accuracy", "severity", "uncertainty"]


# Legible -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("runs", ["one", "three"])
def test_texts_neither_overlap_nor_leave_the_figure(request, name, runs):
    figure = FIGURES[name](request.getfixturevalue(runs))
    if figure is None:
        assert (name, runs) == ("difference", "one")
        return
    seen = texts(figure)
    assert clipped(figure, seen) == []
    assert overlaps(seen) == []
    assert min(float(text.get_fontsize()) for text in seen) >= 7
    assert len(figure.get_suptitle()) > 20


def test_many_runs_with_hostile_names_are_legible(tmp_path_factory):
    what = Fake(
        runs=6, benchmark=BENCHMARK[:2], images=20, ood=("svhn",), names=HOSTILE
    )
    report = fake(tmp_path_factory, what)
    for name, draw in FIGURES.items():
        figure = drawn(draw(report))
        seen = texts(figure)
        assert clipped(figure, seen) == [], name
        assert overlaps(seen) == [], name


def test_overlapping_and_clipped_texts_would_be_seen():
    figure = Figure()
    for x in (0.5, 0.52):
        figure.text(x, 0.5, "text")
    figure.text(0.99, 0.1, "beyond the edge")
    assert len(overlaps(texts(figure))) == 1
    assert clipped(figure, texts(figure)) == ["beyond the edge"]


# What they show ----------------------------------------------------------------------


def test_heat_maps_show_every_accuracy_and_the_means(three):
    figure = drawn(heat_maps.accuracy(three))
    maps = figure.axes[:3]
    assert [ax.get_title(loc="left") for ax in maps] == three.labels
    rows = [label.get_text() for label in maps[0].get_yticklabels()]
    assert rows[:2] == ["gaussian noise", "shot noise"]
    assert rows[-2:] == ["speckle noise *", "mean without *"]
    for run, ax in enumerate(maps):
        cells = headline_cells(three, run, "accuracy")
        written = np.array([int(text.get_text()) for text in ax.texts]).reshape(-1, 6)
        np.testing.assert_allclose(written[:15, :5], 100 * cells, atol=0.501)
        np.testing.assert_allclose(written[:15, 5], 100 * cells.mean(1), atol=0.501)
        np.testing.assert_allclose(written[-1, :5], 100 * cells.mean(0), atol=0.501)
        assert written[-1, 5] == pytest.approx(100 * cells.mean(), abs=0.501)


def test_differences_are_to_the_baseline(three):
    figure = drawn(heat_maps.difference(three))
    assert "“deterministic, dense”" in figure.get_suptitle()
    base = headline_cells(three, 2, "accuracy")
    for run, ax in enumerate(figure.axes[:2]):
        change = 100 * (headline_cells(three, run, "accuracy") - base)
        written = [text.get_text().replace("\N{MINUS SIGN}", "-") for text in ax.texts]
        numbers = np.array(list(map(int, written))).reshape(-1, 6)
        np.testing.assert_allclose(numbers[:15, :5], change, atol=0.501)
        assert {text[0] for text in written} <= set("+-0")
    norm = figure.axes[0].images[0].norm
    assert norm.vmin == -norm.vmax  # nothing changed is white


def test_numbers_on_heat_maps_contrast_with_their_cell(three):
    figure = drawn(heat_maps.accuracy(three))
    for ax in figure.axes[:3]:
        (image,) = ax.images
        colours = image.cmap(image.norm(image.get_array())).reshape(-1, 4)
        for text, colour in zip(ax.texts, colours, strict=True):
            channels = (colour[:3], to_rgba(text.get_color())[:3])
            light, dark = sorted(map(luminance, channels), reverse=True)
            assert (light + 0.05) / (dark + 0.05) > 4.2


def luminance(rgb) -> float:
    """Relative luminance as WCAG 2 defines it."""
    c = np.asarray(rgb)
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def test_boxes_are_over_the_benchmark_of_each_severity(three):
    axes = drawn(severity_plots.severity(three)).axes
    for ax, score in zip(axes, ("accuracy", "nll", "ece"), strict=True):
        lines = ax.get_lines()
        assert len(lines) == 3 * (1 + 5 * 5)  # clean; whiskers, caps, median
        for run in range(3):
            clean, *rest = lines[26 * run : 26 * (run + 1)]
            parts = [rest[i::5] for i in range(5)]
            found = three.runs[run]
            expected = found["networks"][found["headline"]]["clean"][score]
            assert clean.get_ydata() == [expected]
            cells = headline_cells(three, run, score)
            low, high, _, _, medians = (
                [line.get_ydata()[-1] for line in part] for part in parts
            )
            np.testing.assert_allclose(low, cells.min(axis=0))
            np.testing.assert_allclose(high, cells.max(axis=0))
            np.testing.assert_allclose(medians, np.median(cells, axis=0))


def test_uncertainty_is_the_mean_over_the_benchmark(three):
    figure = drawn(severity_plots.uncertainty(three))
    names = ("predictive_entropy", "expected_entropy", "mutual_information")
    names += ("logit_disagreement",)
    # The last run is deterministic: it has no samples that could disagree.
    for ax, name, runs in zip(figure.axes, names, (3, 2, 2, 2), strict=True):
        assert len(ax.get_lines()) == runs
        for run, line in enumerate(ax.get_lines()):
            found = three.runs[run]
            clean = found["networks"][found["headline"]]["clean"][name]
            means = headline_cells(three, run, name).mean(axis=0)
            np.testing.assert_allclose(line.get_ydata(), [clean, *means])


def test_tiny_information_is_in_a_unit_of_its_own(one):
    runs = copy.deepcopy(one.runs)
    network = report_data.headline(runs[0])
    for part in itertools.chain([network["clean"]], *network["cells"].values()):
        part["mutual_information"] *= 1e-4
    largest = 1e-4 * headline_cells(one, 0, "mutual_information").max()
    figure = drawn(
        severity_plots.uncertainty(Report({**one.results, "runs": runs}, {}))
    )
    ax = figure.axes[2]
    power = math.floor(math.log10(largest))
    assert ax.get_ylabel() == f"$10^{{{power}}}$ nats per image"
    mean = 1e-4 * headline_cells(one, 0, "mutual_information").mean(axis=0)
    (line,) = ax.get_lines()
    np.testing.assert_allclose(line.get_ydata()[1:] * 10.0**power, mean)
    assert figure.axes[0].get_ylabel() == "nats per image"


def test_a_score_that_not_all_cells_have_is_left_out(one):
    runs = copy.deepcopy(one.runs)
    network = report_data.headline(runs[0])
    del network["cells"][one.benchmark[0]][2]["logit_disagreement"]
    old = Report({**one.results, "runs": runs}, {})
    assert "logit_disagreement" in network["clean"]
    assert not old.has(network, "logit_disagreement")
    assert old.has(network, "mutual_information")
    titles = [
        ax.get_title(loc="left") for ax in drawn(severity_plots.uncertainty(old)).axes
    ]
    assert len(titles) == 3
    assert not any("Logit" in title for title in titles)


def test_reliability_skips_empty_bins_and_gives_the_ece(three):
    figure = drawn(curves.reliability(three))
    axes = np.reshape(figure.axes, (3, 4))
    titles = [ax.get_title(loc="left") for ax in axes[0]]
    assert titles == ["Clean", "Severity 1", "Severity 3", "Severity 5"]
    for run in range(3):
        found = three.runs[run]
        network = found["networks"][found["headline"]]
        bins = network["curves"]["reliability"]["clean"]
        assert None in bins["accuracy"]
        points = [
            (c, a)
            for c, a in zip(bins["confidence"], bins["accuracy"], strict=True)
            if a is not None
        ]
        curve, sure, unsure = axes[0, 0].get_lines()[1 + 3 * run : 4 + 3 * run]
        np.testing.assert_allclose(curve.get_xydata(), points)
        few = sum(0 < n < curves.FEW for n in bins["count"])
        assert len(unsure.get_xdata()) == few
        assert len(sure.get_xdata()) == len(points) - few
        # The ECE was computed from the predictions themselves.
        bar = axes[2, 0].patches[run]
        assert bar.get_width() == pytest.approx(network["clean"]["ece"])
        steps = axes[1, 0].patches[run].get_data().values
        np.testing.assert_allclose(steps, np.array(bins["count"]) / 1000)


def test_roc_panels_have_every_set_and_score(three):
    figure = drawn(curves.roc(three))
    axes = np.reshape(figure.axes, (2, 4))
    titles = [ax.get_title(loc="left") for ax in axes[1]]
    scores = ["entropy", "max probability", "mutual information", "logit disagreement"]
    assert titles == [f"By {score}" for score in scores]
    assert axes[1, 0].get_ylabel() == "found of noise"
    network = three.runs[0]["networks"]["mc"]
    curve = network["curves"]["roc"]["noise"]["mutual_information"]
    line = axes[1, 2].get_lines()[1]
    np.testing.assert_allclose(line.get_xdata(), curve["fpr"])
    np.testing.assert_allclose(line.get_ydata(), curve["tpr"])
    areas = [text.get_text() for text in axes[1, 2].get_legend().get_texts()]
    expected = [
        run["networks"]["mc"]["ood"]["noise"]["mutual_information"]["auroc"]
        for run in three.runs[:2]
    ]
    assert areas == [f"{area:.3f}" for area in expected]


def test_selective_curves_are_clean_and_shifted(three):
    axes = drawn(curves.selective(three)).axes
    for ax, name in zip(axes, ("clean", "shifted"), strict=True):
        for run, line in enumerate(ax.get_lines()):
            found = three.runs[run]
            network = found["networks"][found["headline"]]
            curve = network["curves"]["selective"][name]
            np.testing.assert_allclose(line.get_xdata(), curve["coverage"])
            np.testing.assert_allclose(line.get_ydata(), curve["accuracy"])


def test_a_run_has_one_colour_in_all_figures(three):
    lines = [
        drawn(curves.selective(three)).axes[0].get_lines(),
        drawn(severity_plots.uncertainty(three)).axes[0].get_lines(),
        drawn(curves.roc(three)).axes[0].get_lines()[1:],
        drawn(severity_plots.severity(three)).axes[0].get_lines()[::26],
        drawn(curves.reliability(three)).axes[0].get_lines()[1::3],
    ]
    for found in lines:
        assert [line.get_color() for line in found] == list(COLOURS[:3])
    assert len(set(COLOURS)) == 8


def test_pyplot_is_never_imported():
    code = (
        "import sys, ssvi_jax.evaluation.shift.report.figures; "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert matplotlib.get_backend().lower() == "agg"
