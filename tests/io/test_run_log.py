import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
import smoke_run

from ssvi_jax import __version__
from ssvi_jax.core.errors import InputError
from ssvi_jax.io import run_log
from ssvi_jax.io.run_log import RunLog


def test_a_folder_is_made_with_its_parents_and_left_empty(tmp_path):
    log = RunLog(tmp_path / "a" / "b")
    assert log.folder.is_dir()
    assert list(log.folder.iterdir()) == []


def test_a_folder_that_cannot_be(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match=f"^out: cannot write to {folder}"):
            RunLog(folder)

    def denied(**kwargs):
        raise PermissionError(13, "Permission denied", str(kwargs["dir"]))

    monkeypatch.setattr(tempfile, "TemporaryFile", denied)
    with pytest.raises(
        InputError, match=r"\(Permission denied\); allowed: a folder on"
    ):
        RunLog(tmp_path / "locked")
    assert not (tmp_path / "locked").exists()
    with pytest.raises(InputError, match="cannot write to"):
        RunLog(tmp_path / "new" / ("x" * 300))
    assert not (tmp_path / "new").exists()


def test_a_folder_it_made_is_not_left_empty(tmp_path):
    with RunLog(tmp_path / "runs" / "a"):
        assert (tmp_path / "runs" / "a").is_dir()
    assert list(tmp_path.iterdir()) == []
    with (
        pytest.raises(InputError, match="refused"),
        RunLog(tmp_path / "runs" / "a"),
    ):
        raise InputError("refused")
    assert list(tmp_path.iterdir()) == []


def test_nothing_else_is_removed(tmp_path):
    (tmp_path / "mine").mkdir()
    with RunLog(tmp_path / "mine"):
        pass
    with RunLog(tmp_path / "new" / "a") as log:
        log.write_json("summary.json", {})
    with RunLog(tmp_path / "new" / "b"):
        pass
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == ["mine", "new", "new/a", "new/a/summary.json"]


def test_writable_is_found_out_without_a_trace(tmp_path):
    run_log.check_writable(tmp_path / "a" / "b")
    run_log.check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^out: cannot write to .*file"):
        run_log.check_writable(tmp_path / "file")


def test_json_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    log = RunLog(tmp_path)
    log.write_json("summary.json", {"a": 1, "name": "μ"})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"a": 1, "name": "μ"}
    before = (tmp_path / "summary.json").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.write_json("summary.json", {"a": float("nan")})
    assert (tmp_path / "summary.json").read_bytes() == before

    def killed(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        log.write_json("summary.json", {"a": 2})
    assert (tmp_path / "summary.json").read_bytes() == before


def test_arrays_appear_whole(tmp_path):
    log = RunLog(tmp_path)
    log.write_arrays("predictions.npz", {"labels": np.arange(3)})
    log.write_arrays("predictions.npz", {"labels": np.arange(4)})
    with np.load(tmp_path / "predictions.npz") as stored:
        np.testing.assert_array_equal(stored["labels"], np.arange(4))
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.npz"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")
def test_a_full_disk_is_told(tmp_path):
    log = RunLog(tmp_path)
    names = ("metrics.jsonl", ".summary.json.tmp", ".predictions.npz.tmp")
    for name in names:
        (tmp_path / name).symlink_to("/dev/full")
    full = r"cannot write .*{} \(No space left on device\).*continue with --resume"
    with pytest.raises(InputError, match=full.format("metrics.jsonl")):
        log.append({"event": "phase"})
    with pytest.raises(InputError, match=full.format("summary.json")):
        log.write_json("summary.json", {"a": 1})
    with pytest.raises(InputError, match=full.format("predictions.npz")):
        log.write_arrays("predictions.npz", {"labels": np.arange(3)})
    assert not (tmp_path / "summary.json").exists()


def test_lines_are_appended(tmp_path):
    log = RunLog(tmp_path)
    log.append({"event": "phase", "step": 1})
    log.append({"event": "phase", "step": 2})
    assert [event["step"] for event in smoke_run.events(tmp_path)] == [1, 2]
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.append({"loss": float("inf")})
    assert len(smoke_run.events(tmp_path)) == 2


LINES = ['{"step": 10}', '{"step": 20}', '{"step": 20}', '{"step": 30}']


