"""The HTML report of a corruption evaluation: one page that needs nothing else.

Style, script and figures are inside the page, and its content security policy allows
no request at all: only the page's own script and style, by their hashes, and images
written into it. Whatever comes from results.json is escaped.
"""

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from string import Template

from ssvi_jax.evaluation.run_style import COLOURS
from ssvi_jax.evaluation.shift.report import caveats as report_caveats
from ssvi_jax.evaluation.shift.report import html_tables
from ssvi_jax.evaluation.shift.report import words as report_words
from ssvi_jax.evaluation.shift.report.data import Report, headline, read
from ssvi_jax.evaluation.shift.report.figures import FIGURES, make_figures
from ssvi_jax.evaluation.shift.report.html_parts import (
    bullets,
    definitions,
    escape,
    figure,
    run_name,
)
from ssvi_jax.evaluation.shift.report.tables import write_tables
from ssvi_jax.evaluation.shift.report.texts import ALTS, CAPTIONS, TERMS

__all__ = ["write_report", "write_tables"]

_FILES = (
    "results.json: all numbers; cells.csv, summary.csv, ood.csv, selective.csv, "
    "temperature.csv: the same as tables; examples.npz: the example images; figures/: "
    "the figures of this page."
)


def write_report(folder: str | Path) -> Path:
    """Writes ``report.html`` from results.json, examples.npz and figures/.

    Figures that are missing altogether, or older than results.json, are drawn anew.

    Args:
      folder: what an evaluation left.

    Returns:
      The page.

    Raises:
      InputError: a file is missing or damaged.
    """
    report = read(folder)
    figures = _figures(Path(folder))
    path = Path(folder) / "report.html"
    path.write_text(_page(report, figures), encoding="utf-8", newline="\n")
    return path


def _figures(folder: Path) -> dict[str, Path]:
    """Name → file of every figure there is, in the order of a report."""
    paths = [folder / "figures" / f"{name}.png" for name in FIGURES]
    paths = [path for path in paths if path.exists()]
    written = (folder / "results.json").stat().st_mtime_ns
    if not paths or min(path.stat().st_mtime_ns for path in paths) < written:
        paths = make_figures(folder)
    return {path.stem: path for path in paths}


def _page(report: Report, figures: Mapping[str, Path]) -> str:
    sections = {
        title: content
        for title, content in _sections(report, figures).items()
        if content
    }
    names = {title: title.lower().replace(" ", "-") for title in sections}
    main = [
        f'<section id="{names[title]}">\n<h2>{title}</h2>\n{content}\n</section>'
        for title, content in sections.items()
    ]
    links = [f'<li><a href="#{names[title]}">{title}</a></li>' for title in sections]
    style, script = _asset("report.css") + _run_colours(report), _asset("report.js")
    dataset = str(report.results.get("dataset", {}).get("name", "images"))
    return Template(_asset("report.html")).substitute(
        policy=_policy(style, script),
        style=style,
        script=script,
        title=escape(f"{dataset} under corruption"),
        lead=escape(report_words.lead(report)),
        tiles=_tiles(report),
        nav="\n".join(links),
        main="\n".join(main),
    )


def _sections(report: Report, figures: Mapping[str, Path]) -> dict[str, str]:
    """Title → content, empty where there is none."""

    def shown(*names: str) -> str:
        return "\n".join(
            figure(figures[name], ALTS[name], CAPTIONS[name])
            for name in names
            if name in figures
        )

    cells = html_tables.cells(report)
    number = report_words.number(cells.count("<tr>") - 1, "row")
    corruptions = shown("accuracy", "difference", "severity")
    corruptions += (
        f'\n<details class="long"><summary>All cells as a table ({number})</summary>'
        f"{cells}</details>"
    )
    return {
        "In short": _findings(report),
        "Read with care": _caveats(report),
        "Models": html_tables.models(report) + html_tables.summary(report),
        "Corruptions": corruptions,
        "Calibration": shown("reliability") + html_tables.temperature(report),
        "Uncertainty": shown("uncertainty"),
        "Out of distribution": shown("roc") + html_tables.ood(report),
        "Selective prediction": shown("selective") + html_tables.selective(report),
        "Examples": shown("examples"),
        "How it was made": _making(report),
    }


