"""What limits an evaluation, in sentences from its numbers."""

import math

from ssvi_jax.evaluation.shift.report.data import Report, headline
from ssvi_jax.evaluation.shift.report.words import (
    number,
    percent,
    points,
    quoted,
    standard_error,
)
from ssvi_jax.metrics.temperature import MAX_TEMPERATURE, MIN_TEMPERATURE

_BENCHMARK_SIZE = 15  # corruptions of Hendrycks and Dietterich (2019)
_KINDS = {
    "generated": "made on the fly from the test images, not the published files",
    "folder": "read from files in the layout of the published ones",
    "tfds": "the published ones, prepared by TensorFlow Datasets",
}
_ALIKE = 0.01  # mutual information as a fraction of the predictive entropy
_MANY = 1000  # images of a cell whose ECE is hardly biased


def caveats(report: Report) -> list[str]:
    """What a reader must know before comparing these numbers, most important first."""
    found = [
        _sampling_error(report),
        _clean_images(report),
        _calibration_bias(report),
        _data(report),
        _missing(report),
        _seeds(report),
        *_borders(report),
        *_alike_samples(report),
        _networks(report),
    ]
    return [text for text in found if text]


def _sampling_error(report: Report) -> str:
    images = report.results["corruptions"].get("images_per_cell")
    cells = len(report.benchmark) * len(report.severities)
    if not images or not cells:
        return ""
    accuracies = [headline(run)["summary"]["corrupted_accuracy"] for run in report.runs]
    # The accuracy with the largest error, so that the sentence holds for every run.
    accuracy = min(accuracies, key=lambda value: abs(value - 0.5))
    error = standard_error(accuracy, images)
    text = f"A cell has {number(images, 'image')}"
    if not error:
        return f"{text}; all answers agree, so that no standard error can be estimated."
    text += (
        f": at an accuracy of {percent(accuracy)} its standard error "
        f"sqrt(p (1 - p) / n) is {points(error)}."
    )
    if cells == 1:
        return text
    return (
        f"{text} The mean over {cells} cells repeats the same images, so its error is "
        f"between {points(error / math.sqrt(cells))} (if cells were independent) and "
        f"{points(error)} (if they failed on the same images). Models are compared on "
        "the same images; their differences are more certain than that."
    )


def _clean_images(report: Report) -> str:
    clean = report.results.get("dataset", {}).get("test_images")
    images = report.results["corruptions"].get("images_per_cell")
    if not clean or not images or clean == images or not report.benchmark:
        return ""
    return (
        f"Clean scores are over {number(clean, 'image')}, those of a cell over "
        f"{images:,}: a part of the fall may come from which images these are."
    )


def _calibration_bias(report: Report) -> str:
    images = report.results["corruptions"].get("images_per_cell")
    if not images or images >= _MANY or not report.benchmark:
        return ""
    return (
        f"With {number(images, 'image')} a cell, the ECE of a cell is above 0 by "
        "chance alone: bins with few images deviate even where confidence is right. "
        "Compare models with each other, not with ECE from larger sets. The "
        "reliability diagrams pool all corruptions of a severity and suffer less."
    )


def _data(report: Report) -> str:
    corruptions = report.results["corruptions"]
    kind = _KINDS.get(str(corruptions.get("kind")))
    text = f"The corrupted images are {kind}." if kind else ""
    if corruptions.get("kind") == "generated":
        text += " Do not set them beside numbers published for the official files."
    return text


def _missing(report: Report) -> str:
    parts, count = [], len(report.benchmark)
    if 0 < count < _BENCHMARK_SIZE:
        parts.append(
            f"Averages are over {count} of the benchmark's {_BENCHMARK_SIZE} "
            "corruptions and not comparable with averages over all."
        )
    if report.extra:
        parts.append(f"Extra corruptions ({len(report.extra)}) are in no average.")
    return " ".join(parts)


def _seeds(report: Report) -> str:
    seeds = {run.get("seed") for run in report.runs}
    if len(report.runs) == 1:
        return (
            "One model, trained once: how much another training seed would change the "
            "numbers is not known."
        )
    if len(seeds) == 1:
        return (
            "Every model was trained with one seed. Differences between models contain "
            "the chance of training, which nothing here measures."
        )
    return (
        f"The models were trained with {len(seeds)} seeds; average over the seeds of a "
        "configuration before comparing configurations."
    )


def _borders(report: Report) -> list[str]:
    """Temperatures that ended at the border of the range that is searched."""
    found = []
    for index, run in enumerate(report.runs):
        scale = headline(run).get("temperature", {}).get("value")
        if scale in (MIN_TEMPERATURE, MAX_TEMPERATURE):
            found.append(
                f"The temperature of {quoted(report, index)} is at the border of what "
                f"is searched ({scale:g}): too few validation images, or all right."
            )
    return found


def _alike_samples(report: Report) -> list[str]:
    """Posteriors whose samples predict nearly the same."""
    found = []
    for index, run in enumerate(report.runs):
        clean = headline(run)["clean"]
        information = clean.get("mutual_information")
        if information is None:
            continue
        share = information / max(clean["predictive_entropy"], 1e-12)
        if share < _ALIKE:
            found.append(
                f"The posterior samples of {quoted(report, index)} hardly differ: on "
                f"clean images mutual information is {100 * share:.2g}"
                "\N{NO-BREAK SPACE}% of the predictive entropy. Averaging over them "
                "changes little, and scores by mutual information rest on tiny numbers."
            )
    return found


def _networks(report: Report) -> str:
    if not any(run["headline"] == "mc" for run in report.runs):
        return ""
    samples = report.results.get("samples")
    of = f"{samples} posterior samples" if samples else "posterior samples"
    return (
        f"Sentences and figures show the average over {of} where a model has a "
        "posterior; the tables have the network at the posterior mean beside it."
    )
