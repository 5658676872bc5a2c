"""Compiled programs that are kept between runs."""

import os
import subprocess
import sys

import pytest
import smoke_run

from ssvi_jax.core import compiled


def test_an_environment_that_says_where_is_left_alone():
    for folder in ("somewhere", ""):
        environment = {"JAX_COMPILATION_CACHE_DIR": folder}
        compiled.keep(environment)
        del environment["TF_CPP_MIN_LOG_LEVEL"]
        assert environment == {"JAX_COMPILATION_CACHE_DIR": folder}


def test_each_kind_of_processor_has_a_folder(monkeypatch):
    here, there = {}, {}
    compiled.keep(here)
    monkeypatch.setattr(compiled.platform, "machine", lambda: "another")
    compiled.keep(there)
    name = "JAX_COMPILATION_CACHE_DIR"
    assert "ssvi_jax" in here[name]
    assert here.pop(name) != there.pop(name)
    assert here == there


@pytest.mark.slow
@pytest.mark.system
def test_a_second_run_finds_the_programs_of_the_first(tmp_path):
    """And gives the same bits."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))
    }
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment["PYTHONPATH"] = str(smoke_run.ROOT)
    found = []
    for name in ("first", "second"):
        command = [sys.executable, smoke_run.SCRIPT, *smoke_run.TINY, "--no-figures"]
        command += ["--epochs", "1", "--samples", "1", "--out", tmp_path / name]
        subprocess.run([*map(str, command)], env=environment, check=True)
        kept = {path.name for path in (tmp_path / "cache").rglob("*-cache")}
        found.append((kept, smoke_run.events(tmp_path / name)))
    assert found[0] == found[1]
    assert len(found[0][0]) > 20
