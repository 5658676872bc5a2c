"""Equal training time: a table of times, and the epochs that it gives."""

import json
from pathlib import Path

import pytest
import smoke_run

from ssvi_jax import data
from ssvi_jax.core.errors import InputError
from ssvi_jax.evaluation.comparison import options, runs, step_times
from ssvi_jax.training.run_config import Config

NAMES = ("static", "deterministic")
IMAGES, BATCH = 1293, 64  # of the digits that train


def configs(out: Path, names=NAMES, *more: str):
    flags = [*smoke_run.TINY, *more]
    found = []
    for seed in (0, 1):
        for name in names:
            places = {"method": name, "seed": seed, "dataset": "digits", "out": out}
            found.append(options.configure(flags, preset="smoke", **places)[0])
    return found


def comparison(out: Path, minutes: float) -> options.Comparison:
    return options.Comparison(",".join(NAMES), out=out, minutes=minutes)


def write(out: Path, **seconds: float) -> None:
    methods = {name: {"step_seconds": value} for name, value in seconds.items()}
    (out / step_times.FILE).write_text(json.dumps({"methods": methods}))


def test_a_method_twice_as_fast_gets_twice_the_steps(tmp_path):
    write(tmp_path, static=0.1, deterministic=0.2)
    digits = data.load("digits")
    found = step_times.in_time(configs(tmp_path), comparison(tmp_path, 0.5), digits)
    steps = [config.training.epochs * (IMAGES // BATCH) for config in found]
    assert steps == pytest.approx([300, 150, 300, 150])
    assert [config.run.seed for config in found] == [0, 0, 1, 1]


def test_what_takes_as_long_needs_no_time_of_its_own(tmp_path):
    write(tmp_path, static=0.1)
    found = step_times.in_time(
        configs(tmp_path),
        comparison(tmp_path, 0.5),
        data.load("digits"),
        as_long_as={"deterministic": "static"},
    )
    assert [c.training.epochs * (IMAGES // BATCH) for c in found] == [300] * 4


def test_fewer_images_have_shorter_epochs(tmp_path):
    write(tmp_path, static=0.1, deterministic=0.2)
    few = configs(tmp_path, NAMES, "--train-size", str(2 * BATCH))
    found = step_times.in_time(few, comparison(tmp_path, 0.5), data.load("digits"))
    assert [config.training.epochs for config in found[:2]] == [150, 75]


def test_runs_of_a_budget_took_the_budget():
    """Whatever else their machine did."""
    values = {"accuracy": 0.9, "train_seconds": 9000.0, "predict_seconds": 1.0}
    outcome = runs.Outcome([runs.Run("rigl", 0, values)], {}, 0)
    (found,) = step_times.as_budgeted(outcome, 30).runs
    assert found == ("rigl", 0, {"accuracy": 0.9, "train_seconds": 1800.0})
    assert values["train_seconds"] == 9000.0


def test_all_methods_are_measured_once(tmp_path):
    digits = data.load("digits")
    said: list[str] = []
    path = tmp_path / "of this machine" / step_times.FILE
    first: dict[str, Config] = dict(zip(NAMES, configs(tmp_path), strict=False))
    measured = step_times.measure(first, digits, notify=said.append)
    assert [line.split(":")[0] for line in said[-2:]] == list(NAMES)
    for name in NAMES:
        found = measured["methods"][name]
        assert len(found["turns"]) == step_times.TURNS
        assert min(found["turns"]) <= found["step_seconds"] <= max(found["turns"])
    assert measured["about"]["instruction_sets"] is not None
    path.parent.mkdir()
    path.write_text(json.dumps(measured))
    again = step_times.read_or_measure(path, first, digits)
    assert again["methods"] == measured["methods"]


def test_times_of_other_methods_are_refused(tmp_path):
    write(tmp_path, static=0.1)
    with pytest.raises(InputError, match=r"there is no time of deterministic; delete"):
        step_times.in_time(
            configs(tmp_path), comparison(tmp_path, 1.0), data.load("digits")
        )


@pytest.mark.parametrize("text", ["", "[]", '{"methods": 3}'])
def test_damaged_times_are_refused(tmp_path, text):
    (tmp_path / step_times.FILE).write_text(text)
    with pytest.raises(InputError, match="damaged"):
        step_times.in_time(
            configs(tmp_path), comparison(tmp_path, 1.0), data.load("digits")
        )


@pytest.mark.parametrize("minutes", [-1.0, float("nan"), float("inf")])
def test_minutes_are_checked(minutes):
    with pytest.raises(InputError, match=r"^--minutes: got"):
        options.Comparison(minutes=minutes)
