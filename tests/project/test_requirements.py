"""requirements.txt and pyproject.toml ask for the same packages."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def parse_requirement(line: str) -> tuple[str, str]:
    """Name with extras, and version bounds, of one requirement."""
    requirement = re.split(r"[;#]", line)[0].replace(" ", "").strip()
    match = re.match(r"[\w.\-\[\]]+", requirement)
    assert match, f"not a requirement: {line!r}"
    return match[0], requirement[match.end() :]


def test_requirements_and_project_agree():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    assert lines.pop() == "-e ."  # so that the experiments find the package
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = project["dependencies"] + extras["experiments"]
    required = dict(map(parse_requirement, lines))
    assert required == dict(map(parse_requirement, declared))
    for extra in (declared, extras["prepare"]):
        bounds = dict(map(parse_requirement, extra)).values()
        assert all(re.fullmatch(r">=[\d.]+", bound) for bound in bounds)
