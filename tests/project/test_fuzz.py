"""Mutated files and command lines: a clear refusal or a right answer, nothing else.

The long mode (`python -m tests.fuzz.run`) gives the same readers more than 10⁵ inputs.
"""

import importlib.util
import os
import time

import numpy as np
import pytest
from fuzz import guard, mutate, run
from hypothesis import given
from hypothesis import strategies as st

from ssvi_jax.core.errors import InputError

INPUTS = {
    "corruption images (.npy)": 150,
    "corruption labels (.npy)": 150,
    "predict's images (.npy)": 150,
    "images to corrupt (.npy)": 100,
    "labels to corrupt (.npy)": 100,
    "foreign images (.npz)": 150,
    "predictions (.npz)": 100,
    "densities.json": 150,
    "saved config.json": 150,
    "config.json of a comparison": 100,
    "summary.json": 50,
    "metrics.jsonl": 50,
    "metrics.jsonl on resume": 50,
    "results.json of a report": 100,
    "command line of experiments/cifar10.py": 20,
    "command line of experiments/corruptions.py": 20,
    "command line of experiments/methods.py": 20,
    "model file": 150,
    "model file, checksum right": 200,
    "network of a model file, checksum right": 20,
    "model file, runtime": 150,
    "model file, runtime, checksum right": 200,
    "model file, its graph, checksum right": 100,
}
"""Target → inputs in the test below."""


FOUND_TEXT = (
    "f8950a2f316458d0b825ca30f811dbb49dd2c386b3ac34d144ffffffffffffffffffffffffffffff"
    "ffffffffffc6b7"
)


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    guard.install()
    folder = tmp_path_factory.mktemp("fuzz")
    return {target.name: target for target in run.all_targets(folder)}


def test_every_target_is_tried_below(targets):
    assert targets.keys() == INPUTS.keys()


@pytest.mark.parametrize("name", INPUTS)
def test_mutated_inputs_are_refused_or_read_right(targets, name):
    result = run.fuzz(targets[name], seed=1, inputs=INPUTS[name])
    assert result["findings"] == {}
    valid = targets[name].make([])
    assert guard.call(valid.read, valid.size).kind == "accepted"


EDITS = st.lists(
    st.builds(
        mutate.Edit,
        st.integers(0, 1000),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 2**62),
    ),
    min_size=1,
    max_size=4,
)
QUICK = [name for name in INPUTS if INPUTS[name] >= 50]


@given(name=st.sampled_from(QUICK), edits=EDITS)
def test_edits_that_hypothesis_draws(targets, name, edits):
    made = targets[name].make(edits)
    outcome = guard.call(made.read, made.size)
    assert outcome.kind in ("refused", "accepted"), outcome.text


# The guard sees what it is there for --------------------------------------------------


def raising(error):
    def read():
        raise error

    return read


def allocating():
    np.ones(30 << 20)


def running():
    os.system("true")


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (raising(KeyError("x")), "KeyError in test_fuzz.py:read: 'x'"),
        (raising(MemoryError()), "MemoryError in"),
        (raising(RecursionError("deep")), "RecursionError in"),
        (raising(InputError("")), "a refusal of 0 characters"),
        (raising(SystemExit(1)), "exit code 1"),
        (running, "ForbiddenError in"),
    ],
)
def test_findings(targets, read, text):
    outcome = guard.call(read, 100)
    assert outcome.kind == "finding"
    assert outcome.text.startswith(text)


@pytest.mark.skipif(
    not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's memory peaks"
)
def test_memory_beyond_the_limit_is_a_finding(targets):
    guard.reset_peak()
    assert guard.call(lambda: np.ones(2 << 20), 100).kind == "accepted"
    outcome = guard.call(allocating, 100)
    assert outcome.kind == "finding"
    assert outcome.text.endswith("MB, allowed: 64")


def test_a_hang_is_a_finding(targets, monkeypatch):
    monkeypatch.setattr(guard, "LIMIT_SECONDS", 0.05)

    def hang():
        while True:
            time.monotonic()

    outcome = guard.call(hang, 100)
    assert outcome.kind == "finding"
    assert outcome.text.startswith("TimeLimitError in")


def test_refusals_and_answers_are_none(targets):
    assert guard.call(raising(InputError("x: got 1, allowed: 2")), 1).kind == "refused"
    assert guard.call(raising(SystemExit(2)), 1).kind == "refused"
    assert guard.call(lambda: None, 1).kind == "accepted"


def test_inputs_can_be_made_again():
    edits = [run.drawn(3, "model file", number) for number in range(50)]
    assert edits == [run.drawn(3, "model file", number) for number in range(50)]
    assert len({mutate.of_bytes(bytes(range(200)), edit) for edit in edits}) > 40


@pytest.mark.parametrize(
    ("name", "edits"),
    [
        ("config.json of a comparison", FOUND_TEXT),
        ("results.json of a report", "61f4cf9e3e5248eea594c03400006810"),
    ],
)
def test_what_coverage_found_is_refused_in_short(targets, name, edits):
    made = targets[name].make(mutate.from_bytes(bytes.fromhex(edits)))
    outcome = guard.call(made.read, made.size)
    assert outcome.kind == "refused"
    assert len(outcome.text) < 1500


def test_edits_as_bytes():
    edits = mutate.draw(np.random.default_rng(3)) * 3
    found = mutate.from_bytes(mutate.to_bytes(edits) + b"rest")
    for edit, again in zip(edits, found, strict=True):
        assert again.where == pytest.approx(edit.where, abs=1e-9)
        assert (again.kind, again.value) == (edit.kind, edit.value)


@pytest.mark.skipif(not importlib.util.find_spec("atheris"), reason="no atheris")
def test_coverage_guides_inputs(tmp_path):
    result = run.fuzz_guided("densities.json", 0, 300, tmp_path)
    assert (result["inputs"], result["findings"]) == (300, {})
    assert result["accepted"]
    assert result["refused"]
    assert 30 < result["edges"][0] <= result["edges"][1]
