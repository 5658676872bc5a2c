"""The HTML report of a corruption evaluation: one page that needs nothing else.

Style, script and figures are inside the page, and its content security policy allows
no request at all: only the page's own script and style, by their hashes, and images
written into it. The words are in the templates of ``html/``, which escape whatever
comes from results.json.
"""

import base64
import functools
import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from ssvi_jax.evaluation.run_style import COLOURS, readable
from ssvi_jax.evaluation.shift.report.data import Report, headline, read
from ssvi_jax.evaluation.shift.report.facts import gather
from ssvi_jax.evaluation.shift.report.figures import FIGURES, make_figures
from ssvi_jax.evaluation.shift.report.page_tables import tables

_HTML = Path(__file__).with_name("html")
_PIXELS_PER_UNIT = 1.5  # figures have 150 pixels an inch, a page 96 to 100
# Controls, and characters that reverse the direction of what follows them.
_REMOVED = dict.fromkeys(
    (
        *(*range(9), 11, 12, *range(14, 32), 127),
        *(*range(0x202A, 0x202F), *range(0x2066, 0x206A)),
    )
)


class Image(NamedTuple):
    """A PNG as the page holds it.

    Attributes:
      data: its bytes in base 64.
      width: on the page, in CSS pixels.
      height: likewise.
    """

    data: str
    width: int
    height: int


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
    figures = {path.stem: _image(path) for path in _figures(Path(folder))}
    path = Path(folder) / "report.html"
    page = render(report, figures)
    path.write_text(page, encoding="utf-8", errors="replace", newline="\n")
    return path


def render(report: Report, figures: Mapping[str, Image]) -> str:
    """The page.

    Args:
      report: what an evaluation left.
      figures: by their names in `FIGURES`; what is missing is left out.
    """
    style, script = _asset("report.css") + _run_colours(report), _asset("report.js")
    page = environment().get_template("report.html.j2")
    text = page.render(
        **gather(report),
        tables=tables(report),
        figures=figures,
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
    )
    return text.lstrip()


@functools.cache
def environment() -> jinja2.Environment:
    """What the page's templates are rendered in: escaping, with our filters."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HTML),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "headline": headline,
        "nats": _nats,
        "number": _number,
        "percent": lambda value: f"{100 * value:.1f}\N{NO-BREAK SPACE}%",
        "points": lambda value: f"{100 * value:.1f} points",
        "readable": readable,
        "score": lambda value: f"{value:.3f}",
    }
    return made


def _printable(value: Any) -> Any:
    """Without characters that a text can do harm by when it is shown."""
    return value.translate(_REMOVED) if isinstance(value, str) else value


def _nats(value: float) -> str:
    """An entropy with three digits, tiny ones as a power of ten: 0.5 → "0.500 nats"."""
    return f"{value:.1e} nats" if 0 < value < 0.0005 else f"{value:.3f} nats"


def _number(count: int, one: str, many: str = "") -> str:
    """A count with its noun: "1 image", "1,000 images"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _figures(folder: Path) -> list[Path]:
    """Every figure there is, in the order of a report."""
    paths = [folder / "figures" / f"{name}.png" for name in FIGURES]
    paths = [path for path in paths if path.exists()]
    written = (folder / "results.json").stat().st_mtime_ns
    if not paths or min(path.stat().st_mtime_ns for path in paths) < written:
        paths = make_figures(folder)
    return paths


def _image(path: Path) -> Image:
    content = path.read_bytes()
    size = struct.unpack(">II", content[16:24])
    width, height = (round(pixels / _PIXELS_PER_UNIT) for pixels in size)
    return Image(base64.b64encode(content).decode("ascii"), width, height)


def _run_colours(report: Report) -> str:
    """Style of the squares beside the runs' labels: the colours of the figures."""
    rules = [
        f".run-{index} {{ background: {COLOURS[index % len(COLOURS)]}; }}"
        for index in range(len(report.runs))
    ]
    return "\n".join(rules) + "\n"


def _asset(name: str) -> str:
    return (_HTML / name).read_text(encoding="utf-8")


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
