"""Runs of several processes on this machine: the same run as that of one."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
import small_imagenet
import smoke_run

from ssvi_jax import data
from ssvi_jax.core.errors import InputError
from ssvi_jax.data.batches import batch_indices
from ssvi_jax.io import run_log
from ssvi_jax.training import processes

ROOT = Path(__file__).parents[2]
FLAGS = [
    *("--dataset", "digits", "--preset", "smoke", "--no-figures", "--epochs", "1"),
    *("--train-size", "320", "--batch-size", "32", "--inner-steps", "5"),
]
NET = {
    "convnet": ["--model", "convnet", "--width", ".1"],
    "mlp": ["--model", "mlp", "--width", ".25"],
}


def together(number, command, *, devices=1):
    """Runs a command in several processes; their (exit code, output, errors)."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    flags = os.environ.get("XLA_FLAGS", "")
    flags = f"{flags} --xla_force_host_platform_device_count={devices}"
    env = {**os.environ, "XLA_FLAGS": flags}
    where = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", str(number)]
    running = [
        subprocess.Popen(
            [sys.executable, *command, *where, "--process-id", str(i)],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(number)
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in running]
    finally:
        for process in running:
            process.kill()
    # Gloo prints lines of its own, from several threads that mix them up.
    printed = [
        re.sub(r"(?m)^(.*(Gloo|peer ranks).*)?\n", "", out) for out, _ in outputs
    ]
    return [
        (process.returncode, out, errors)
        for process, out, (_, errors) in zip(running, printed, outputs, strict=True)
    ]


def train(number, folder, *flags, devices=1):
    """experiments/cifar10.py in several processes."""
    command = ["experiments/cifar10.py", *FLAGS, *flags, "--out", str(folder)]
    done = together(number, [*command, "--devices", str(devices)], devices=devices)
    for code, _, errors in done:
        assert code == 0, errors
    assert "val acc" in done[0][1]
    assert [out for _, out, _ in done[1:]] == [""] * (number - 1)


def same_run(folder, alone):
    """Whether both folders hold the same run, up to rounding."""
    files = [sorted(p.name for p in f.iterdir()) for f in (folder, alone)]
    assert files[0] == files[1]
    ours, theirs = (smoke_run.events(f) for f in (folder, alone))
    assert [e["step"] for e in ours] == [e["step"] for e in theirs]
    for ours_, theirs_ in zip(ours, theirs, strict=True):
        flat = [flattened(event) for event in (ours_, theirs_)]
        assert flat[0] == pytest.approx(flat[1], rel=0.02, abs=0.01)


def flattened(event, prefix=""):
    found = {}
    for name, value in event.items():
        if isinstance(value, dict):
            found |= flattened(value, f"{prefix}{name}.")
        elif name != "event":
            found[prefix + name] = value
    return found


def run_alone(folder, *flags):
    outcome = smoke_run.command(*FLAGS, *flags, "--out", folder)
    assert (outcome.code, outcome.err) == (0, "")


def stop_after(monkeypatch, step):
    append = run_log.RunLog.append

    def send(self, event):
        append(self, event)
        if event["event"] == "phase" and event["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(run_log.RunLog, "append", send)


@pytest.mark.system
def test_two_processes_continue_what_one_began(tmp_path, monkeypatch):
    flags = NET["convnet"]
    run_alone(tmp_path / "alone", *flags)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        stopped = smoke_run.command(*FLAGS, *flags, "--out", tmp_path / "together")
    assert stopped.code == 128 + signal.SIGTERM
    train(2, tmp_path / "together", *flags, "--resume", devices=2)
    same_run(tmp_path / "together", tmp_path / "alone")


@pytest.mark.system
def test_four_processes_are_as_one(tmp_path):
    run_alone(tmp_path / "alone", *NET["mlp"])
    train(4, tmp_path / "together", *NET["mlp"])
    same_run(tmp_path / "together", tmp_path / "alone")


def test_processes_read_their_own_images_and_stop_together(tmp_path):
    """The second process cannot read an example of the second phase."""
    small_imagenet.write(tmp_path / "whole", num_train=24)
    images = data.load("imagenet2012", tmp_path / "whole").train_images
    (rows,) = batch_indices(1, 1, num_examples=len(images), batch_size=8, seed=0)
    bad = int(getattr(images, "rows")[rows[6]])  # noqa: B009 (unknown to pyright)
    small_imagenet.damage(tmp_path / "whole", tmp_path / "sets", bad)
    flags = ["--dataset", "imagenet2012", "--preset", "smoke", "--no-figures"]
    flags += ["--model", "mlp", "--width", ".02", "--method", "deterministic"]
    flags += ["--batch-size", "8", "--inner-steps", "1"]
    flags += ["--data-dir", str(tmp_path / "sets"), "--out"]
    script = "experiments/cifar10.py"
    first, second = together(2, [script, *flags, str(tmp_path / "together")])
    assert (first[0], second[0]) == (2, 2)
    assert "error: process 1 cannot go on" in first[2]
    assert f"record {bad} of train" in second[2]
    assert f"record {bad} of" in smoke_run.refused(*flags, tmp_path / "alone")
    ours, theirs = (smoke_run.events(tmp_path / n) for n in ("together", "alone"))
    assert [event["step"] for event in ours] == [1]
    assert flattened(ours[0]) == pytest.approx(flattened(theirs[0]), rel=1e-3)


DIFFERENT = """
import sys
import numpy as np
from ssvi_jax.core import command
from ssvi_jax.training import cli, processes

def main(argv):
    asked = cli.parse(argv).run
    processes.start(asked.coordinator, asked.num_processes, asked.process_id)
    masks = {"a/kernel": np.arange(12).reshape(3, 4) % 5 == 0}
    assert processes.agreed(f"of {asked.process_id}") == "of 0"
    assert processes.check_same({}, masks, asked.process_id) == 1
    masks["a/kernel"][2, 3] ^= asked.process_id == 1
    processes.check_same({}, masks)

command.run(main)
"""


def test_masks_that_differ_stop_every_process():
    for code, out, errors in together(2, ["-c", DIFFERENT]):
        assert (code, out) == (2, "")
        assert "error: masks: those of process 1 differ from those of process 0" in (
            errors
        )
        assert "Traceback" not in errors


ALONE = """
import sys
from ssvi_jax.core import command
from ssvi_jax.training import cli, processes
from ssvi_jax.core.errors import InputError

def main(argv):
    asked = cli.parse(argv).run
    processes.start(asked.coordinator, asked.num_processes, asked.process_id)
    processes.HURRY_SECONDS = 1.0
    with processes.together():
        processes.agreed("")
        if asked.process_id == 1:
            raise InputError("of one alone")
        processes.agreed("")

command.run(main)
"""


def test_an_error_of_one_process_ends_all():
    (code, _, errors), (other_code, _, other_errors) = together(2, ["-c", ALONE])
    assert (code, other_code) == (2, 2)
    assert "error: of one alone" in other_errors
    assert "error: another process of this training has ended (" in errors
    assert "Traceback" not in errors + other_errors


@pytest.mark.parametrize(
    ("error", "several", "expected"),
    [
        (jax.errors.JaxRuntimeError("UNKNOWN: Gloo failed"), True, "another process"),
        (ValueError("UNKNOWN: Gloo failed"), True, "another process of"),
        (ValueError("UNKNOWN: Gloo failed"), False, "^UNKNOWN"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED"), True, "^RESOURCE"),
        (InputError("Gloo: got this"), True, "^Gloo"),
    ],
)
def test_only_failed_messages_are_others_faults(error, several, expected, monkeypatch):
    monkeypatch.setattr(processes, "_is_one_of_several", lambda: several)
    kind = InputError if "another" in expected else type(error)
    with pytest.raises(kind, match=expected), processes.together():
        raise error


def test_a_process_alone_is_not_hurried():
    processes.hurry(1)
    assert not any(isinstance(t, threading.Timer) for t in threading.enumerate())


def test_hashes_know_shapes_names_and_bits():
    mask = np.arange(12).reshape(3, 4) % 5 == 0
    other = mask.copy()
    other[2, 3] ^= True
    changed = [{"a": other}, {"b": mask}, {"a": mask.reshape(4, 3)}, {}]
    found = [processes.hash_masks(masks) for masks in ({"a": mask}, *changed)]
    assert len(set(found)) == len(found)
    assert processes.hash_masks({"a": mask.copy()}) == found[0]


def test_a_process_alone_asks_nobody(monkeypatch):
    def refuse(*args):
        raise AssertionError

    monkeypatch.setattr(processes.multihost_utils, "process_allgather", refuse)
    monkeypatch.setattr(processes.multihost_utils, "broadcast_one_to_all", refuse)
    assert processes.check_same({}, {}, 15) == 15
    assert processes.agreed("x") == "x"
    assert processes.from_first(lambda: None, None) is None


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),  # an interactive shell
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
    ],
)
def test_launchers_are_noticed(environment, expected, monkeypatch):
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    asked = []
    monkeypatch.setattr(
        processes.jax.distributed, "initialize", lambda *a, **k: asked.append(a)
    )
    processes.start(None, 1, 0)
    assert asked == [(None, None, None)] * expected


def test_processes_that_do_not_meet_are_told_what_to_give(monkeypatch):
    def fail(*args, **kwargs):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(processes.jax.distributed, "initialize", fail)
    with pytest.raises(InputError, match=r"--coordinator: got host:1, .* HOST:PORT"):
        processes.start("host:1", 2, 0)
