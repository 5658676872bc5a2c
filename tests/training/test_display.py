import contextlib
import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from ssvi_jax.training.callbacks import Phase
from ssvi_jax.training.display import Display, ProgressBar

PHASE = {"loss": 1.25, "kl": 12345.0, "accuracy": 0.5, "iou_first": 0.625}
EPOCH = {
    "epoch": 3,
    "val": {"accuracy": 0.75, "nll": 0.5, "ece": 0.0312},
    "elapsed_seconds": 90.0,
}


def session(total_steps, epochs):
    """What a display asks of a session; Any, for it is not one."""
    found: Any = SimpleNamespace(
        total_steps=total_steps,
        epochs_done=lambda step: step * epochs // total_steps,
    )
    return found


@contextlib.contextmanager
def shown(kind=Display, total_steps=100, epochs=10, **options):
    display = kind(**options)
    display.begin(session(total_steps, epochs), None)
    try:
        yield display
    finally:
        display.close()


def phase(step, **metrics):
    progress: Any = None
    return Phase(session(100, 10), step, progress, {**PHASE, **metrics}, 0.0)


def test_one_line_an_epoch(capsys):
    with shown() as display:
        display.epoch(PHASE, EPOCH)
    assert capsys.readouterr().out == (
        "epoch   3/10  loss 1.250  KL 1.23e+04 nats  train acc 0.500  val acc 0.750"
        "  NLL 0.500  ECE 0.031  IoU 0.62  1.5 min\n"
    )


def test_a_network_without_a_posterior_has_no_kl_and_no_churn(capsys):
    with shown() as display:
        display.epoch({"loss": 1.0, "kl": 0.0, "accuracy": 0.5}, EPOCH)
    line = capsys.readouterr().out
    assert "KL" not in line
    assert "IoU" not in line


def test_a_phase_without_accuracy_shows_none(capsys):
    phase = {name: value for name, value in PHASE.items() if name != "accuracy"}
    with shown() as display:
        display.epoch(phase, EPOCH)
    assert "KL 1.23e+04 nats  val acc" in capsys.readouterr().out


def test_square_brackets_are_words(capsys):
    with shown() as display:
        display.say("steps [20, 40] of [bold]")
    assert capsys.readouterr().out == "steps [20, 40] of [bold]\n"


def test_a_file_gets_no_bar(capsys):
    with shown() as display:
        display.before_phase(0, 5)
        display.tick()
        display(phase(5))
    assert capsys.readouterr().out == ""


def test_a_process_that_is_not_the_first_says_nothing(capsys):
    with shown(silent=True) as display:
        display.epoch(PHASE, EPOCH)
        display.say("words")
    assert capsys.readouterr().out == ""


def test_the_bar_of_fit_prints_the_scores_of_a_validation(capsys):
    with shown(ProgressBar) as display:
        display.before_phase(20, 10)
        display(phase(30))
        assert capsys.readouterr().out == ""
        display(phase(30, validation={"nll": 0.51234, "rmse": 2.0}))
    assert capsys.readouterr().out == "epoch   3/10  nll 0.5123  rmse 2\n"


@pytest.fixture
def terminal(monkeypatch):
    """A display on a terminal that remembers what it was sent."""
    sent = io.StringIO()
    console = Console(file=sent, force_terminal=True, width=100)
    monkeypatch.setattr("ssvi_jax.training.display.Console", lambda **_: console)
    with shown() as display:
        yield display, sent


def test_the_bar_moves_within_a_phase(terminal, monkeypatch):
    display, sent = terminal
    now = [0.0]
    monkeypatch.setattr("ssvi_jax.training.display.time.perf_counter", lambda: now[0])
    task = display._progress.tasks[0]
    display.before_phase(20, 20)
    display.tick()  # the first phase compiles: nothing to go by
    assert task.completed == 20
    now[0] = 10.0
    display(phase(40))
    assert task.completed == 40
    assert task.description == "loss 1.250  KL 1.23e+04"
    display.before_phase(40, 20)
    for seconds, step in ((10.0, 40), (15.0, 50), (20.0, 60), (99.0, 60)):
        now[0] = seconds
        display.tick()
        assert task.completed == step
    display._progress.refresh()
    assert "60/100" in sent.getvalue()
