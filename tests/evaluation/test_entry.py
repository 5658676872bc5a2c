"""The command `ssvi`: its words, its help without JAX, and what `ssvi info` says."""

import json
import os
import pty
import subprocess
import sys

import pytest
import smoke_run
import yaml
from digits_fits import X, Y, linen, mlp

import ssvi_jax
from ssvi_jax.core import command, terminal
from ssvi_jax.evaluation import entry
from ssvi_jax.methods import METHODS
from ssvi_jax.training.run_config import names_of
from ssvi_jax.vi import masks as masks_lib

HELPS = """
import contextlib, io, json, sys
from ssvi_jax.evaluation import entry
found = {}
for words in ([], *([word] for word in entry.COMMANDS)):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        entry.main([*words, "--help"])
    found[" ".join(words)] = out.getvalue()
print(json.dumps({"found": found, "jax": "jax" in sys.modules}))
"""


def ssvi_python(*arguments, **environment):
    """A Python process that finds the package."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": str(smoke_run.ROOT), **environment},
        capture_output=True,
        text=True,
    )


def test_every_word_has_help_that_needs_no_jax_and_fits_the_terminal():
    done = ssvi_python("-c", HELPS, COLUMNS="40")
    assert done.stderr == ""
    got = json.loads(done.stdout)
    assert not got["jax"]
    assert got["found"].keys() == {"", *entry.COMMANDS}
    for word, text in got["found"].items():
        assert text.startswith(f"usage: ssvi {word}"), word
    assert all(len(line) <= 40 for line in got["found"][""].splitlines())
    assert set(entry.COMMANDS) <= set(got["found"][""].split())


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["trian"], "error: ssvi: got 'trian', allowed first: train, predict, "),
        (["info", "nowhere"], "error: path: got nowhere, where there is nothing"),
        (["info", "{here}"], "which holds neither model.ssvi nor checkpoints"),
        (["info", __file__], "not a whole model file"),
        (["compare", "--methods", "x"], "error: --methods: got 'x', allowed: "),
    ],
)
def test_bad_input_is_one_sentence(argv, said, tmp_path):
    outcome = smoke_run.call(entry.main, *(word.format(here=tmp_path) for word in argv))
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err
    assert outcome.err.count("\n") == 1


def test_beside_the_runtime_alone_it_says_what_is_missing():
    lacking = "import sys; sys.modules['tyro'] = None\n"
    start = "from ssvi_jax.evaluation import entry\nentry.ssvi()"
    done = ssvi_python("-c", lacking + start, "--help")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ssvi: tyro is not installed; pip install ")
    assert done.stderr.count("\n") == 1


def test_a_shell_completes_the_flags_of_every_method():
    done = smoke_run.call(entry.main, "--tyro-print-completion", "bash")
    assert (done.code, done.err) == (0, "")
    assert "complete -F _tyro_ssvi ssvi" in done.out
    flags = {name.replace("_", "-") for m in METHODS.values() for name in names_of(m)}
    assert {flag for flag in flags if f"--{flag}'" not in done.out} == set()


def on_a_terminal(**environment) -> bytes:
    """What `ssvi predict --help` writes to a terminal."""
    ours, theirs = pty.openpty()
    command_line = [sys.executable, "-m", "ssvi_jax.evaluation.entry", "predict"]
    inherited = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    paths = {"PYTHONPATH": str(smoke_run.ROOT), "TERM": "xterm"}
    with subprocess.Popen(
        [*command_line, "--help"], stdout=theirs, env=inherited | paths | environment
    ) as process:
        os.close(theirs)
        found = b""
        try:
            while part := os.read(ours, 4096):
                found += part
        except OSError:  # Linux's word for the end of a terminal
            pass
        os.close(ours)
    assert process.returncode == 0
    return found


def test_no_color_is_heeded():
    coloured, plain = on_a_terminal(), on_a_terminal(NO_COLOR="1")
    assert b"\x1b[" in coloured
    assert b"\x1b[" not in plain
    assert b"--samples INT" in plain


def test_a_table_is_broken_between_columns_where_it_must_be(monkeypatch):
    table = f"{'-' * 60}\nlabel of a row      12.5 %        13.5 MB, large\nshort  1"
    monkeypatch.setenv("COLUMNS", "60")
    assert terminal.fitted(table) == table
    monkeypatch.setenv("COLUMNS", "30")
    expected = "label of a row  12.5 %\n    13.5 MB, large\nshort  1"
    assert terminal.fitted(table) == f"{'-' * 30}\n{expected}"


def test_info_and_card_of_a_run_are_what_its_summary_says(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "120")
    folder = smoke_run.smoke().folder
    summary = json.loads((folder / "summary.json").read_text())
    outcome = smoke_run.call(entry.main, "info", folder, "--json")
    assert outcome.code == 0, outcome.err
    got = json.loads(outcome.out)
    assert {path: (shape, kept) for path, shape, kept in got["layers"]} == {
        layer["path"]: (layer["shape"], layer["kept"]) for layer in summary["layers"]
    }
    assert got["scores"]["test"]["mc"]["nll"] == summary["test"]["mc"]["nll"]
    said = smoke_run.call(entry.main, "info", folder / "model.ssvi").out
    kept, total = (summary[f"weights_{what}"] for what in ("kept", "total"))
    assert f"95.00 %; {kept:,} of {total:,} kernel weights kept" in said
    assert f"accuracy {summary['test']['mean']['accuracy']:.4g}" in said
    # The table at the end of the run rounds the same two numbers.
    times = summary["model_file"]["times_smaller"]
    assert f", {times:.1f}× this" in said
    copy = smoke_run.copy_of(folder, tmp_path / "a run")
    for flags, code in (([], 0), ([], 2), (["--overwrite", "--license", "mit"], 0)):
        assert smoke_run.call(entry.main, "card", copy, *flags).code == code
    _, head, body = (copy / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(head)
    assert (card["license"], card["library_name"]) == ("mit", "ssvi_jax")
    (index,) = card["model-index"]
    assert index["name"] == "a run"
    (result,) = index["results"]
    assert result["dataset"]["name"] == "digits"
    values = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert values["accuracy, samples"] == summary["test"]["mc"]["accuracy"]
    assert f"{kept:,} of {total:,} kernel weights kept |" in body
    newest = smoke_run.call(entry.main, "info", folder / "checkpoints").out
    assert f"95.00 %; {kept:,} of {total:,} kernel weights kept" in newest
    assert "step 80 of 80" in newest


def test_info_of_a_network_of_ones_own(tmp_path):
    x, y = X[:200], Y[:200]
    method = ssvi_jax.SSVI(sparsity=0.75)
    net = linen(mlp(width=16), x)
    fit = ssvi_jax.fit(method, net, (x, y), steps=10, folder=tmp_path / "fit")
    fit.save(tmp_path / "mine.ssvi")
    counts = masks_lib.counts(fit.masks)
    for name in ("mine.ssvi", "fit"):
        outcome = smoke_run.call(entry.main, "info", tmp_path / name, "--json")
        got = json.loads(outcome.out)
        assert {path: kept for path, _, kept in got["layers"]} == counts
        assert got["facts"]["method"].startswith("ssvi")
        assert got["facts"]["sparsity"].startswith("75.00 %")


def test_help_calls_the_command_by_its_name():
    assert command.program("a script") == "a script"
    with command.called("ssvi info"):
        assert command.program("a script") == "ssvi info"
    assert command.program() is None
