"""The examples of the README, run as printed."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_there_is_an_example_of_each_flax_library():
    assert len(EXAMPLES) == 2
    assert "flax.linen" in EXAMPLES[0]
    assert "nnx.Module" in EXAMPLES[1]


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("example", EXAMPLES, ids=["linen", "nnx"])
def test_example_learns_and_is_short(example, capsys):
    assert len(example.splitlines()) <= 25
    scope = {}
    exec(compile(example, "README.md", "exec"), scope)
    accuracy, entropy = map(float, capsys.readouterr().out.split())
    assert accuracy > 0.85
    assert 0 < entropy < 2.3
    kept = sum(mask.sum() for mask in scope["kept"].values())
    assert kept == round(0.05 * sum(mask.size for mask in scope["kept"].values()))
