"""How Sphinx builds the site; `make docs` runs it."""

import os
import posixpath
import re

import ssvi_jax

project = "ssvi_jax"
author = "The ssvi_jax authors"
version = release = ssvi_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

# Pages --------------------------------------------------------------------------------

html_theme = "sphinx_book_theme"
html_title = "ssvi_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_theme_options = {
    "show_toc_level": 2,
    "use_download_button": False,  # of the page's source, which "Show source" has too
    "use_fullscreen_button": False,
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the search field is in the sidebar
    # Both reach 4.5 : 1 on their background, comments too.
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_show_copyright = False
highlight_language = "text"  # indented blocks are commands, formulas and pictures
copybutton_exclude = ".linenos, .gp"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# Notebooks: executed at every build, as a user would, in a folder of their own --------

nb_execution_mode = os.environ.get("DOCS_EXECUTION", "force")  # or "cache", "off"
nb_execution_raise_on_error = True
nb_execution_timeout = 1800  # seconds a cell, on a busy machine too
nb_execution_in_temp = True
nb_execution_show_tb = True
nb_merge_streams = True

# Reference ----------------------------------------------------------------------------

default_role = "py:obj"  # single backticks of docstrings name things of Python
autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 80
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_attr_annotations = True

# The real inventories where there is a network; else the names that these pages use.
intersphinx_mapping = {
    name: (url, (None, f"inventories/{name}.txt"))
    for name, url in {
        "python": "https://docs.python.org/3/",
        "numpy": "https://numpy.org/doc/stable/",
        "jax": "https://docs.jax.dev/en/latest/",
        "flax": "https://flax.readthedocs.io/en/latest/",
        "flax-linen": "https://flax-linen.readthedocs.io/en/latest/",
        "optax": "https://optax.readthedocs.io/en/latest/",
    }.items()
}
intersphinx_timeout = 5

PUBLISHED = {
    "jax.jaxlib._jax.Array": "jax.Array",
    "flax.linen.module.Module": "flax.linen.Module",
    "flax.nnx.module.Module": "flax.nnx.Module",
    "optax._src.base.GradientTransformation": "optax.GradientTransformation",
}
"""Name that a class gives of itself → the one that its documentation has."""


def publish(app: object, env: object, node: dict[str, str], text: object) -> None:
    """Lets a reference that is not found here look for the name that others have."""
    if node.get("reftarget") in PUBLISHED:
        node["reftarget"] = PUBLISHED[node["reftarget"]]


# Links to Markdown files beside docs/, which GitHub follows; they are pages here ------

MEASURED = {
    "results/methods/table.md": "measured/methods.md",
    "results/faults/faults.md": "measured/faults.md",
    "results/fuzz/fuzz.md": "measured/fuzz.md",
    "results/fuzz/guided/fuzz.md": "measured/fuzz_guided.md",
    "results/study/five/table.md": "measured/five.md",
    "results/study/five/pairs.md": "measured/five_pairs.md",
    "results/study/thirty/table.md": "measured/thirty.md",
    "results/study/thirty/pairs.md": "measured/thirty_pairs.md",
}
"""Path from the root → page, which includes it."""
LINK = re.compile(r"\]\((?:\.\./)+(results/[\w./-]+\.md)\)")

PARTS = {"methods": "\n```{toctree}\n:hidden:\n:glob:\n\nmethods/*\n```\n"}
"""What pages have here besides, so that they stay plain where GitHub shows them."""


def adapt(app: object, docname: str, source: list[str]) -> None:
    """Adds parts, and lets links to result files that are pages here go there."""
    source[0] += PARTS.get(docname, "")
    folder = posixpath.dirname(docname) or "."
    source[0] = LINK.sub(
        lambda link: f"]({posixpath.relpath(MEASURED[link[1]], folder)})", source[0]
    )


SAID_BY_CLASS = ("Alias for field number", "See the class.")
"""How docstrings begin of what the class describes under "Attributes"."""


def skip_described(
    app: object, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    """Leaves out members that their class describes; of a field, its default's text."""
    text = getattr(obj, "__doc__", "") or ""
    return True if text.startswith(SAID_BY_CLASS) or name == "is_bayesian" else None


def keep_returns(
    app: object, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Keeps napoleon from taking the words before a colon for the type of a result."""
    for i, line in enumerate(lines[:-1]):
        if line.strip() == "Returns:":
            text = lines[i + 1].lstrip()
            indent = lines[i + 1][: len(lines[i + 1]) - len(text)]
            lines[i + 1] = f"{indent}: {text}"


def short_defaults(
    app: object,
    what: str,
    name: str,
    obj: object,
    options: object,
    signature: str | None,
    returned: str | None,
) -> tuple[str | None, str | None]:
    """Writes defaults that are no Python as "...", so that Sphinx can link types."""
    return signature and re.sub("= <[^=]*>", "= ...", signature), returned


def setup(app: object) -> None:
    """Called by Sphinx."""
    app.connect("source-read", adapt)
    app.connect("missing-reference", publish, priority=400)  # before intersphinx
    app.connect("autodoc-skip-member", skip_described)
    app.connect("autodoc-process-signature", short_defaults)
    app.connect("autodoc-process-docstring", keep_returns, priority=400)
