import json

import numpy as np
import pytest

from ssvi_jax.core.errors import InputError
from ssvi_jax.io import run_files


def test_reads_what_was_written(tmp_path):
    events = [{"event": "phase", "step": 1}, {"event": "epoch", "step": 2}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, events)) + "\n")
    (tmp_path / "summary.json").write_text(json.dumps({"method": "ssvi"}))
    np.savez(tmp_path / "predictions.npz", labels=np.arange(3))
    assert run_files.read_events(tmp_path) == events
    assert run_files.read_summary(str(tmp_path)) == {"method": "ssvi"}
    np.testing.assert_array_equal(
        run_files.read_predictions(tmp_path)["labels"], np.arange(3)
    )


def test_a_run_need_not_predict(tmp_path):
    assert run_files.read_predictions(tmp_path) == {}


@pytest.mark.parametrize("read", [run_files.read_events, run_files.read_summary])
def test_missing_files_are_named(tmp_path, read):
    with pytest.raises(InputError, match=r"(metrics.jsonl|summary.json) is missing"):
        read(tmp_path)


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"event": "phase"}\n{"event": "ph')
    with pytest.raises(InputError, match=r"metrics.jsonl, line 2: not JSON"):
        run_files.read_events(tmp_path)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(InputError, match=r"summary.json: not JSON"):
        run_files.read_summary(tmp_path)


@pytest.mark.parametrize("content", [b"", b"foreign", b"PK\x03\x04 cut off"])
def test_damaged_predictions_are_named(tmp_path, content):
    (tmp_path / "predictions.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"predictions.npz: damaged"):
        run_files.read_predictions(tmp_path)


def test_pickled_predictions_are_refused(tmp_path):
    labels = np.array([{}], dtype=object)
    np.savez(tmp_path / "predictions.npz", labels=labels)
    with pytest.raises(InputError, match=r"predictions.npz: damaged"):
        run_files.read_predictions(tmp_path)
