"""The examples of the README and of the library's page, run as printed."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def examples(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


(README,), (NNX, NUMBERS, *LIBRARY) = map(examples, ("README.md", "docs/fit.md"))


def run(example, scope=None):
    scope = {} if scope is None else scope
    exec(compile(example, "example", "exec"), scope)
    return scope


def statements(example):
    """Of an example, imports left out."""
    body = ast.parse(example).body
    return [node for node in body if not isinstance(node, ast.Import | ast.ImportFrom)]


def test_the_first_example_is_short():
    first = statements(README)
    assert sum((node.end_lineno or 0) - node.lineno + 1 for node in first) <= 8
    names = {"from_flax", "fit", "predict", "evaluate", "save", "load"}
    nodes = ast.walk(ast.parse(README))
    called = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert names <= called


@pytest.mark.parametrize("example", [README, NNX], ids=["linen", "nnx"])
def test_a_classifier_learns(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = run(example)
    x, y, fit = (scope[name] for name in ("x", "y", "fit"))
    scores = fit.evaluate(x[1500:] / 16, y[1500:])
    assert scores["accuracy"] > 0.8
    assert fit.sparsity == pytest.approx(fit.about["sparsity"], abs=1e-3)
    if example is README:
        again = scope["again"].evaluate(x[1500:] / 16, y[1500:])
        assert again["nll"] == pytest.approx(scores["nll"], abs=1e-2)


def test_intervals_follow_the_noise():
    scope = run(NUMBERS)
    assert 0.85 < scope["fit"].evaluate(scope["x"], scope["y"])["coverage"] < 0.95
    noise = scope["fit"].predict(scope["x"]).aleatoric
    right = scope["x"][:, 0] > 0.2
    assert noise[right].mean() > 5 * noise[~right].mean()


def test_the_librarys_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from ssvi_jax.methods import METHODS

    scope = {}
    try:
        for example in LIBRARY:
            run(example, scope)
    finally:
        METHODS.pop("hot", None)
    assert scope["fit"].about["kl_scale"] == 1.0
    assert len(scope["seen"]) == len({*scope["seen"]}) > 3
    assert scope["state"].step == 100
    sizes = [(mask.sum(), mask.size) for mask in scope["kept"].values()]
    kept, total = map(sum, zip(*sizes, strict=True))
    assert kept == round(0.5 * total)
