"""experiments/methods.py from its command line to its files, on the digits."""

import csv
import json
import os
import runpy
import shutil
import signal
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import smoke_run

from ssvi_jax import metrics
from ssvi_jax.evaluation.comparison import runs
from ssvi_jax.evaluation.shift import kept_predictions
from ssvi_jax.io import run_log
from ssvi_jax.methods import SET
from ssvi_jax.networks.network import ImageNetwork
from ssvi_jax.training import phases, train

SCRIPT = Path(__file__).parents[2] / "experiments" / "methods.py"
RUNS = [*smoke_run.TINY, "--epochs", "1", "--sparsity", "0.8", "--samples", "2"]
FLAGS = [*RUNS, "--images", "6", "--ood", "noise"]
TWO = ["--methods", "static,deterministic"]
ALL_RUNS = ["static-0", "deterministic-0", "static-1", "deterministic-1"]


def command(*flags: str | Path) -> smoke_run.Outcome:
    main = runpy.run_path(str(SCRIPT))["main"]
    with mock.patch.object(ImageNetwork, "init", smoke_run._initial):
        return smoke_run.call(main, *flags)


def counted(monkeypatch):
    """Lists of what is trained and of what is predicted from here on."""
    trained, predicted = [], []
    one, predict = phases.one, kept_predictions.predict

    def a_phase(session, progress, step, callbacks):
        (logging,) = (c for c in callbacks if isinstance(c, train.Logging))
        trained.append((logging._log.folder.name, step))
        return one(session, progress, step, callbacks)

    def a_prediction(*args, **kwargs):
        predicted.append(1)
        return predict(*args, **kwargs)

    monkeypatch.setattr(phases, "one", a_phase)
    monkeypatch.setattr(kept_predictions, "predict", a_prediction)
    return trained, predicted


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two methods: killed after the first run, one seed, then a second seed."""
    out = tmp_path_factory.mktemp("comparison") / "out"
    flags = [*TWO, *FLAGS, "--out", out]
    with pytest.MonkeyPatch.context() as patch:
        trained, _ = counted(patch)
        with pytest.MonkeyPatch.context() as kill:
            kill.setattr(runs, "evaluate_run", mock.Mock(side_effect=KeyboardInterrupt))
            outcomes = [command(*flags, "--seeds", "1")]
        outcomes.append(command(*flags, "--seeds", "1"))
        kept = json.loads((out / "comparison.json").read_text())
        outcomes.append(command(*flags, "--seeds", "2"))
    return out, outcomes, trained, kept


def test_nothing_is_trained_twice(finished):
    _, outcomes, trained, _ = finished
    assert [outcome.code for outcome in outcomes] == [130, 0, 0], outcomes[-1].err
    assert len(set(trained)) == len(trained)
    assert list(dict.fromkeys(name for name, _ in trained)) == ALL_RUNS


def test_a_finished_comparison_does_nothing_again(finished, monkeypatch):
    out, *_ = finished
    trained, predicted = counted(monkeypatch)
    timed = mock.Mock(side_effect=AssertionError)
    monkeypatch.setattr(runs, "time_prediction", timed)
    before = json.loads((out / "comparison.json").read_text())["methods"]
    again = command(*TWO, *FLAGS, "--out", out, "--seeds", "2")
    assert (again.code, trained, predicted) == (0, [], [])
    assert "mean ± standard error over 2 seeds" in again.out
    assert json.loads((out / "comparison.json").read_text())["methods"] == before


def copy_of_records(out, to):
    """What a repository keeps of a comparison."""
    to.mkdir()
    for run in ALL_RUNS:
        shutil.copy(out / f"{run}.json", to)
    return to


def test_records_alone_continue_a_comparison(finished, tmp_path, monkeypatch):
    out, *_ = finished
    trained, predicted = counted(monkeypatch)
    to = copy_of_records(out, tmp_path / "clone")
    outcome = command(*TWO, *FLAGS, "--out", to, "--seeds", "2")
    assert (outcome.code, trained, predicted) == (0, [], [])
    assert not (to / "runs").exists()
    tables = [(folder / "table.csv").read_text() for folder in (out, to)]
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--epochs", "2"], "other settings (epochs: 1.0 there, now 2.0)"),
        (["--images", "3"], "scores of other images (images: 6 there, now 3)"),
    ],
)
def test_records_of_something_else_are_refused(finished, tmp_path, flags, words):
    to = copy_of_records(finished[0], tmp_path / "clone")
    outcome = command(*TWO, *FLAGS, "--out", to, "--seeds", "2", *flags)
    assert outcome.code == 2
    assert words in " ".join((outcome.out + outcome.err).split())


def test_a_damaged_record_is_refused(finished, tmp_path):
    to = copy_of_records(finished[0], tmp_path / "clone")
    (to / "static-0.json").write_text('{"config": []}')
    outcome = command(*TWO, *FLAGS, "--out", to)
    assert outcome.code == 2
    assert "config is no group of values" in outcome.err


def test_a_run_from_elsewhere_joins(finished, tmp_path):
    out, *_ = finished
    elsewhere = tmp_path / "peer-1"
    shutil.copytree(out / "runs" / "deterministic-1", elsewhere)
    flags = [*TWO, *FLAGS, "--out", out, "--seeds", "2"]
    assert command(*flags, "--join", elsewhere).code == 0
    methods = json.loads((out / "comparison.json").read_text())["methods"]
    assert list(methods) == ["static", "deterministic", "peer"]
    assert methods["peer"]["seeds"] == [1]
    own, peer = (methods[name]["metrics"] for name in ("deterministic", "peer"))
    assert own.keys() == peer.keys()
    for name in own.keys() - {"predict_seconds"}:
        assert peer[name]["values"] == own[name]["values"][1:]
    shutil.rmtree(elsewhere)  # its record stays
    assert command(*flags, "--join", elsewhere).code == 0
    assert json.loads((out / "comparison.json").read_text())["methods"] == methods
    (out / "peer-1.json").unlink()
    assert command(*flags).code == 0  # as the other tests expect it


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["torch"], "allowed: a run folder named NAME-SEED"),
        (["static-0"], "NAME is no method that is compared"),
        (["torch-0", "torch-0"], "--join: got torch-0 twice"),
        (["torch-0"], "summary.json"),
    ],
)
def test_what_cannot_join_is_refused_before_anything_is_trained(names, words, tmp_path):
    joined = [flag for name in names for flag in ("--join", tmp_path / name)]
    out = tmp_path / "out"
    refused = command(*TWO, *FLAGS, "--out", out, *joined)
    assert (refused.code, out.exists()) == (2, False)
    assert words in refused.err


def test_files(finished):
    out, outcomes, _, _ = finished
    names = {path.name for path in out.iterdir()}
    files = {"comparison.json", "table.csv", "table.md", "pareto.png", "shift.png"}
    assert names == files | {"runs"} | {f"{run}.json" for run in ALL_RUNS}
    assert sorted(path.name for path in (out / "runs").iterdir()) == sorted(ALL_RUNS)
    for name in files:
        assert f"wrote {out / name}" in outcomes[-1].out
    assert "deterministic keeps its own sparsity" in outcomes[-1].out


def test_one_seed_has_no_error_and_two_have(finished):
    out, outcomes, _, one = finished
    assert "one seed: no standard errors" in outcomes[1].out
    assert "mean ± standard error over 2 seeds" in outcomes[2].out
    two = json.loads((out / "comparison.json").read_text())
    for method in ("static", "deterministic"):
        before, now = (found["methods"][method] for found in (one, two))
        assert (before["seeds"], now["seeds"]) == ([0], [0, 1])
        for name, value in now["metrics"].items():
            first, second = value["values"]
            assert before["metrics"][name]["values"] == [first]
            assert before["metrics"][name]["standard_error"] is None
            assert value["mean"] == pytest.approx((first + second) / 2)
            # Of two numbers: |a - b| / √2 / √2.
            error = abs(first - second) / 2
            assert value["standard_error"] == pytest.approx(error)


def test_numbers_are_those_of_the_runs(finished):
    out, _, _, _ = finished
    comparison = json.loads((out / "comparison.json").read_text())
    for method in ("static", "deterministic"):
        folder = out / "runs" / f"{method}-1"
        found = comparison["methods"][method]["metrics"]
        got = {name: value["values"][1] for name, value in found.items()}
        with np.load(folder / "predictions.npz") as kept:
            probs, labels = kept["mean_probs"], kept["labels"]
        assert got["nll"] == metrics.nll(probs, labels)
        assert got["accuracy"] == np.mean(probs.argmax(1) == labels)
        cells = []
        predictions = folder / "corruptions" / "predictions" / folder.name
        for path in predictions.glob("*-[1-5].npz"):
            with np.load(path) as kept:
                cells.append(metrics.nll(kept["mean_probs"], kept["labels"]))
        assert len(cells) == 75
        assert got["corrupted_nll"] == pytest.approx(np.mean(cells))
        summary = json.loads((folder / "summary.json").read_text())
        # 1,293 training images in batches of 64: 20 steps, a checkpoint every 10.
        assert got["train_flops"] == 20 * summary["train_step_flops"]
        assert got["model_bytes"] == (folder / "model.ssvi").stat().st_size
        assert got["weights_kept"] == summary["weights_kept"]
        assert 0 <= got["auroc_noise"] <= 1
        assert got["predict_seconds"] > 0


def test_the_csv_has_the_methods_in_the_order_given(finished):
    with (finished[0] / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["static", "deterministic"]


def test_other_settings_are_refused_before_anything_is_trained(finished, monkeypatch):
    trained, _ = counted(monkeypatch)
    flags = [*TWO, *FLAGS, "--out", finished[0], "--seeds", "3", "--epochs", "2"]
    outcome = command(*flags)
    assert outcome.code == 2
    assert "holds a run with other settings (epochs: 1.0 there, now 2.0)" in outcome.err
    assert trained == []


def test_other_images_are_evaluated_beside_the_old_ones(finished, tmp_path):
    out = smoke_run.copy_of(finished[0], tmp_path / "out")
    flags = ["--methods", "static", "--seeds", "1", *RUNS, "--ood", "none"]
    outcome = command(*flags, "--images", "3", "--out", out)
    assert outcome.code == 0, outcome.err
    folder = out / "runs" / "static-0"
    assert (folder / "corruptions-2" / "timing.json").exists()
    assert "auroc_noise" not in (out / "comparison.json").read_text()


def test_a_damaged_configuration_is_refused(finished, tmp_path):
    out = smoke_run.copy_of(finished[0], tmp_path / "out")
    (out / "runs" / "static-0" / "config.json").write_text("{}")
    outcome = command(*TWO, *FLAGS, "--out", out)
    assert outcome.code == 2
    assert "config.json: damaged" in outcome.err
    assert f"delete {out / 'runs' / 'static-0'} to train it again" in outcome.err


def test_a_damaged_evaluation_is_a_failure_with_advice(finished, tmp_path):
    out = smoke_run.copy_of(finished[0], tmp_path / "out")
    path = out / "runs" / "static-0" / "corruptions" / "results.json"
    path.write_text("{")
    outcome = command(*TWO, *FLAGS, "--out", out, "--seeds", "1")
    assert outcome.code == 1
    assert f"{path}: damaged" in outcome.out
    assert f"delete {path.parent} to evaluate again" in outcome.out


def test_a_broken_method_stops_no_other(finished, tmp_path, monkeypatch):
    out = smoke_run.copy_of(finished[0], tmp_path / "out")

    def broken(self, problem):
        raise ZeroDivisionError("of the method")

    monkeypatch.setattr(SET, "build", broken)
    outcome = command(
        "--methods", "set,deterministic", *FLAGS, "--out", out, "--seeds", "1"
    )
    assert outcome.code == 1
    assert "ZeroDivisionError" in outcome.err  # a defect keeps its traceback
    assert "*** set-0 failed: of the method ***" in outcome.out
    comparison = json.loads((out / "comparison.json").read_text())
    assert list(comparison["methods"]) == ["deterministic"]
    assert comparison["failures"] == {"set-0": "of the method"}


def test_a_signal_saves_and_the_same_command_continues(tmp_path, monkeypatch):
    number = signal.SIGTERM
    flags = ["--methods", "deterministic", "--seeds", "1", *FLAGS, "--out", tmp_path]
    append = run_log.RunLog.append

    def send(self, event):
        append(self, event)
        if event["event"] == "phase" and event["step"] == 10:
            os.kill(os.getpid(), number)

    trained, _ = counted(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(run_log.RunLog, "append", send)
        stopped = command(*flags)
    assert stopped.code == 128 + number
    assert "stopped and saved; continue with the same command" in stopped.out
    assert not (tmp_path / "comparison.json").exists()
    done = command(*flags)
    assert done.code == 0, done.err
    assert "resumed at step 10 of 20" in done.out
    assert trained == [("deterministic-0", 0), ("deterministic-0", 10)]


# Verification -------------------------------------------------------------------------


def test_verify_passes_on_its_own_reference_and_fails_on_another(finished, tmp_path):
    path = tmp_path / "reference.json"
    where = ["--out", finished[0], "--reference", path]
    written = command("--write-reference", *where)
    assert (written.code, written.out) == (0, f"wrote {path}\n")
    passed = command("--verify", *where)
    assert passed.code == 0
    assert "numbers are within their tolerances" in passed.out
    numbers = json.loads(path.read_text())
    numbers["methods"]["static"]["nll"]["value"] += 9
    path.write_text(json.dumps(numbers))
    failed = command("--verify", *where)
    assert failed.code == 1
    assert "1 of 30 numbers are outside" in failed.out
    assert [line for line in failed.out.splitlines() if line.startswith("static")]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--methods", "static,who"], "--methods: got 'who', allowed: all, "),
        ([], "--methods: got '', allowed: all, "),
        (["--methods", "static", "--seeds", "0"], "--seeds: got 0"),
        (["--methods", "static", "--seed", "9"], "--seed: a comparison has several"),
        (["--methods", "static", "--wdith", "1"], "--wdith"),
        (["--methods", "static", "--epochs", "0"], "--epochs: got 0"),
        (["--methods", "static", *FLAGS, "--corruptions-dir", "no"], "no"),
        (["--methods", "static", *FLAGS, "--ood", "no.npz"], "no.npz"),
        (["--methods", "static", *FLAGS, "--batch-size", "9999"], "--batch-size: got"),
        (["--verify"], "comparison.json: cannot be read"),
        (["--verify", "--methods", "static"], "--verify, --write-reference: got"),
        (["--verify", "--epochs", "3"], "got --epochs 3 too"),
    ],
)
def test_bad_input_ends_with_code_2_and_advice(flags, words, tmp_path):
    data = (
        [] if "--dataset" in flags or "--verify" in flags else ["--dataset", "digits"]
    )
    outcome = command(*flags, *data, "--out", tmp_path / "out")
    assert outcome.code == 2, outcome.out
    assert "Traceback" not in outcome.err
    assert words in " ".join(outcome.err.replace("│", " ").split())
