"""Checks the built site: links, alternative texts, and that nothing public is missing.

    python docs/check_site.py docs/_build/html

prints what is wrong, one line each, and ends with exit code 1 if anything is.
"""

import importlib
import sys
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

PUBLIC = (
    *("ssvi_jax", "ssvi_jax.vi", "ssvi_jax.methods", "ssvi_jax.metrics"),
    *("ssvi_jax.data.corruptions", "ssvi_jax.data", "ssvi_jax.data.corrupted"),
    *("ssvi_jax.networks.adapters", "ssvi_jax.networks.models", "ssvi_jax.ops"),
)
"""Modules whose `__all__` the reference must have."""


class Page(HTMLParser):
    """What a page offers and refers to.

    Attributes:
      anchors: its ids and names.
      links: targets of links, images, styles and scripts.
      images: (source, alternative text or None).
    """

    def __init__(self, text: str):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.images: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See `HTMLParser`."""
        found = dict(attrs)
        self.anchors |= {found[name] or "" for name in ("id", "name") if name in found}
        for name in ("href", "src"):
            if found.get(name):
                self.links.append(found[name] or "")
        if tag == "img":
            self.images.append((found.get("src") or "", found.get("alt")))


def dead_links(site: Path, pages: dict[Path, Page]) -> Iterator[str]:
    """Links inside the site to files or anchors that are not there."""
    for path, page in pages.items():
        for link in sorted(set(page.links)):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path
            if parts.path:
                target = (path.parent / unquote(parts.path)).resolve()
                if target.is_dir():
                    target /= "index.html"
            where = path.relative_to(site)
            if not target.is_file():
                yield f"{where}: {link} leads nowhere"
            elif parts.fragment and target in pages:
                if unquote(parts.fragment) not in pages[target].anchors:
                    yield f"{where}: {link} has no such place"


def silent_images(site: Path, pages: dict[Path, Page]) -> Iterator[str]:
    """Images without alternative text; docutils gives the file's name where none is."""
    for path, page in pages.items():
        for source, text in page.images:
            if not (text or "").strip() or Path(source).name in (text or ""):
                yield f"{path.relative_to(site)}: {source} has no alternative text"


def described(site: Path) -> set[str]:
    """Dotted names in the inventory of the site."""
    raw = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(raw).decode().splitlines()
    return {line.split(" py:")[0] for line in lines if " py:" in line}


def undescribed(site: Path) -> Iterator[str]:
    """What is public and not in the reference, under whatever name."""
    known = described(site)
    for name in PUBLIC:
        module = importlib.import_module(name)
        for public in module.__all__:
            found = getattr(module, public)
            names = {known_name for known_name in known if is_last(public, known_name)}
            if not any(is_same(found, known_name) for known_name in names):
                yield f"reference: {name}.{public} is missing"


def is_last(public: str, dotted: str) -> bool:
    """Whether a dotted name ends in this one."""
    return dotted.rpartition(".")[2] == public


def is_same(found: object, dotted: str) -> bool:
    """Whether a dotted name of the reference is this very object."""
    home, _, last = dotted.rpartition(".")
    try:
        return getattr(importlib.import_module(home), last, None) is found
    except ModuleNotFoundError:  # the name is one of a class
        return False


def main(folder: str) -> int:
    """The command; returns the exit code."""
    site = Path(folder).resolve()
    found = sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)
    pages = {path: Page(path.read_text()) for path in found}
    if not pages:
        print(f"{site}: no page; build the site first (make docs)")
        return 1
    wrong = [*dead_links(site, pages), *silent_images(site, pages), *undescribed(site)]
    print(*wrong, sep="\n", end="\n" if wrong else "")
    images = sum(len(page.images) for page in pages.values())
    print(f"{len(pages)} pages, {images} images: {len(wrong)} problems")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