def _findings(report: Report) -> str:
    parts = []
    for found in report_words.findings(report):
        lines = [
            escape(text)
            if run is None
            else f"<b>{run_name(run, report.labels[run])}</b>: {escape(text)}"
            for text, run in found.sentences
        ]
        parts.append(f"<div><h3>{escape(found.topic)}</h3>\n{bullets(lines)}</div>")
    return f'<div class="findings">{"".join(parts)}</div>'


def _caveats(report: Report) -> str:
    lines = bullets(map(escape, report_caveats.caveats(report)))
    return f'<div class="text">{lines}</div>'


def _tiles(report: Report) -> str:
    """The numbers of the best run, large."""
    best = report_words.best_run(report)
    network = headline(report.runs[best])
    summary = network["summary"]
    tiles = {"accuracy, clean": report_words.percent(summary["accuracy"])}
    if "corrupted_accuracy" in summary:
        shifted = report_words.percent(summary["corrupted_accuracy"])
        tiles["accuracy under corruption"] = shifted
    for key, name in (("ece", "ECE, clean"), ("corrupted_ece", "ECE under corruption")):
        if key in summary:
            tiles[name] = f"{summary[key]:.3f}"
    for name, scores in list(network.get("ood", {}).items())[:1]:
        score = max(scores.values(), key=lambda found: found["auroc"])
        tiles[f"AUROC, {name}"] = f"{score['auroc']:.3f}"
    items = "\n".join(
        f"<li><b>{escape(value)}</b><span>{escape(name)}</span></li>"
        for name, value in tiles.items()
    )
    why = "Most accurate under corruption: " if len(report.runs) > 1 else "The model: "
    name = run_name(best, report.labels[best])
    return f'<p>{why}<strong>{name}</strong></p>\n<ul class="tiles">\n{items}\n</ul>'


def _making(report: Report) -> str:
    results = report.results
    about, seconds = results.get("about", {}), None
    if "evaluation_seconds" in about:
        seconds = f"{about['evaluation_seconds'] / 60:.1f} minutes"
    versions = ", ".join(f"{k} {v}" for k, v in about.get("versions", {}).items())
    sources = {
        "Test images": results.get("dataset", {}).get("source"),
        "Corruptions": results["corruptions"].get("source"),
    }
    for found in results.get("ood", ()):
        size = report_words.number(found["images"], "image")
        sources[f"Foreign: {found['name']}"] = f"{found.get('source', '')} ({size})"
    made = {
        "Command": about.get("command"),
        "Date": about.get("date"),
        "Time": seconds,
        "Posterior samples": results.get("samples"),
        "Seed": results.get("seed"),
        "Device": about.get("device"),
        "Processor": about.get("processor"),
        "Processor cores": about.get("num_cores"),
        "Python": about.get("python"),
        "Versions": versions,
        "Commit": about.get("git_commit"),
        "Baseline": results.get("baseline"),
        **sources,
        "Files beside this page": _FILES,
    }
    code = ("Command", "Commit")
    terms = f"<details><summary>Terms</summary>{definitions(TERMS)}</details>"
    return definitions(made, code=code) + terms


def _run_colours(report: Report) -> str:
    """Style of the squares beside the runs' labels: the colours of the figures."""
    rules = [
        f".run-{index} {{ background: {COLOURS[index % len(COLOURS)]}; }}"
        for index in range(len(report.runs))
    ]
    return "\n".join(rules) + "\n"


def _asset(name: str) -> str:
    return (
        resources.files("ssvi_jax.evaluation.shift.report") / "html" / name
    ).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Content security policy: no request; this style, this script, embedded images."""

    def digest(text: str) -> str:
        content = hashlib.sha256(text.encode()).digest()
        return f"'sha256-{base64.b64encode(content).decode('ascii')}'"

    return (
        f"default-src 'none'; style-src {digest(style)}; "
        f"script-src {digest(script)}; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
