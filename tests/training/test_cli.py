import dataclasses
import json
import math
import os
import re
import subprocess
import sys

import jax
import pytest
import smoke_run

from ssvi_jax.core.command import parse_as, run
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.settings import Settings, positive, setting
from ssvi_jax.data import download
from ssvi_jax.methods import METHODS
from ssvi_jax.ops import backend
from ssvi_jax.training import cli, presets, train
from ssvi_jax.training.run_config import names_of


def python(*arguments, **environment):
    """A Python process that finds the package."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(smoke_run.ROOT), **environment},
        capture_output=True,
        text=True,
    )


# Exit codes ---------------------------------------------------------------------------


def raising(error):
    def main(argv):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "err"),
    [
        (InputError("--x: got 1."), 2, "error: --x: got 1.\n"),
        (OSError(28, "No space left", "a/b"), 2, "error: [Errno 28] No space left: 'a"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_are_one_line_and_a_code(error, code, err):
    outcome = smoke_run.call(raising(error))
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err.startswith(err)
    assert outcome.err.count("\n") == 1


@dataclasses.dataclass(frozen=True)
class Few(Settings):
    """Settings of a command of two flags."""

    sides: int = setting(6, positive)
    colour_of_dice: str = "red"


@dataclasses.dataclass(frozen=True)
class Dice:
    """Throws dice."""

    few: Few = Few()
    name: str = ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("colour_of_dice: got 1.", "error: --colour-of-dice: got 1.\n"),
        ("colour_of_dice, name: got 1.", "error: --colour-of-dice, --name: got 1.\n"),
        ("dice_rolled: got 1.", "error: dice_rolled: got 1.\n"),  # is no flag
        ("name, dice_rolled: got 1.", "error: name, dice_rolled: got 1.\n"),
        ("it is empty", "error: it is empty\n"),
    ],
)
def test_settings_are_told_by_their_flags(words, said):
    def throw(argv):
        assert parse_as(Dice, argv).few.sides == 3
        raise InputError(words)

    assert smoke_run.call(throw, "--sides", "3").err == said


def test_a_value_that_is_refused_is_one_line_with_its_flag():
    outcome = smoke_run.call(lambda argv: parse_as(Dice, argv) and None, "--sides", "0")
    said = "error: --sides: got 0, allowed: a finite number above 0.\n"
    assert (outcome.code, outcome.out, outcome.err) == (2, "", said)


@pytest.mark.parametrize(("got", "code"), [(None, 0), (0, 0), (130, 130)])
def test_the_code_is_the_mains(got, code):
    assert smoke_run.call(lambda argv: got).code == code


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), pytest.raises(SystemExit):
        run(raising(ZeroDivisionError()))


def test_arguments_are_handed_on():
    seen = []
    smoke_run.call(seen.append, "--a", "b")
    assert seen == [["--a", "b"]]


PRINT = "from ssvi_jax.core.command import run; run(lambda argv: print({}))"


def test_a_terminal_without_greek_letters():
    done = python("-c", PRINT.format("'18.3× σ'"), PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, "18.3? ?\n", "")


def test_a_reader_that_leaves():
    code = PRINT.format(r"'line\n' * 100_000")
    command = f"'{sys.executable}' -c \"$CODE\" | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command],
        env=os.environ | {"PYTHONPATH": str(smoke_run.ROOT), "CODE": code},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("line\n141\n", "")


# Parsing ------------------------------------------------------------------------------

HELPS = """
import contextlib, io, json, runpy, sys
from unittest import mock
script, *methods = sys.argv[1:]
found = {}
for method in methods:
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with (
        mock.patch.object(sys, "argv", [script, "--help", "--method", method]),
        contextlib.redirect_stdout(out),
        contextlib.suppress(SystemExit),
    ):
        runpy.run_path(script, run_name="__main__")
    out.seek(0)
    found[method] = out.read()
