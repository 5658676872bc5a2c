"""Bad input to the training command: refused in words, with nothing lost."""

import json
from pathlib import Path

import pytest
import smoke_run

from ssvi_jax import data
from ssvi_jax.io import orbax_folder, run_log

# Bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--sparsity 1", "--sparsity: got 1.0, allowed: a number in [0, 1)"),
        ("--sparsity -0.1", "--sparsity: got -0.1, allowed: a number in [0, 1)"),
        ("--sparsity nan", "--sparsity: got nan, allowed: a number in [0, 1)"),
        ("--sparsity many", "could not convert string to float: 'many'"),
        ("--model vgg", "'vgg' for argument '--model'. Expected one of ('airbench"),
        ("--dataset mnist", "'mnist' for argument '--dataset'"),
        ("--preset fast", "'fast' for argument '--preset'"),
        ("--method x", "--method: got 'x', allowed: batch_ensemble, deterministic"),
        ("--removal x", "'x' for argument '--removal'"),
        ("--prior x", "'x' for argument '--prior'"),
        ("--sparsty 0.9", "--sparsity"),
        ("--densities x", "--densities: got 'x', allowed: er, erk, sqrt_erk, uniform"),
        ("--densities no.json", "--densities: cannot read no.json"),
        ("--sparsity 0.9999", "is left without a weight"),
        ("--batch-size 5000", "--batch-size: got 5000, allowed: 1 to 1294"),
        ("--train-size 10", "--batch-size: got 64, allowed: 1 to 10"),
        ("--minutes -1", "--minutes: got -1.0, allowed: 0 or more"),
        ("--train-severity 0", "--train-severity: got 0, allowed: 1 to 5"),
        ("--train-severity 4", "--train-severity: got 4 without a corruption"),
        ("--train-corruption x", "'x' for argument '--train-corruption'"),
        ("--samples 0", "--samples: got 0, allowed: a finite number above 0"),
        ("--seed -1", "--seed: got -1, allowed: 0 or more"),
    ],
)
def test_bad_flags_are_refused_in_words(flags, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for out in ([], ["--out", tmp_path / "new" / "run"]):
        said = smoke_run.refused(*smoke_run.TINY, *flags.split(), *out)
        assert words in said
        assert list(tmp_path.rglob("*")) == []
    (tmp_path / "mine").mkdir()
    smoke_run.refused(*smoke_run.TINY, *flags.split(), "--out", tmp_path / "mine")
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]


def test_densities_of_another_network(tmp_path):
    path = tmp_path / "d.json"
    path.write_text(json.dumps({"dense1/kernel": 0.5, "dense9/kernel": 0.5}))
    words = smoke_run.refused(
        *smoke_run.TINY, "--densities", path, "--out", tmp_path / "run"
    )
    assert "no density for dense2/kernel, linear/kernel" in words


def test_an_out_that_is_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load", None)  # refused before the data is read
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        words = smoke_run.refused(*smoke_run.TINY, "--out", out)
        assert f"--out: cannot write to {out}" in words
    assert (tmp_path / "file").read_text() == "mine"


def no_space(*args, **kwargs):
    raise OSError(28, "No space left on device")


def no_space_to_append(path, mode="r", *args, open_file=Path.open, **kwargs):
    return no_space() if mode == "a" else open_file(path, mode, *args, **kwargs)


@pytest.mark.parametrize("place", ["log", "checkpoint", "results"])
def test_a_disk_that_fills_up(tmp_path, monkeypatch, place):
    with monkeypatch.context() as patch:
        if place == "log":
            patch.setattr(Path, "open", no_space_to_append)
        elif place == "checkpoint":
            patch.setattr(orbax_folder.ocp.Checkpointer, "save", no_space)
        else:
            patch.setattr(run_log.np, "savez_compressed", no_space)
        flags = ["--method", "deterministic", "--epochs", "1", "--no-figures"]
        words = smoke_run.refused(*smoke_run.TINY, *flags, "--out", tmp_path)
    assert "No space left on device" in words
    assert str(tmp_path) in words
    assert "ree space" in words
    if place == "results":  # nothing to train again
        again = smoke_run.command(
            *smoke_run.TINY, *flags, "--resume", "--out", tmp_path
        )
        assert again.code == 0, again.err
