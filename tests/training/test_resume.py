import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import smoke_run
from signals import signal_at

from ssvi_jax.core.errors import InputError
from ssvi_jax.io import container
from ssvi_jax.training import phases, train


@pytest.fixture(scope="module")
def smoke():
    return smoke_run.smoke()


KILLER = """
import os, runpy, signal, sys

folder, left = sys.argv[1], int(sys.argv[2])

def count(event, args):
    global left
    if args and folder in str(args[0]):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

from ssvi_jax.training import saving

saving.CHECKPOINT_SECONDS = 0.0  # a checkpoint after every phase
sys.argv = sys.argv[3:]
sys.addaudithook(count)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script and kills it without warning at its n-th touch of the run folder.

To a later process, two moments between the same two file operations are one moment.
"""


def run_and_kill(folder, at, *flags):
    environment = os.environ | {"PYTHONPATH": str(smoke_run.ROOT)}
    script = [
        smoke_run.SCRIPT,
        *smoke_run.TINY,
        "--no-figures",
        "--out",
        folder,
        *flags,
    ]
    command = [sys.executable, "-c", KILLER, folder, at, *script]
    return subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.system
def test_killed_three_times_and_resumed_equals_uninterrupted(smoke, tmp_path):
    folder = tmp_path / "run"
    moments = np.random.default_rng(0).integers(90, 200, 3)
    for number, moment in enumerate(moments):
        killed = run_and_kill(folder, moment, *["--resume"] * (number > 0))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = run_and_kill(folder, -1, "--resume")
    assert done.returncode == 0, done.stderr
    assert "resumed at step" in done.stdout
    assert smoke_run.events(folder) == smoke_run.events(smoke.folder)
    np.testing.assert_array_equal(
        smoke_run.checkpoint_bytes(folder), smoke_run.checkpoint_bytes(smoke.folder)
    )
    ours, theirs = (
        np.load(path / "predictions.npz") for path in (folder, smoke.folder)
    )
    assert ours.files == theirs.files
    for name in ours.files:
        np.testing.assert_array_equal(ours[name], theirs[name])
    # The content, because safetensors writes its metadata in no fixed order.
    files = [container.read(path / "model.ssvi") for path in (folder, smoke.folder)]
    assert files[0] == files[1]
    first = json.loads((folder / "config.json").read_text())
    assert first["config"]["resume"] is False
    # The run did swap, or this would have shown little.
    assert sum("num_swapped" in event for event in smoke_run.events(folder)) >= 4


# From here on a dense point estimate, as it compiles fast -----------------------------

DENSE = {"method": "deterministic", "inner_steps": 10}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its folder and its result."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, smoke_run.tiny_train(folder, **DENSE)


def test_a_signal_saves_and_leaves(whole, tmp_path, monkeypatch, capsys):
    number = signal.SIGTERM
    folder, reference = whole
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        signal_at(patch, 30, number)  # in the middle of an epoch
        stopped = smoke_run.tiny_train(out, **DENSE)
    assert (stopped.signal, stopped.step) == (number, 30)
    assert "stopping: this phase is finished and saved" in capsys.readouterr().out
    resumed = smoke_run.tiny_train(out, resume=True, **DENSE)
    assert (resumed.signal, resumed.step) == (0, reference.step)
    assert "resumed at step 30 of 80" in capsys.readouterr().out
    assert smoke_run.events(out) == smoke_run.events(folder)
    np.testing.assert_array_equal(
        smoke_run.checkpoint_bytes(out), smoke_run.checkpoint_bytes(folder)
    )


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_in_the_last_phase_still_leaves(tmp_path, monkeypatch, number, code):
    flags = ["--method", "deterministic", "--epochs", "1", "--no-figures"]
    with monkeypatch.context() as patch:
        signal_at(patch, 20, number)
        stopped = smoke_run.command(*smoke_run.TINY, *flags, "--out", tmp_path)
    assert stopped.code == code
    assert "stopped and saved at step 20; continue with --resume" in stopped.out
    assert not (tmp_path / "summary.json").exists()
    assert smoke_run.checkpoint_bytes(tmp_path, 20).size


def test_one_seed_one_run_another_seed_another(whole, tmp_path):
    folder, _ = whole
    smoke_run.tiny_train(tmp_path / "again", **DENSE)
    assert smoke_run.events(tmp_path / "again") == smoke_run.events(folder)
    np.testing.assert_array_equal(
        smoke_run.checkpoint_bytes(tmp_path / "again"),
        smoke_run.checkpoint_bytes(folder),
    )
    smoke_run.tiny_train(tmp_path / "other", seed=1, **DENSE)
    ours, theirs = smoke_run.events(tmp_path / "other"), smoke_run.events(folder)
    assert all(
        one["loss"] != two["loss"]
        for one, two in zip(ours, theirs, strict=True)
        if one["event"] == "phase"
    )


def test_the_best_epoch_is_what_a_finished_training_returns(tmp_path, monkeypatch):
    nll = {20: 2.0, 40: 1.0, 60: 3.0, 80: 4.0}

    def scores(self, phase):
        return {"nll": nll[phase.step], "accuracy": 0.5, "ece": 0.1}

    monkeypatch.setattr(train.RunValidation, "scores", scores)
    trained = smoke_run.tiny_train(tmp_path, **DENSE)
    assert trained.step == int(trained.progress.state.step) == 40
    saved = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert saved == [40, 60, 80]