heavy = {"jax", "flax", "numpy", "matplotlib", "sklearn"} & sys.modules.keys()
print(json.dumps({"found": found, "imported": sorted(heavy)}))
"""


@pytest.fixture(scope="module")
def helps():
    """What --help prints of every method in 80 columns, and what was imported."""
    done = python("-c", HELPS, smoke_run.SCRIPT, *METHODS, COLUMNS="80")
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_help_answers_without_importing_anything_heavy(helps):
    assert helps["imported"] == []


@pytest.mark.parametrize("method", METHODS)
def test_help_is_of_the_methods_own_settings_and_short(helps, method):
    text = helps["found"][method]
    flags = re.findall(r"[ │]--([a-z][\w-]+)", text)
    named = {flag.replace("-", "_") for flag in flags} - {"help", "help_verbose"}
    own = names_of(METHODS[method])
    assert {name for name in named if name.removeprefix("no_") not in own} == set()
    assert named >= own
    lines = sum(max(1, math.ceil(len(line) / 80)) for line in text.splitlines())
    assert 40 < lines <= 80


def test_help_fits_a_terminal_without_boxes():
    done = python(smoke_run.SCRIPT, "--help", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--sparsity" in done.stdout


def test_help_in_full_describes_every_flag():
    outcome = smoke_run.command("--help-verbose", "--method", "masked_bnn")
    said = re.sub(r"[\s│]+", " ", outcome.out)
    assert "--spike-std FLOAT" in said
    assert "the first phases are timed, and the schedule gets the number of" in said


def test_the_promised_flags_are_there():
    promised = (
        "sparsity dataset preset model width epochs batch-size seed removal addition "
        "densities inner-steps replacement-rate prior-std kl-scale samples data-dir "
        "out resume"
    )
    outcome = smoke_run.command("--help")
    assert outcome.code == 0
    assert set(promised.split()) <= set(re.findall(r"--([\w-]+)", outcome.out))


def test_flags_given_win_over_presets():
    flags = ["--width", "1.0", "--epochs", "7"]
    got = cli.resolve(flags, preset="smoke", dataset="digits")
    assert (got.run.preset, got.data.dataset) == ("smoke", "digits")
    # 1.0 is also the plain default: given, it wins over the preset's 0.25 all the same.
    assert (got.training.width, got.training.epochs) == (1.0, 7)
    assert (got.training.inner_steps, got.training.batch_size) == (10, 64)


def test_resolved_names_replace_auto():
    asked = cli.parse(["--dataset", "auto"])
    assert (asked.data.dataset, asked.run.preset) == ("auto", "auto")
    got = cli.resolve(["--dataset", "auto"], preset="laptop", dataset="cifar10")
    assert (got.data.dataset, got.run.preset) == ("cifar10", "laptop")


LONG = presets.LONG_LAPTOP["epochs"]


@pytest.mark.parametrize(
    ("flags", "dataset", "runs", "model", "epochs"),
    [
        ([], "cifar10", "sparse", "airbench", LONG),
        ([], "cifar100", "sparse", "airbench", LONG),
        ([], "cifar10", "xla", "airbench", 10),
        ([], "digits", "sparse", "convnet", 30),
        (["--model", "airbench"], "cifar10", "sparse", "airbench", LONG),
        (["--epochs", "2.5"], "cifar10", "sparse", "airbench", 2.5),
        (["--sparsity", "0.94"], "cifar10", "sparse", "airbench", 10),
        (["--model", "resnet18"], "cifar10", "sparse", "resnet18", 10),
        (["--method", "deterministic"], "cifar10", "sparse", "airbench", 10),
        (["--method", "magnitude"], "cifar10", "sparse", "airbench", 10),
        (["--method", "rigl"], "cifar10", "sparse", "airbench", LONG),
    ],
)
def test_laptop_trains_long_where_the_sparse_kernels_compute_its_network(
    flags, dataset, runs, model, epochs, monkeypatch
):
    asked = []
    monkeypatch.setattr(
        backend, "choose", lambda name, density: asked.append((name, density)) or runs
    )
    got = cli.resolve(flags, preset="laptop", dataset=dataset)
    assert (got.training.model, got.training.epochs) == (model, epochs)
    assert got.data.shifts == ("zeros" if dataset == "digits" else "reflect")
    sparsity = got.values().get("sparsity", 0.0)
    assert asked in ([], [("auto", 1 - sparsity)])


def test_another_preset_is_not_long(monkeypatch):
    monkeypatch.setattr(backend, "choose", lambda name, density: "sparse")
    got = cli.resolve([], preset="smoke", dataset="cifar10")
    assert (got.training.width, got.training.epochs) == (0.25, 2)


def test_rank_1_is_dense_by_default():
    got = cli.resolve(["--method", "rank1"], preset="smoke", dataset="digits")
    assert (got.run.method, got.method.sparsity) == ("rank1", 0)  # type: ignore[attr-defined]


# Settings of other methods ------------------------------------------------------------


def foreign(method):
    """Settings that other methods have."""
    return sorted(cli.all_names() - names_of(METHODS[method]))


@pytest.mark.parametrize("method", METHODS)
def test_a_flag_of_another_method_is_refused(method):
    first, *others = foreign(method)
    flag = "--" + first.replace("_", "-")
    words = smoke_run.refused(*smoke_run.TINY, "--method", method, flag, "1")
    assert f"error: {flag}: no setting of the method {method}; leave it out" in words
    for name in others:
        for spelled in (f"--{name.replace('_', '-')}=1", f"--no-{name}", f"--{name}"):
            with pytest.raises(InputError, match=f"^{name}: no setting of .* {method}"):
                cli.parse([spelled, "--method", method, "--epochs", "1"])


def test_what_follows_a_foreign_flag_goes_with_it():
    argv = "--epochs 3 --members 8 --width 2 --no-fast-relative-sigma".split()
    got = cli.parse(argv, strict=False)
    assert (got.training.epochs, got.training.width) == (3, 2.0)
    _, found = cli.parse_over(argv, got)
    assert found == ["members", "fast_relative_sigma"]


def test_a_flag_that_no_method_has_is_refused_by_name():
    assert "--sparsty" in smoke_run.refused(*smoke_run.TINY, "--sparsty", "0.9")


# The whole command, up to the training ------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """Training that only notes what it was asked for."""
    seen = {}

    def note(config, dataset, log):
        seen.update(config=config, dataset=dataset, log=log)
        raise InputError("noted")

    monkeypatch.setattr(train, "train", note)
    return seen


@pytest.mark.parametrize(
    ("backend", "preset"), [("cpu", "laptop"), ("gpu", "paper"), ("tpu", "paper")]
)
def test_the_preset_goes_by_the_device_and_says_so(
    asked, monkeypatch, tmp_path, backend, preset
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    outcome = smoke_run.command("--dataset", "digits", "--out", tmp_path)
    assert outcome.err == "error: noted\n"
    assert f"preset: {preset}, because JAX runs on {backend}" in outcome.out
    assert asked["config"].run.preset == preset


def test_a_preset_by_name_is_taken(asked, tmp_path):
    outcome = smoke_run.command(*smoke_run.TINY, "--out", tmp_path)
    assert "because JAX" not in outcome.out
    assert asked["config"].run.preset == "smoke"
    assert f"run folder: {tmp_path}" in outcome.out


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and no data set in the folder that this returns."""
    monkeypatch.setattr(download, "has_network", lambda *_, **__: False)
    return tmp_path / "data"


