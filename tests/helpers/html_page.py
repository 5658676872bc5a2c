"""Reads an HTML page as a browser does: elements, texts, tables, lists and defects."""

import re
from html.parser import HTMLParser
from pathlib import Path

from ssvi_jax.evaluation.shift.report.columns import Table
from ssvi_jax.evaluation.shift.report.page import environment

VOID = {"meta", "link", "img", "br", "input"}


class Page(HTMLParser):
    """Elements with attributes and text, and every defect of the nesting.

    Attributes:
      elements: tags with their attributes, in order.
      texts: tag → all text directly inside; "p.lead" for a class too.
      rows: caption of a table → rows of its body → text of each cell.
      items: heading → text of every list item below it, white space as one space.
      defects: what a validator would say.
      open: tags that were never closed.
    """

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open, self.defects, self.elements, self.texts = [], [], [], {}
        self.rows: dict[str, list[list[str]]] = {}
        self.items: dict[str, list[str]] = {}
        self._caption, self._heading, self._classes = "", "", []
        self.feed(text)
        self.close()
        for heading, items in self.items.items():
            self.items[heading] = [re.sub(r"[ \n]+", " ", i).strip(" ") for i in items]

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if len({name for name, _ in attrs}) != len(attrs):
            self.defects.append(f"an attribute twice in {tag}")
        if tag not in VOID:
            self.open.append(tag)
            self._classes.append(dict(attrs).get("class"))
        if tag == "caption":
            self._caption = ""
        if tag in ("h2", "h3"):
            self._heading = ""
        if tag == "li":
            self.items.setdefault(self._heading, []).append("")
        if tag == "tr" and "tbody" in self.open:
            self.rows.setdefault(self._caption, []).append([])
        if tag in ("td", "th") and "tbody" in self.open:
            self.rows[self._caption][-1].append("")

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.defects.append(f"unexpected end of {tag}")
        elif self._classes:
            self._classes.pop()

    def handle_data(self, data):
        tag = self.open[-1] if self.open else ""
        kinds = [tag]
        if self.open and self._classes[-1]:
            kinds.append(f"{tag}.{self._classes[-1]}")
        for kind in kinds:
            self.texts[kind] = self.texts.get(kind, "") + data
        if tag == "caption":
            self._caption += data
        if tag in ("h2", "h3"):
            self._heading += data
        if "li" in self.open:
            self.items[self._heading][-1] += data
        if "tbody" in self.open and {"td", "th"} & set(self.open):
            self.rows[self._caption][-1][-1] += data

    def all(self, tag):
        """Attributes of every element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def parse(path: Path) -> Page:
    """The page in a file."""
    return Page(path.read_text(encoding="utf-8"))


def table_markup(content: Table | None) -> str:
    """A table as the page has it."""
    source = '{% from "parts.html.j2" import table %}{{ table(content) }}'
    return environment().from_string(source).render(content=content)
