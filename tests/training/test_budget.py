"""The length of a training: whole phases, and what fits into minutes."""

import json
import signal
from types import SimpleNamespace

import pytest
import smoke_run
from signals import signal_at

from ssvi_jax.core.errors import InputError
from ssvi_jax.training import budget, phases, processes
from ssvi_jax.training.budget import Length
from ssvi_jax.training.callbacks import Phase


@pytest.mark.parametrize(
    ("steps", "inner_steps", "expected"),
    [
        (9, 7, Length(7, 14)),
        (14, 7, Length(7, 14)),
        (20, 100_000, Length(20, 20)),
        (1, 5, Length(1, 1)),
        (7, None, Length(7, 7)),  # fewer than 10 are one phase
        (25, None, Length(9, 27)),
        (1000, None, Length(50, 1000)),
        (10_001, None, Length(100, 10_100)),
    ],
)
def test_steps_are_rounded_up_to_whole_phases(steps, inner_steps, expected):
    assert budget.whole_phases(steps, inner_steps) == expected


def test_a_length_of_its_own_wastes_less_than_a_step_a_phase():
    for steps in range(1, 3000):
        inner, total = budget.whole_phases(steps, None)
        assert min(steps, 6) <= inner <= 100
        assert total % inner == 0
        assert steps <= total < steps + total // inner


@pytest.mark.parametrize(
    ("asked", "steps"),
    [
        ((7, None, None), 7),
        ((None, 3, None), 60),
        ((None, 0.51, None), 11),
        ((None, None, 0.5), None),
    ],
)
def test_steps_that_are_asked_for(asked, steps):
    assert budget.steps_of(*asked, per_epoch=20) == steps


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ((None, None, None), "got none of them, needed: exactly one"),
        ((5, None, 1.0), "got steps, minutes, needed: exactly one"),
        ((0, None, None), "steps: got 0, allowed: a finite number above 0"),
        ((None, -1, None), "epochs: got -1, allowed"),
        ((None, None, float("nan")), "minutes: got nan, allowed"),
    ],
)
def test_lengths_that_are_none_are_refused(asked, words):
    with pytest.raises(InputError, match=words):
        budget.steps_of(*asked, per_epoch=20)


def session(*, inner_steps=10, steps_per_epoch=20, total_steps=80):
    """What is asked of a session."""
    return SimpleNamespace(
        inner_steps=inner_steps,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        epochs_done=lambda step: step // steps_per_epoch,
    )


@pytest.mark.parametrize(
    ("step", "total", "ends"),
    [(10, 80, False), (20, 80, True), (30, 80, False), (30, 30, True)],
)
def test_an_epoch_ends_in_the_phase_that_completes_it(step, total, ends):
    phase = Phase(session(total_steps=total), step, None, {}, 0.0)  # type: ignore[arg-type]
    assert phase.ends_epoch == ends


@pytest.mark.parametrize(
    ("minutes", "checks", "expected"),
    [
        # 5 + 1 + 1 s are gone, and 4 s go for compiling again: 49 s of 1 s each.
        (1.0, None, 490),
        # Two checks more: 3 and 2 s, the latter every second phase: 44 s of 2 s each.
        (1.0, [3.0, 2.0], 220),
        (0.01, None, 10),  # one phase at least
    ],
)
def test_minutes_are_filled_with_phases_of_the_length_that_is_timed(
    minutes, checks, expected, monkeypatch
):
    now, lengths, steps = [100.0], iter([5.0, 1.0, 1.0]), []

    def one(session, progress, step, callbacks):
        assert callbacks == ()  # nothing is logged or saved of them
        now[0] += next(lengths)
        steps.append(step)
        return progress, {}

    def check(phase):
        now[0] += checks.pop(0)

    monkeypatch.setattr(budget.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(phases, "start", lambda session, key: None)
    monkeypatch.setattr(phases, "one", one)
    validate = None if checks is None else check
    found = budget.steps_in(minutes, session(), None, validate)  # type: ignore[arg-type]
    assert (found, steps) == (expected, [0, 10, 20])


# Of a run -----------------------------------------------------------------------------

SHORT = {"method": "deterministic", "minutes": 0.05}


def planned(folder):
    return json.loads((folder / "config.json").read_text())["total_steps"]


def test_a_run_in_minutes_records_its_length_and_keeps_it(tmp_path, monkeypatch):
    """Also where the machine would now be found to be slower."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(budget, "steps_in", lambda *_: 50)
        signal_at(patch, 10, signal.SIGTERM)
        stopped = smoke_run.tiny_train(out, **SHORT)
    total = planned(out)
    assert (stopped.signal, stopped.step) == (signal.SIGTERM, 10)
    assert total == stopped.problem.total_steps == 50
    monkeypatch.setattr(budget, "steps_in", lambda *_: 1 / 0)
    resumed = smoke_run.tiny_train(out, resume=True, **SHORT)
    assert (resumed.problem.total_steps, planned(out)) == (total, total)
    assert smoke_run.events(out)[-1]["step"] == total
    # The schedule knew the length from the first step: as of a run of so many steps.
    monkeypatch.setattr(budget, "steps_in", lambda *_: total)
    whole = smoke_run.tiny_train(tmp_path / "whole", **SHORT)
    assert whole.problem.total_steps == total
    assert smoke_run.events(out) == smoke_run.events(tmp_path / "whole")


def test_all_processes_train_as_long_as_the_first(tmp_path, monkeypatch):
    """Of several, each finds a length of its own."""
    heard = []

    def of_the_first(text):
        heard.append(text)
        return "null" if text == "null" else "20"  # whether there is a run already

    monkeypatch.setattr(processes, "agreed", of_the_first)
    monkeypatch.setattr(budget, "steps_in", lambda *_: 70)
    trained = smoke_run.tiny_train(tmp_path, **SHORT)
    assert heard == ["null", "70"]
    assert trained.step <= trained.problem.total_steps == planned(tmp_path) == 20


def test_a_run_in_minutes_says_that_it_begins_with_timing(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(budget, "steps_in", lambda *_: 10)
    smoke_run.tiny_train(tmp_path, **SHORT)
    assert "timing the first steps" in capsys.readouterr().out
    smoke_run.tiny_train(tmp_path, resume=True, **SHORT)
    assert "timing the first steps" not in capsys.readouterr().out


def test_timing_the_first_phases_changes_nothing(tmp_path, monkeypatch):
    timed = budget.steps_in

    def of_two_epochs(*arguments):
        assert timed(*arguments) > 0
        return 40

    monkeypatch.setattr(budget, "steps_in", of_two_epochs)
    smoke_run.tiny_train(tmp_path / "minutes", **SHORT)
    flags = {"method": "deterministic", "epochs": 2}
    smoke_run.tiny_train(tmp_path / "epochs", **flags)
    ours, theirs = (smoke_run.events(tmp_path / n) for n in ("minutes", "epochs"))
    assert ours == theirs
    assert planned(tmp_path / "minutes") == planned(tmp_path / "epochs") == 40
