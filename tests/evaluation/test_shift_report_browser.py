"""The HTML report in a browser; skipped where none is installed."""

import re
import shutil
from pathlib import Path

import fake_report
import pytest
from fake_report import BENCHMARK, Fake
from html_page import table_markup

from ssvi_jax.evaluation.shift.report import page as html_report
from ssvi_jax.evaluation.shift.report.columns import Column, table

ASSETS = Path(html_report.__file__).parent / "html"
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update"),
    "--disable-sync",
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A new Chromium without network."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium: the page is not tried in a browser")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"),
            executable_path=path,
            headless=True,
            args=list(FLAGS),
            offline=True,
        )
        yield context
        context.close()


def test_the_page_works_by_itself(browser, tmp_path, monkeypatch):
    fake_report.blank_figures(monkeypatch)
    what = Fake(runs=3, benchmark=BENCHMARK[:2], images=40)
    fake_report.write(tmp_path, what)
    html_report.write_report(tmp_path)
    tab, requests, failures, complaints = browser.new_page(), [], [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("requestfailed", lambda request: failures.append(request.failure))
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("dialog", lambda dialog: complaints.append(dialog.message))
    address = (tmp_path / "report.html").as_uri()
    tab.goto(address)
    check_sorting(tab)
    for width in (360, 800, 1280):
        tab.set_viewport_size({"width": width, "height": 800})
        wide = tab.evaluate("document.documentElement.scrollWidth")
        assert wide <= width
    loaded = tab.evaluate("Array.from(document.images, i => i.naturalWidth)")
    assert loaded == [1500] * 8
    check_colours(tab)
    assert complaints == []
    outside = [url for url in requests if not url.startswith("data:")]
    assert outside == [address]
    assert tab.evaluate(INJECTION) == ["script-src-elem", "img-src"]
    assert tab.evaluate("window.injected") is None
    assert failures == ["csp"]
    tab.close()


# What the policy must refuse, should an escape ever be missing.
INJECTION = """() => new Promise((done) => {
  const refused = [];
  document.addEventListener("securitypolicyviolation", (event) => {
    refused.push(event.effectiveDirective);
    if (refused.length === 2) done(refused);
  });
  const script = document.createElement("script");
  script.textContent = "window.injected = true";
  document.body.append(script);
  new Image().src = "https://example.org/x.png";
})"""


def check_sorting(tab) -> None:
    """A click sorts up, another one down, and so does the keyboard; by number."""
    box = tab.locator("table", has_text="Out-of-distribution detection")
    head = box.locator("thead th", has_text="FPR95")
    button = head.locator("button")

    def values() -> list[float]:
        cells = box.locator("tbody td:last-child")
        return [float(cell.get_attribute("data-v")) for cell in cells.all()]

    before = values()
    assert head.get_attribute("aria-sort") == "none"
    button.click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert values() == sorted(before) != before
    button.click()
    assert head.get_attribute("aria-sort") == "descending"
    assert values() == sorted(before, reverse=True)
    name = box.locator("thead th", has_text="foreign set")
    name.locator("button").focus()
    tab.keyboard.press("Enter")
    assert name.get_attribute("aria-sort") == "ascending"
    assert head.get_attribute("aria-sort") == "none"
    names = box.locator("tbody td:nth-child(3)").all_inner_texts()
    assert names == sorted(names)
    assert set(names) == {"cifar100", "noise"}


def check_colours(tab) -> None:
    """Text contrasts with the page, in light and in dark."""
    for scheme, dark in (("light", False), ("dark", True)):
        tab.emulate_media(color_scheme=scheme)
        look = "(e => [e.color, e.backgroundColor])(getComputedStyle(document.body))"
        ink, paper = (
            sum(map(int, re.findall(r"\d+", text)[:3])) for text in tab.evaluate(look)
        )
        assert (ink > paper) == dark
        assert abs(ink - paper) > 500


def test_numbers_sort_as_numbers_and_missing_ones_last(browser, tmp_path):
    values = [(2000, "b"), (900, "a"), (None, "c"), (-10, "d"), (-9, None)]
    rows = [{"n": n, "t": t} for n, t in values]
    columns = [Column("t", "text"), Column("n", "number", "count")]
    script = (ASSETS / "report.js").read_text(encoding="utf-8")
    numbers = table_markup(table("numbers", columns, rows, []))
    body = f"{numbers}<script>{script}</script>"
    path = tmp_path / "table.html"
    path.write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{body}</body>")
    tab = browser.new_page()
    tab.goto(path.as_uri())
    button = tab.locator("thead button", has_text="number")
    cells = tab.locator("tbody td")
    assert cells.all_inner_texts() == ["2,000", "900", "–", "-10", "-9"]
    button.click()
    assert cells.all_inner_texts() == ["-10", "-9", "900", "2,000", "–"]
    button.click()
    assert cells.all_inner_texts() == ["2,000", "900", "-9", "-10", "–"]
    tab.locator("thead button", has_text="text").press("Enter")
    names = tab.locator("tbody th").all_inner_texts()
    assert names == ["a", "b", "c", "d", "–"]
    tab.close()
