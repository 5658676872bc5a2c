import base64
import hashlib
import json
import os
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import fake_report
import pytest
from fake_report import BENCHMARK, Fake
from html_page import Page, parse, table_markup
from jinja2 import UndefinedError

from ssvi_jax.core.errors import InputError
from ssvi_jax.evaluation.shift.report import page as html_report
from ssvi_jax.evaluation.shift.report.columns import Column, table
from ssvi_jax.evaluation.shift.report.csv_tables import write_tables

SMALL = Fake(runs=1, benchmark=BENCHMARK[:1], extra=(), ood=(), images=20)
HOSTILE = (
    "<script>alert('name')</script>",
    "\"><img src=https://example.org/x onerror=alert(1)> & ' \ud800 \u202e",
    "]]></style></script>{{ title }} {% raw %}",
)
ASSETS = Path(html_report.__file__).parent / "html"


def no_figures(monkeypatch):
    """Leaves the figures out: only the page is looked at."""
    monkeypatch.setattr(html_report, "make_figures", lambda _: [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A report of three runs with hostile names, of few corruptions."""
    made = tmp_path_factory.mktemp("report")
    what = Fake(runs=3, benchmark=BENCHMARK[:2], images=40, names=HOSTILE[:1])
    fake_report.write(made, what)
    with pytest.MonkeyPatch.context() as patch:
        fake_report.blank_figures(patch)
        html_report.write_report(made)
    return made


@pytest.fixture(scope="module")
def page(folder) -> Page:
    return parse(folder / "report.html")


# One page that needs nothing else ----------------------------------------------------


def test_the_page_is_balanced_and_complete(page):
    assert page.defects == []
    assert page.open == []
    assert page.texts["title"] == "cifar10 under corruption"
    assert page.all("html") == [{"lang": "en"}]
    (viewport,) = (m for m in page.all("meta") if m.get("name") == "viewport")
    assert viewport["content"] == "width=device-width, initial-scale=1"
    assert len(page.all("h1")) == 1


def test_defects_of_the_nesting_would_be_seen():
    assert Page("<p><b></p></b>").defects == [
        "unexpected end of p",
        "unexpected end of b",
    ]
    assert Page("<div>").open == ["div"]
    assert Page("<p id=a id=b></p>").defects == ["an attribute twice in p"]


def test_nothing_leaves_the_page(page):
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    for _, attributes in page.elements:
        assert not {"style", "srcset", "action", "formaction"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
        source = attributes.get("src", "data:image/png;base64,")
        assert source.startswith("data:image/png;base64,")
        link = attributes.get("href", "data:,")
        assert link == "data:," or link.removeprefix("#") in ids
    names = {name for name, _ in page.elements}
    assert not {"iframe", "object", "embed", "form", "base"} & names
    assert "url(" not in page.texts["style"]
    assert "@import" not in page.texts["style"]
    for word in ("fetch", "import(", "XMLHttpRequest", "innerHTML", "eval"):
        assert word not in page.texts["script"]


def test_the_policy_admits_exactly_this_style_and_script(page):
    (policy,) = (
        m["content"]
        for m in page.all("meta")
        if m.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.split(None, 1) for rule in policy.split("; "))
    for kind in ("style", "script"):
        assert len(page.all(kind)) == 1
        digest = hashlib.sha256(page.texts[kind].encode()).digest()
        text = base64.b64encode(digest).decode()
        assert rules.pop(f"{kind}-src") == f"'sha256-{text}'"
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_figures_are_inside_with_size_caption_and_description(folder, page):
    images = page.all("img")
    files = sorted((folder / "figures").glob("*.png"))
    assert len(images) == len(files) == len(page.all("figcaption")) == 8
    contents = {file.read_bytes() for file in files}
    for image in images:
        content = base64.b64decode(image["src"].partition(",")[2])
        assert content in contents
        assert len(image["alt"]) > 20
        width = int.from_bytes(content[16:20], "big")
        assert int(image["width"]) == pytest.approx(width / 1.5, abs=1)


@pytest.mark.parametrize(
    "place", ["name", "dataset", "source", "corruption", "foreign"]
)
def test_hostile_texts_are_shown_and_nothing_else(tmp_path, monkeypatch, place):
    no_figures(monkeypatch)
    what = Fake(runs=3, benchmark=BENCHMARK[:1], images=20, names=HOSTILE)
    results = fake_report.write(tmp_path, what)
    if place == "dataset":
        results["dataset"] |= {"name": HOSTILE[0], "source": HOSTILE[1]}
    if place == "source":
        for i, key in enumerate(("command", "device", "git_commit")):
            results["about"][key] = HOSTILE[i]
        results["corruptions"]["source"] = HOSTILE[2]
    if place == "corruption":
        for run in results["runs"]:
            for network in run["networks"].values():
                network["cells"][HOSTILE[0]] = network["cells"]["gaussian_noise"]
        results["corruptions"]["benchmark"] = [HOSTILE[0], "gaussian_noise"]
    if place == "foreign":
        for run in results["runs"]:
            for network in run["networks"].values():
                network["ood"] = {HOSTILE[2]: network["ood"]["noise"]}
        results["ood"] = [{"name": HOSTILE[2], "source": HOSTILE[0], "images": 1}]
    (tmp_path / "results.json").write_text(json.dumps(results))
    page = parse(html_report.write_report(tmp_path))
    assert page.defects == []
    assert len(page.all("script")) == len(page.all("style")) == 1
    assert page.all("img") == []
    shown = "".join(text for tag, text in page.texts.items() if tag != "script")
    assert "<script>alert('name')</script>" in shown
    assert "\"><img src=https://example.org/x onerror=alert(1)> & ' ?" in shown
    assert "]]></style></script>{{ title }} {% raw %}" in shown
    assert "\u202e" not in shown


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        ("95 % sparse, “a”: α", "95 % sparse, “a”: α"),
        ("<&>\"'", "&lt;&amp;&gt;&#34;&#39;"),
        ("a\x00b\x1bc\td", "abc\td"),
    ],
)
def test_plain_text_stays_and_the_rest_is_escaped_or_removed(text, markup):
    template = html_report.environment().from_string("{{ text }}|{{ text ~ '' }}")
    assert template.render(text=text) == f"{markup}|{markup}"


def test_no_template_leaves_anything_unescaped():
    for path in ASSETS.glob("*.j2"):
        assert not re.search(r"\|\s*safe|autoescape", path.read_text(encoding="utf-8"))


def test_a_name_that_a_template_lacks_is_an_error():
    template = html_report.environment().from_string("{{ nothing }}")
    with pytest.raises(UndefinedError, match="nothing"):
        template.render()


# What it says ------------------------------------------------------------------------


def test_a_factor_on_sigma_is_among_what_a_model_is(tmp_path, monkeypatch):
    no_figures(monkeypatch)
    rows = []
    for factor in (None, 1.5):
        results = fake_report.write(tmp_path, SMALL)
        changes = {} if factor is None else {"sigma_factor": factor}
        fake_report.write(tmp_path, SMALL, runs=[results["runs"][0] | changes])
        html_report.write_report(tmp_path)
        rows.append(parse(tmp_path / "report.html").rows["The models"][0])
    plain, calibrated = rows
    assert calibrated == [*plain[:7], "1.500", *plain[7:]]
    assert plain[5:7] == ["58,232", "1,164,640"]


def test_cells_have_what_samples_disagree_by(folder, page):
    rows = page.rows[
        "Every corruption and severity; 0 is clean. cells.csv has all networks"
    ]
    (run, *_) = json.loads((folder / "results.json").read_text())["runs"]
    clean = run["networks"]["mc"]["clean"]
    names = ("mutual_information", "logit_disagreement")
    assert rows[0][-2:] == [f"{clean[name]:.3f}" for name in names]


def test_tables_have_the_numbers(folder, page):
    results = json.loads((folder / "results.json").read_text())
    rows = page.rows["Scores of every network, best in bold"]
    runs = [
        (run, kind, network)
        for run in results["runs"]
        for kind, network in run["networks"].items()
    ]
    names = {"mc": "posterior samples", "mean": "mean network"}
    for row, (run, kind, network) in zip(rows, runs, strict=True):
        alone = "mc" not in run["networks"]
        assert row[:2] == [run["label"], "network" if alone else names[kind]]
        summary = network["summary"]
        assert row[2] == f"{100 * summary['accuracy']:.1f}"
        assert row[3] == f"{summary['nll']:.3f}"
        assert row[6] == f"{summary['ece_if_calibrated']:.3f}"
        assert row[7] == f"{100 * summary['corrupted_accuracy']:.1f}"
        assert row[13] == f"{100 * summary['mce']:.1f}"
    cells = page.rows[
        "Every corruption and severity; 0 is clean. cells.csv has all networks"
    ]
    assert len(cells) == 3 * (1 + 3 * 5)
    assert "All cells as a table (48 rows)" in page.texts["summary"]
    fitted = results["runs"][0]["networks"]["mc"]["temperature"]
    first = page.rows["Temperature scaling, fitted on the clean validation images"][0]
    assert first[2] == f"{fitted['value']:.3f}"
    assert first[3] == f"{fitted['val_before']['ece']:.3f}"
    assert first[8] == f"{fitted['summary']['corrupted_ece']:.3f}"
    assert first[10] == f"{fitted['val_after']['nll']:.3f}"
    assert len(page.rows["Selective prediction by the largest probability"][0]) == 10


def test_every_section_has_a_link(page):
    titles = [
        *("In short", "Read with care", "Models", "Corruptions", "Calibration"),
        *("Uncertainty", "Out of distribution", "Selective prediction", "Examples"),
        "How it was made",
    ]
    ids = [attributes["id"] for attributes in page.all("section")]
    assert ids == [title.lower().replace(" ", "-") for title in titles]
    assert [a["href"] for a in page.all("a")] == [f"#{name}" for name in ids]
    assert page.texts["h2"] == "".join(titles)


def test_how_it_was_made_is_said(page):
    assert "python experiments/corruptions.py --run results/a" in page.texts["code"]
    assert "0123456789abcdef+changes" in page.texts["code"]
    for text in ("jax 0.10.2", "made from the test images, seed 0", "A Processor"):
        assert text in page.texts["dd"]


@pytest.mark.parametrize(
    ("fields", "sections"),
    [
        ({}, ["out-of-distribution"]),
        ({"grey": True, "images": 1, "clean_images": 1}, ["out-of-distribution"]),
        ({"deterministic_only": True}, ["out-of-distribution"]),
    ],
)
def test_what_is_missing_has_no_section(tmp_path, monkeypatch, fields, sections):
    no_figures(monkeypatch)
    fake_report.write(tmp_path, Fake(**vars(SMALL) | fields))
    page = parse(html_report.write_report(tmp_path))
    assert page.defects == []
    found = {attributes["id"] for attributes in page.all("section")}
    assert not found & {*sections, "examples", "uncertainty"}  # these are figures
    assert {"in-short", "models", "corruptions", "how-it-was-made"} <= found


def test_the_least_that_results_may_hold(tmp_path, monkeypatch):
    no_figures(monkeypatch)
    results = fake_report.write(tmp_path, SMALL)
    optional = ("about", "dataset", "ood", "samples", "seed", "baseline")
    for name in optional:
        results.pop(name, None)
    (run,) = results["runs"]
    keep = ("name", "headline", "networks")
    results["runs"] = [{key: run[key] for key in keep}]
    for network in run["networks"].values():
        for name in ("ood", "selective", "curves", "temperature", "val"):
            network.pop(name)
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "examples.npz").unlink()
    page = parse(html_report.write_report(tmp_path))
    assert page.defects == []
    assert page.texts["title"] == "images under corruption"
    assert len(write_tables(tmp_path)) == 5


def test_figures_are_drawn_again_only_when_they_are_older(tmp_path, monkeypatch):
    fake_report.write(tmp_path, SMALL)
    pixel = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x03\x00\x00\x00\x06"
    path = tmp_path / "figures" / "accuracy.png"
    path.parent.mkdir()
    path.write_bytes(pixel)
    calls = []
    monkeypatch.setattr(
        html_report, "make_figures", lambda f: calls.append(f) or [path]
    )
    for age, expected in ((10, 0), (-10, 1)):
        written = (tmp_path / "results.json").stat().st_mtime
        os.utime(path, (written + age, written + age))
        page = parse(html_report.write_report(tmp_path))
        assert len(calls) == expected
        assert page.all("img")[0]["height"] == "4"  # 6 pixels of 1.5 a unit


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"results\.json is missing"):
        html_report.write_report(tmp_path)


def test_templates_style_and_script_are_installed_with_the_package():
    project = Path(__file__).parents[2] / "pyproject.toml"
    data = tomllib.loads(project.read_text())["tool"]["setuptools"]["package-data"]
    names = sorted(path.name for path in ASSETS.iterdir())
    assert {"report.css", "report.html.j2", "report.js"} <= set(names)
    for name in (f"evaluation/shift/report/html/{name}" for name in names):
        assert any(fnmatch(name, pattern) for pattern in data["ssvi_jax"])


# Tables ------------------------------------------------------------------------------


def test_the_best_is_marked_among_its_peers_and_missing_columns_are_left_out():
    columns = [
        Column("index", "model", "run"),
        Column("set", "set"),
        Column("high", "high", "score", "high"),
        Column("low", "low (%)", "percent", "low", "group"),
        Column("none", "never"),
    ]
    values = [(0, "a", 1.0, 0.5), (1, "a", 2.0, 0.25), (0, "b", 0.5, None)]
    rows = [{"index": i, "set": s, "high": h, "low": w} for i, s, h, w in values]
    text = table_markup(table("caption", columns, iter(rows), ["A", "B"], by="set"))
    assert re.findall(r'class="n best" data-v="([\d.]+)"', text) == ["2.0", "0.25"]
    parsed = Page(text)
    assert parsed.defects == []
    assert parsed.rows["caption"][1:] == [
        ["B", "a", "2.000", "25.0"],
        ["A", "b", "0.500", "–"],
    ]
    assert "never" not in text
    assert re.sub(r"\s", "", parsed.texts["th"]).endswith("groupmodelsethighlow(%)")
    assert [head.get("colspan") for head in parsed.all("th")][:1] == ["1"]
    assert [cell.get("colspan") for cell in parsed.all("td")][:1] == ["3"]


def test_no_rows_make_no_table():
    assert table("caption", [Column("v", "v")], [], ["A"]) is None
    assert table_markup(None) == ""


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        ("score", 0.0, "0.000"),
        ("score", 0.0006, "0.001"),
        ("score", 0.00004, "4.0e-05"),
        ("percent", 0.12345, "12.3"),
        ("count", 1234567, "1,234,567"),
    ],
)
def test_numbers_are_short_and_never_0_unless_they_are(kind, value, shown):
    text = table_markup(table("c", [Column("v", "v", kind)], [{"v": value}], []))
    assert f">{shown}</th>" in text


def test_values_keep_all_digits_for_sorting():
    text = table_markup(table("c", [Column("v", "v", "score")], [{"v": 0.1 + 0.2}], []))
    assert 'data-v="0.30000000000000004">0.300<' in text


def test_a_run_is_named_by_its_colour_and_label():
    text = table_markup(table("c", [Column("v", "v", "run")], [{"v": 1}], ["a", "a<b"]))
    assert '<span class="key run-1" aria-hidden="true"></span><bdi>a&lt;b</bdi>' in text
