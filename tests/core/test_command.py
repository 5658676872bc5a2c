"""How a command ends."""

import re
from pathlib import Path

import pytest

from ssvi_jax.core import command


@pytest.mark.parametrize("name", ["matplotlib", "sklearn.datasets"])
def test_a_package_of_the_experiments_that_is_missing_is_said(name, capsys):
    def main(argv):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    with pytest.raises(SystemExit) as end:
        command.run(main)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {name} is not installed")
    assert "pip install 'ssvi_jax[experiments]'" in said


def test_any_other_missing_module_is_a_defect():
    def main(argv):
        raise ModuleNotFoundError("No module named 'jaxx'", name="jaxx")

    with pytest.raises(ModuleNotFoundError):
        command.run(main)


def test_the_modules_are_those_of_the_extra():
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    listed = re.search(r"^experiments = \[(.*?)^\]", pyproject.read_text(), re.M | re.S)
    assert listed
    packages = {re.split("[>=]", one)[0] for one in re.findall(r'"(.+?)"', listed[1])}
    modules = {package.replace("-", "_") for package in packages}
    assert modules - {"scikit_learn"} | {"sklearn"} == command.EXPERIMENTS