def test_auto_falls_back_loudly_without_a_network(
    asked, offline, monkeypatch, tmp_path
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(offline))
    outcome = smoke_run.command("--preset", "smoke", "--out", tmp_path / "run")
    assert "*** CIFAR-10 is not available" in outcome.out
    assert asked["config"].data.dataset == "digits"
    assert "because CIFAR-10 was not available" in asked["dataset"].source


def test_a_set_asked_for_by_name_is_never_replaced(asked, offline, tmp_path):
    flags = ["--preset", "smoke", "--data-dir", offline, "--out", tmp_path / "run"]
    words = smoke_run.refused(*flags, "--dataset", "cifar10")
    assert asked == {}
    assert "dataset: cifar10 is not prepared in" in words
    for way in ("1. ", "2. ", "3. ", "--data-dir"):
        assert way in words
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["ivon", "ssvi_ivon"])
def test_what_a_method_cannot_take_of_the_training_is_refused_at_once(method):
    asked = cli.parse(["--method", method])
    assert (asked.training.nesterov, asked.training.weight_decay) == (False, 2e-4)
    for flags, words in {
        "--nesterov": rf"^nesterov: got True, allowed with {method}: False",
        "--weight-decay 0": r"^weight_decay: got 0\.0, allowed: .*above 0",
    }.items():
        with pytest.raises(InputError, match=words):
            cli.parse(["--method", method, *flags.split()])
        cli.parse(["--method", "ssvi", *flags.split()])
