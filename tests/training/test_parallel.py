"""Training on several devices against training on one."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import smoke_run
import traffic
from eight_devices import ENVIRONMENT

from ssvi_jax.core.errors import InputError
from ssvi_jax.ops import custom_calls
from ssvi_jax.vi import devices, execution
from ssvi_jax.vi.devices import Devices
from ssvi_jax.vi.execution import Execution


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """What parallel_run.py saves."""
    out = tmp_path_factory.mktemp("parallel") / "out.npz"
    script = Path(__file__).parents[1] / "helpers/parallel_run.py"
    done = subprocess.run(
        [sys.executable, str(script), str(out)],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(out) as arrays:
        return dict(arrays)


def of(saved, case, number):
    start = f"{case}|{number}|"
    return {k.removeprefix(start): v for k, v in saved.items() if k.startswith(start)}


@pytest.mark.parametrize(
    ("case", "number"),
    [("local_reparam", 8), ("flipout", 2), ("sparse", 8)],
)
def test_numbers_are_those_of_one_device(saved, case, number):
    if case == "sparse" and not custom_calls.available():
        pytest.skip(custom_calls.why_not())
    one, several = of(saved, case, 1), of(saved, case, number)
    assert one.keys() == several.keys()
    assert one["['traces']['loss']"].shape == (3,)
    for path, expected in one.items():
        np.testing.assert_allclose(
            several[path], expected, rtol=1e-3, atol=1e-4, err_msg=path
        )


def test_devices_that_get_their_own_examples_only_give_the_same_bits(saved):
    whole, own = of(saved, "flipout", 2), of(saved, "streamed", 2)
    assert whole.keys() == own.keys() != set()
    for path, expected in whole.items():
        np.testing.assert_array_equal(own[path], expected, err_msg=path)


@pytest.mark.parametrize(("case", "per_weight"), [("ssvi", 2), ("points", 1)])
def test_only_packed_gradients_cross_the_wire(saved, case, per_weight):
    step, growth, weights = saved[f"bytes {case}"]
    dense = 4 * weights * per_weight
    # Of the kept weights, and of whatever is dense; batch norm and metrics are small.
    assert 0.05 * dense < step <= 0.07 * dense
    assert 4 * weights <= growth <= 4.1 * weights


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "  %x = f32[3,4]{1,0} all-reduce(%y), channel_id=1, to_apply=%add",
            [("all-reduce", 48)],
        ),
        (
            "  ROOT %x = (f32[2]{0}, bf16[3,1]{1,0:T(8)}) all-reduce-start(%y, %z)",
            [("all-reduce", 14)],
        ),
        ("  x = pred[5]{0} all-gather(y), dimensions={0}", [("all-gather", 5)]),
        ("  x = s64[] collective-permute(y)", [("collective-permute", 8)]),
        ("  x = f32[3]{0} add(all-reduce, y)", []),
        ("  %all-reduce.1 = f32[3]{0} copy(%all-reduce.2)", []),
        ("  x = f32[3]{0} all-reduce-done(all-reduce-start.2)", []),
    ],
)
def test_messages_of_a_program(line, expected):
    assert traffic.messages(line) == expected
    twice = f"HloModule m\n{line}\n  y = f32[] add(x, x)\n{line}\n"
    assert traffic.message_bytes(twice) == 2 * sum(number for _, number in expected)


def test_a_line_of_more_devices_than_there_are_is_refused():
    words = r"^devices: got 2, allowed: 0 to 1, .* XLA_"
    with pytest.raises(InputError, match=words):
        Devices(2)
    assert Devices(0).mesh.size == Devices(1).mesh.size == 1
    with pytest.raises(InputError, match=words):
        smoke_run.tiny_algorithm(devices=2)


@pytest.mark.parametrize("number", [0, 1])
def test_one_device_is_no_line(number):
    assert Execution(devices=number).line is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"devices": -1}, "devices: got -1, allowed: 0 or more"),
        ({"accumulate": 0}, "accumulate: got 0, allowed: a finite number above 0"),
        ({"backend": "tpu"}, "backend: got 'tpu', allowed: auto, sparse, xla"),
    ],
)
def test_an_execution_that_is_none_is_refused(values, words):
    with pytest.raises(InputError, match=words):
        Execution(**values)


def of_size(monkeypatch, size):
    def mesh(*args):
        return SimpleNamespace(size=size, local_devices=[])

    monkeypatch.setattr(devices, "Mesh", mesh)
    monkeypatch.setattr(execution, "_line", lambda number: Devices(1))


def test_a_batch_that_devices_cannot_share_is_refused(monkeypatch):
    of_size(monkeypatch, 3)
    words = r"^batch_size: got 64 for 3 .* multiple of 3"
    for method in ("ssvi", "deterministic", "magnitude"):
        with pytest.raises(InputError, match=words):
            smoke_run.tiny_algorithm(method=method, devices=3, batch_size=64)


def test_parts_of_a_batch_that_devices_cannot_share_are_refused(monkeypatch):
    of_size(monkeypatch, 4)
    message = r"^batch_size: got 72 for 4 devices and 8 parts \(accumulate\), .* of 32"
    with pytest.raises(InputError, match=message):
        smoke_run.tiny_algorithm(devices=4, batch_size=72, accumulate=8)