@pytest.mark.parametrize(
    ("tail", "step", "kept"),
    [
        ("", 20, 3),
        ("", 30, 4),
        ("", 25, 3),
        ("", 0, 0),
        ('{"step": 40, "los', 40, 4),
        ('{"step": 40, "los', 10, 1),
        ("\x00\x00", 40, 4),
    ],
)
def test_truncation_drops_later_events_and_half_a_line(tmp_path, tail, step, kept):
    log = RunLog(tmp_path)
    log.metrics_path.write_text("\n".join(LINES) + "\n" + tail)
    log.truncate(step)
    assert log.metrics_path.read_text() == "".join(f"{line}\n" for line in LINES[:kept])
    log.append({"step": 99})
    assert smoke_run.events(tmp_path)[-1] == {"step": 99}


@pytest.mark.parametrize(
    "line", [b"\x83\xff", b"[1]", b"3", b'{"stop": 1}', b'{"step": "x"}', b"[" * 9999]
)
def test_a_damaged_line_is_dropped_with_what_follows_and_told(tmp_path, line):
    log, said = RunLog(tmp_path), []
    rest = "\n".join(LINES[2:]).encode()
    log.metrics_path.write_bytes(LINES[0].encode() + b"\n" + line + b"\n" + rest)
    log.truncate(30, said.append)
    assert log.metrics_path.read_text() == LINES[0] + "\n"
    assert said == [
        f"{log.metrics_path} was damaged: what was logged after step 10 is lost"
    ]


def test_a_whole_log_is_no_news(tmp_path):
    log, said = RunLog(tmp_path), []
    log.metrics_path.write_text("\n".join(LINES) + '\n{"step": 40, "los')
    log.truncate(30, said.append)
    assert said == []


def test_without_a_log_there_is_nothing_to_truncate(tmp_path):
    log = RunLog(tmp_path)
    log.truncate(10)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_seen(tmp_path):
    log = RunLog(tmp_path)
    log.start(smoke_run.tiny_config().as_dict(), "data")
    assert not log.has_run
    log.append({"step": 1})
    assert log.has_run
    assert not log.has_summary
    log.write_json("summary.json", {})
    assert log.has_summary


def test_a_start_says_what_runs_where(tmp_path, monkeypatch):
    arguments = ["experiments/cifar10.py", "--out", "with a space"]
    monkeypatch.setattr(sys, "argv", arguments)
    log = RunLog(tmp_path)
    log.metrics_path.write_text('{"step": 5}\n')
    config = smoke_run.tiny_config(seed=4).as_dict()
    log.start(config, "ten digits", {"total_steps": 80})
    assert not log.metrics_path.exists()
    got = json.loads((tmp_path / "config.json").read_text())
    assert got["config"] == json.loads(json.dumps(config))
    assert (got["data_source"], got["total_steps"]) == ("ten digits", 80)
    assert shlex.split(got["command"]) == ["python", *arguments]
    assert got["python"] == ".".join(map(str, sys.version_info[:3]))
    assert got["versions"].keys() == {"ssvi_jax", *run_log.PACKAGES}
    assert got["versions"]["jax"] == jax.__version__
    assert got["platform"] == jax.default_backend()
    assert got["num_devices"] == jax.device_count()
    assert got["num_cores"] >= 1
    assert got["processor"]
    assert got["device"]


def test_our_own_version_needs_no_installation(monkeypatch):
    def missing(name):
        raise run_log.importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(run_log.importlib.metadata, "version", missing)
    versions = run_log.environment()["versions"]
    assert versions["jax"] == "not installed"
    assert versions["ssvi_jax"] == __version__


def git(folder, *arguments):
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=b@c"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_commit_is_that_of_the_source(tmp_path, monkeypatch):
    package = tmp_path / "ssvi_jax"
    package.mkdir()
    monkeypatch.setattr(run_log, "__file__", str(package / "runlog.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert run_log._git_commit() is None
    git(tmp_path, "init", "-q")
    assert run_log._git_commit() is None
    (package / "a.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "a")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert run_log._git_commit() == head
    (tmp_path / "not tracked").write_text("")
    assert run_log._git_commit() == head
    (package / "a.py").write_text("a = 2\n")
    assert run_log._git_commit() == f"{head}+changes"
    monkeypatch.setenv("PATH", "")
    assert run_log._git_commit() is None
