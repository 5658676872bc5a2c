"""What an evaluation found, in sentences made from its numbers.

Sentences are plain text: whoever puts them into a page escapes them. With many runs
they speak of the best and the worst one; the tables have all.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ssvi_jax.evaluation.run_style import readable
from ssvi_jax.evaluation.shift.report.data import Report, headline

_ALL_SPOKEN_OF = 3  # so many runs get a sentence each
_UNCERTAINTIES = {
    "predictive_entropy": "predictive entropy",
    "mutual_information": "mutual information",
}


class Sentence(NamedTuple):
    """A sentence in plain text.

    Attributes:
      text: the sentence; about a run it goes on after the run's name and a colon.
      run: index of the run that it is about; None: of no single one.
    """

    text: str
    run: int | None = None


class Finding(NamedTuple):
    """Sentences on one question.

    Attributes:
      topic: a word or two.
      sentences: at least one.
    """

    topic: str
    sentences: list[Sentence]


def best_run(report: Report) -> int:
    """Index of the run with the highest accuracy under corruption, else on clean."""
    return int(np.argmax([_robustness(run) for run in report.runs]))


def lead(report: Report) -> str:
    """What was evaluated, in a sentence."""
    cells = len(report.benchmark) * len(report.severities)
    data, corruptions = report.results.get("dataset", {}), report.results["corruptions"]
    parts = (
        [number(data["test_images"], "clean image")] if "test_images" in data else []
    )
    if report.benchmark:
        of = corruptions.get("images_per_cell")
        each = f" of {number(of, 'image')} each" if of else ""
        kinds = number(len(report.benchmark), "corruption")
        levels = _plural(len(report.severities), "severity", "severities")
        parts.append(f"{number(cells, 'cell')}{each} ({kinds} at {levels})")
    if report.ood:
        sets = number(len(report.ood), "out-of-distribution set")
        parts.append(f"{sets} ({', '.join(report.ood)})")
    models = number(len(report.runs), "model")
    return f"{models} on {_listed(parts)}." if parts else f"{models}."


def findings(report: Report) -> list[Finding]:
    """Best and worst, accuracy, calibration, uncertainty, detection, selection."""
    spoken = _spoken(report)
    each = {
        "Accuracy": _fall,
        "Calibration": _calibration,
        "Uncertainty": _growth,
        "Selective prediction": _selection,
    }
    found = [Finding("Best and worst", _of_all(_comparison(report)))]
    for topic, speak in each.items():
        sentences = [Sentence(speak(report, index), index) for index in spoken]
        found.append(Finding(topic, [said for said in sentences if said.text]))
    found.insert(4, Finding("Out of distribution", _of_all(_detection(report))))
    return [finding for finding in found if finding.sentences]


def percent(value: float) -> str:
    """A fraction in percent with one digit, never broken: 0.5232 → "52.3 %"."""
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def nats(value: float) -> str:
    """An entropy with three digits, tiny ones as a power of ten: 0.5 → "0.500 nats"."""
    small = 0 < value < 0.0005
    return f"{value:.1e} nats" if small else f"{value:.3f} nats"


def points(value: float) -> str:
    """A difference of fractions in percentage points."""
    return f"{100 * value:.1f} points"


def standard_error(accuracy: float, images: int) -> float:
    """Of an accuracy over so many independent images: sqrt(p (1 - p) / n)."""
    return float(np.sqrt(accuracy * (1 - accuracy) / images))


def quoted(report: Report, index: int) -> str:
    """A run's label in quotation marks."""
    return f"“{report.labels[index]}”"


def _of_all(texts: Sequence[str]) -> list[Sentence]:
    return [Sentence(text) for text in texts]


def _spoken(report: Report) -> list[int]:
    if len(report.runs) <= _ALL_SPOKEN_OF:
        return list(range(len(report.runs)))
    worst = int(np.argmin([_robustness(run) for run in report.runs]))
    return list(dict.fromkeys([best_run(report), worst]))


def _robustness(run: Mapping[str, Any]) -> float:
    summary = headline(run)["summary"]
    return summary.get("corrupted_accuracy", summary["accuracy"])


def _comparison(report: Report) -> list[str]:
    if len(report.runs) == 1:
        return []
    values = [_robustness(run) for run in report.runs]
    best, worst = int(np.argmax(values)), int(np.argmin(values))
    if best == worst:
        return [f"All models are equally accurate ({percent(values[best])})."]
    where = "Under corruption" if report.benchmark else "On clean images"
    sentences = [
        f"{where}, {quoted(report, best)} is most accurate ({percent(values[best])} on "
        f"average), {quoted(report, worst)} least ({percent(values[worst])})."
    ]
    sentences += _close(report, values[best], values[worst])
    for score, name, unit in (("nll", "NLL", " nats"), ("ece", "ECE", "")):
        key = f"corrupted_{score}" if report.benchmark else score
        summaries = [headline(run)["summary"] for run in report.runs]
        if all(key in summary for summary in summaries):
            scores = [summary[key] for summary in summaries]
            least = int(np.argmin(scores))
            sentences.append(
                f"Smallest {name}: {quoted(report, least)} ({scores[least]:.3f}{unit})."
            )
    sentences += _relative(report)
    if len(report.runs) > _ALL_SPOKEN_OF:
        sentences.append(
            "What follows is on the best and the worst; the tables have all "
            f"{len(report.runs)}."
        )
    return sentences


