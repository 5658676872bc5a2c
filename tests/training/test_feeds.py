"""Training on a stream: the same bits as from memory, in chunks, and when resumed."""

import dataclasses
import signal
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import small_imagenet
import smoke_run

from ssvi_jax import data
from ssvi_jax.core.errors import InputError
from ssvi_jax.data.batches import batch_indices
from ssvi_jax.io import run_log
from ssvi_jax.methods import METHODS
from ssvi_jax.training import feeds, presets, saving, train
from ssvi_jax.vi.devices import Devices

BATCH_BYTES = 8 * small_imagenet.SIZE**2 * 3
SMALL = {
    "method": "rigl",
    "model": "mlp",
    "width": 0.05,
    "batch_size": 8,
    "inner_steps": 6,
    "epochs": 3,
    "train_size": 32,
    "figures": False,
}
"""Two phases of six steps, of four batches an epoch; a swap between them."""


@pytest.fixture(autouse=True)
def small_images(monkeypatch):
    small_imagenet.shrink(monkeypatch)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    small_imagenet.write(root)
    return root


def config(**changes):
    values = {**SMALL, **changes}
    base = presets.defaults("smoke", "imagenet2012", values["method"])
    return base.with_values(**values)


def run(folder, dataset, **changes):
    return train.train(config(**changes), dataset, run_log.RunLog(folder))


