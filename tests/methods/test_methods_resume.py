"""The methods besides SSVI resume bit for bit, also where a training prunes."""

import signal

import numpy as np
import pytest
import smoke_run
from method_runs import run, summary_of
from signals import signal_at


@pytest.mark.parametrize(
    ("method", "stop"),
    [
        ("rigl", 30),
        ("masked_bnn", 30),
        ("ssvi_ivon", 50),
        ("magnitude", 40),  # the pruning is the next thing to do
        ("magnitude", 50),  # pruned
        pytest.param("svd", 70, marks=pytest.mark.slow),
    ],
)
def test_resumes_bit_for_bit(method, stop, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        signal_at(patch, stop, signal.SIGTERM)
        stopped = smoke_run.tiny_train(tmp_path, method=method)
    assert (stopped.signal, stopped.step) == (signal.SIGTERM, stop)
    resumed = smoke_run.tiny_train(tmp_path, method=method, resume=True)
    assert resumed.step == summary_of(method)["step"]
    assert smoke_run.events(tmp_path) == smoke_run.events(run(method)[0])
    np.testing.assert_array_equal(
        smoke_run.checkpoint_bytes(tmp_path), smoke_run.checkpoint_bytes(run(method)[0])
    )


@pytest.mark.parametrize("method", ["set", "static", "mc_dropout"])
def test_resumes_as_if_it_had_not_stopped(method, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    smoke_run.tiny_train(whole, method=method)
    with monkeypatch.context() as patch:
        signal_at(patch, 30, signal.SIGTERM)
        assert smoke_run.tiny_train(parts, method=method).step == 30
    smoke_run.tiny_train(parts, method=method, resume=True)
    assert smoke_run.events(parts) == smoke_run.events(whole)
    np.testing.assert_array_equal(
        smoke_run.checkpoint_bytes(parts), smoke_run.checkpoint_bytes(whole)
    )