def _relative(report: Report) -> list[str]:
    """Mean corruption errors of the other runs relative to the baseline."""
    parts = [
        f"{headline(report.runs[i])['summary']['mce']:.2f} for {quoted(report, i)}"
        for i in _spoken(report)
        if i != report.baseline and "mce" in headline(report.runs[i])["summary"]
    ]
    if not parts:
        return []
    return [
        f"Mean corruption error relative to {quoted(report, report.baseline)}, where 1 "
        f"is as good and less is better: {_listed(parts)}."
    ]


def _close(report: Report, best: float, worst: float) -> list[str]:
    images = report.results["corruptions"].get("images_per_cell")
    if not images or not report.benchmark:
        return []
    error = standard_error(best, images)
    if best - worst >= error:
        return []
    return [
        f"The difference of {points(best - worst)} is smaller than the standard error "
        f"of a single cell ({points(error)}): their order may be chance."
    ]


def _fall(report: Report, index: int) -> str:
    network = headline(report.runs[index])
    clean = network["clean"]["accuracy"]
    if not report.benchmark:
        return f"{percent(clean)} on clean images."
    cells = report.cells(network, "accuracy")
    mean, levels = float(cells.mean()), cells.mean(axis=0)
    change = clean - mean
    moved = f"a fall of {points(change)}" if change > 0 else f"{points(-change)} more"
    text = (
        f"{percent(clean)} on clean images, {percent(mean)} under corruption, {moved}"
    )
    if len(levels) > 1:
        first, last = report.severities[0], report.severities[-1]
        text += (
            f"; {percent(levels[0])} at severity {first}, {percent(levels[-1])} at "
            f"severity {last}"
        )
    if len(report.benchmark) == 1:
        return f"{text}."
    kinds = cells.mean(axis=1)
    hard, mild = int(kinds.argmin()), int(kinds.argmax())
    return (
        f"{text}. Hardest: {readable(report.benchmark[hard])} "
        f"({percent(kinds[hard])}), mildest: {readable(report.benchmark[mild])} "
        f"({percent(kinds[mild])})."
    )


def _calibration(report: Report, index: int) -> str:
    network = headline(report.runs[index])
    summary, found = network["summary"], network.get("temperature")
    shifted = summary.get("corrupted_ece")
    text = f"ECE {summary['ece']:.3f} on clean images"
    if shifted is not None:
        text += f", {shifted:.3f} under corruption"
    if found is None:
        return f"{text}."
    scale, after = found["value"], found["summary"]
    was = "over" if scale > 1 else "under" if scale < 1 else "neither over- nor under"
    text += (
        f". Temperature scaling, fitted on clean validation images (T = {scale:.2f}: "
        f"{was}confident there), makes it {after['ece']:.3f} on clean images"
    )
    if shifted is None:
        return f"{text}."
    effect = "better" if after["corrupted_ece"] < shifted else "no better"
    return f"{text} and {after['corrupted_ece']:.3f} under corruption, {effect} there."


def _growth(report: Report, index: int) -> str:
    network = headline(report.runs[index])
    parts = []
    for key, name in _UNCERTAINTIES.items():
        if key in network["clean"] and report.benchmark:
            levels = report.cells(network, key).mean(axis=0)
            parts.append(_trend(name, [network["clean"][key], *levels]))
    return f"{'; '.join(parts)}." if parts else ""


def _trend(name: str, levels: Sequence[float]) -> str:
    """How a mean over corruptions moves from clean to the last severity."""
    steps = np.diff(levels)
    ends = f"from {nats(levels[0])} on clean images to {nats(levels[-1])}"
    if (steps > 0).all():
        return f"{name} grows at every step, {ends}"
    if levels[-1] <= levels[0]:
        return f"{name} does not grow with severity, {ends}"
    return f"{name} grows {ends}, but not at every step"


def _detection(report: Report) -> list[str]:
    """For every set: the run and the score that detect it best."""
    sentences = []
    for name in report.ood:
        found = [
            (scores[score]["auroc"], -index, score)
            for index, run in enumerate(report.runs)
            for scores in [headline(run).get("ood", {}).get(name, {})]
            for score in scores
        ]
        if not found:
            continue
        area, index, score = max(found)
        by = "" if len(report.runs) == 1 else f" of {quoted(report, -index)}"
        chance = ", hardly better than chance (0.5)" if area < 0.6 else ""
        detected = headline(report.runs[-index])["ood"][name][score]
        sentences.append(
            f"{name} is detected best by the {readable(score)}{by}: AUROC "
            f"{area:.3f}{chance}; {percent(detected['fpr95'])} of the test images are "
            f"reported by mistake when 95\N{NO-BREAK SPACE}% of {name} are found."
        )
    return sentences


def _selection(report: Report, index: int) -> str:
    found = headline(report.runs[index]).get("selective", {})
    parts = []
    for name, what in (("clean", "clean"), ("shifted", "corrupted")):
        accuracy = found.get(name, {}).get("accuracy_at", {})
        if "0.8" in accuracy and "1.0" in accuracy:
            parts.append(
                f"from {percent(accuracy['1.0'])} to {percent(accuracy['0.8'])} on "
                f"{what} images"
            )
    if not parts:
        return ""
    return (
        "answering only the most confident 80\N{NO-BREAK SPACE}% moves accuracy "
        f"{_listed(parts)}."
    )


def number(count: int, noun: str) -> str:
    """A count with its noun: "1 image", "1,000 images"."""
    return f"{count:,} {noun if count == 1 else noun + 's'}"


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _listed(parts: Sequence[str]) -> str:
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last