def test_a_damaged_newest_checkpoint_costs_one_epoch(whole, tmp_path, capsys):
    folder, _ = whole
    out = smoke_run.copy_of(folder, tmp_path / "run")
    for part in (out / "checkpoints" / "80").rglob("*"):
        if part.is_file():
            part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    smoke_run.tiny_train(out, resume=True, **DENSE)
    said = capsys.readouterr().out
    assert "80 is damaged" in said
    assert "resumed at step 60 of 80" in said
    assert smoke_run.events(out) == smoke_run.events(folder)
    np.testing.assert_array_equal(
        smoke_run.checkpoint_bytes(out), smoke_run.checkpoint_bytes(folder)
    )


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in files}


def test_a_run_folder_may_have_any_name(tmp_path):
    """As sweep tools make them; with brackets plain Orbax saves no arrays."""
    out = tmp_path / "lr=0.1,[a]" / "ü *?%41"
    flags = ["--method", "deterministic", "--epochs", "1", "--out", out]
    first = smoke_run.command(*smoke_run.TINY, *flags)
    assert first.code == 0, first.err
    again = smoke_run.command(*smoke_run.TINY, *flags, "--no-figures", "--resume")
    assert again.code == 0, again.err
    assert "resumed at step 20 of 20" in again.out
    names = {path.name for path in [*out.iterdir(), *(out / "figures").iterdir()]}
    assert {"checkpoints", "model.ssvi", "summary.json", "curves.png"} <= names
    assert [path.name for path in tmp_path.iterdir()] == ["lr=0.1,[a]"]


def test_another_configuration_is_refused_with_the_differences(whole, tmp_path):
    out = smoke_run.copy_of(whole[0], tmp_path / "run")
    before = contents(out)
    flags = ["--method", "deterministic", "--resume", "--out", out]
    words = smoke_run.refused(
        *smoke_run.TINY, *flags, "--seed", "1", "--momentum", "0.5"
    )
    assert "seed: saved 0, now 1 momentum: saved 0.9, now 0.5" in words
    assert "learning_rate" not in words
    assert contents(out) == before


def test_what_may_differ_may_differ(whole, tmp_path, capsys):
    out = smoke_run.copy_of(whole[0], tmp_path / "run")
    smoke_run.tiny_train(out, resume=True, samples=7, figures=True, **DENSE)
    assert "resumed at step 80 of 80" in capsys.readouterr().out


@pytest.mark.parametrize("left", ["everything", "no checkpoints", "only a log"])
def test_a_folder_with_a_run_is_not_overwritten(smoke, tmp_path, left):
    out = smoke_run.copy_of(smoke.folder, tmp_path / "run")
    if left != "everything":
        for path in sorted((out / "checkpoints").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    if left == "only a log":
        (out / "summary.json").unlink()
    before = contents(out)
    words = smoke_run.refused(*smoke_run.TINY, "--seed", "1", "--out", out)
    assert "already holds a run" in words or "none of its checkpoints" in words
    assert contents(out) == before


def test_results_without_checkpoints_cannot_be_resumed(smoke, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "summary.json").write_text("{}")
    words = smoke_run.refused(*smoke_run.TINY, "--resume", "--out", out)
    assert "holds the results of a run but none of its checkpoints" in words


def test_resume_without_a_checkpoint_starts_anew(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"event": "phase", "step": 10}\n{"eve')
    (tmp_path / "config.json").write_text('{"config": {"seed": 8}}')
    smoke_run.tiny_train(tmp_path, resume=True, epochs=1, seed=3, **DENSE)
    assert "no checkpoint there yet" in capsys.readouterr().out
    assert [e["step"] for e in smoke_run.events(tmp_path)] == [10, 20, 20]
    # What is there now is this run, not the one that left no checkpoint.
    assert json.loads((tmp_path / "config.json").read_text())["config"]["seed"] == 3


def test_every_checkpoint_damaged_says_so(whole, tmp_path):
    out = smoke_run.copy_of(whole[0], tmp_path / "run")
    for part in (out / "checkpoints").rglob("*"):
        if part.is_file():
            part.write_bytes(b"")
    with pytest.raises(InputError, match="every checkpoint is damaged"):
        smoke_run.tiny_train(out, resume=True, **DENSE)


def test_a_finished_run_is_only_evaluated_again(smoke, tmp_path, monkeypatch):
    out = smoke_run.copy_of(smoke.folder, tmp_path / "run")
    # As if Ctrl-C had come during the evaluation at the end.
    for name in ("summary.json", "predictions.npz", "model.ssvi"):
        (out / name).unlink()
    monkeypatch.setattr(phases, "one", None)
    again = smoke_run.command(*smoke_run.TINY, "--no-figures", "--resume", "--out", out)
    assert again.code == 0, again.err
    assert "resumed at step 80 of 80" in again.out
    ours, theirs = (
        json.loads((path / "summary.json").read_text()) for path in (out, smoke.folder)
    )
    for summary in (ours, theirs):
        del summary["train_minutes"]
    assert ours == theirs
    assert (out / "config.json").read_bytes() == (
        smoke.folder / "config.json"
    ).read_bytes()