def same(ours, theirs):
    """Whether two run folders hold the same run, bit for bit."""
    assert smoke_run.events(ours) == smoke_run.events(theirs)
    np.testing.assert_array_equal(
        smoke_run.checkpoint_bytes(ours), smoke_run.checkpoint_bytes(theirs)
    )


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    """An uninterrupted run, in chunks of one phase."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        small_imagenet.shrink(patch)
        run(folder, data.load("imagenet2012", root))
    return folder


@pytest.mark.parametrize(
    ("budget", "steps"), [(1, 1), (2, 2), (3.9, 3), (5, 3), (6, 6), (1e4, 6)]
)
def test_a_chunk_fits_its_budget_and_divides_a_phase(monkeypatch, budget, steps):
    monkeypatch.setattr(feeds, "CHUNK_BYTES", int(budget * BATCH_BYTES))
    assert feeds.steps_of_a_chunk(6, BATCH_BYTES) == steps
    monkeypatch.setattr(feeds, "CHUNK_BYTES", 1)
    assert feeds.steps_of_a_chunk(6, BATCH_BYTES) == 1  # a batch is the least


def test_chunks_are_the_bits_of_a_whole_phase(root, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(feeds, "CHUNK_BYTES", 2 * BATCH_BYTES)
    run(tmp_path, data.load("imagenet2012", root))
    same(tmp_path, whole)


def in_memory(dataset):
    """The same set with the crops of epoch 0 in memory."""
    images, own = dataset.train_images, {}
    for name in ("val_images", "test_images"):
        lazily = getattr(dataset, name)
        own[name] = lazily[np.arange(len(lazily))]
    for name in ("train_labels", "val_labels", "test_labels"):
        own[name] = np.asarray(getattr(dataset, name))
    crops, _ = images.records.batch(images.rows, seed=0, epoch=0)
    return dataclasses.replace(dataset, train_images=crops, **own)


def test_a_stream_is_what_it_would_be_in_memory(root, tmp_path):
    """For one epoch; in the next one a stream crops anew."""
    dataset = data.load("imagenet2012", root)
    once = {"epochs": 1, "inner_steps": 2}
    for name, own in (("stream", dataset), ("memory", in_memory(dataset))):
        run(tmp_path / name, own, **once)
    same(tmp_path / "stream", tmp_path / "memory")


def test_a_resumed_run_is_an_uninterrupted_one(root, whole, tmp_path, monkeypatch):
    """It stops in the middle of an epoch, with images read ahead that are lost."""
    monkeypatch.setattr(feeds, "CHUNK_BYTES", BATCH_BYTES)
    dataset, append = data.load("imagenet2012", root), run_log.RunLog.append

    def stop(self, event):
        append(self, event)
        if event["event"] == "phase":
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(run_log.RunLog, "append", stop)
        assert run(tmp_path, dataset).step == 6
    assert run(tmp_path, dataset, resume=True).step == 12
    same(tmp_path, whole)


def test_a_damaged_record_ends_training_and_nothing_saved_is_lost(
    root, tmp_path, monkeypatch
):
    """The third phase needs it; the set is mended, and the run goes on."""
    monkeypatch.setattr(saving, "CHECKPOINT_SECONDS", 0.0)
    flags = ["--preset", "rank1-resnet50-imagenet", "--method", "deterministic"]
    flags += ["--model", "mlp", "--width", ".05", "--epochs", "2", "--no-figures"]
    flags += ["--train-size", "40", "--batch-size", "8", "--inner-steps", "2"]
    images = data.load("imagenet2012", root).train_images
    rows = batch_indices(0, 6, num_examples=40, batch_size=8, seed=0)
    bad = getattr(images, "rows")[rows[4, 3]]  # noqa: B009 (unknown to pyright)
    elsewhere = small_imagenet.damage(root, tmp_path / "bad", int(bad))
    out = tmp_path / "run"
    message = smoke_run.refused(*flags, "--data-dir", elsewhere, "--out", out)
    assert f"record {bad} of train: " in message
    assert "5.1.0 is incomplete or damaged" in message
    assert [event["step"] for event in smoke_run.events(out)] == [2, 4]
    flags += ["--data-dir", root, "--out"]
    resumed = smoke_run.command(*flags, out, "--resume")
    assert (resumed.code, resumed.err) == (0, "")
    assert "resumed at step 4 of" in resumed.out
    assert smoke_run.command(*flags, tmp_path / "whole").code == 0
    same(out, tmp_path / "whole")
    assert "deterministic | mlp | imagenet2012 | xla" in resumed.out
    with np.load(out / "predictions.npz", allow_pickle=False) as saved:
        assert saved["labels"].tolist() == list(range(6))
        assert saved["mean_probs"].shape == (6, 1000)


def test_what_cannot_be_streamed_is_refused(root, tmp_path):
    dataset = data.load("imagenet2012", root)
    copies = [name for name, method in METHODS.items() if method().structure.copies]
    assert sorted(copies) == [
        *("ensemble", "ssvi_ensemble", "ssvi_ivon_ensemble", "ssvi_ivon_mixture"),
        "ssvi_mixture",
    ]
    for method in copies:
        with pytest.raises(InputError, match="method: got an ensemble with data that"):
            run(tmp_path / "run", dataset, method=method, members=2)
    with pytest.raises(InputError, match=r"^batch_size: got 33, allowed: 1 to 32"):
        run(tmp_path / "run", dataset, batch_size=33)
    with pytest.raises(InputError, match="no imagenet2012/; put the archives"):
        data.load("imagenet2012", tmp_path)


@dataclasses.dataclass
class Device:
    """What is asked of a device."""

    process_index: int


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize(("processes", "each"), [(1, 1), (1, 4), (4, 1), (2, 2)])
def test_processes_share_a_batch(monkeypatch, processes, each, parts):
    """Every device has its part of each part of the batch."""
    devices = Devices(1)
    line = [Device(process) for process in range(processes) for _ in range(each)]
    devices.mesh = SimpleNamespace(devices=line, size=len(line))  # type: ignore[assignment]
    found = []
    for process in range(processes):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        own = devices.columns(24, parts).reshape(each, parts, -1)
        found.extend(own)
    expected = np.arange(24).reshape(parts, len(line), -1)
    np.testing.assert_array_equal(np.swapaxes(found, 0, 1), expected)
    if len(line) > 1:
        with pytest.raises(InputError, match=r"^batch_size: got 25"):
            devices.columns(25)
