"""What TensorBoard and Weights & Biases get of a training."""

import struct
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from digits_fits import X, Y, linen, mlp

import ssvi_jax
from ssvi_jax import TensorBoard, WeightsAndBiases
from ssvi_jax.core.errors import InputError


class FakeWandb:
    """What of wandb is used; it keeps what it was given."""

    def __init__(self):
        self.began, self.logged, self.finished = [], [], 0

    def init(self, **options):
        self.began.append(options)
        return SimpleNamespace(log=self.log, finish=self.finish)

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished += 1


def points(folder):
    """Curve → step → value, read from the event file as its format is written down."""
    from tensorboardX.proto import event_pb2

    events: Any = event_pb2

    (file,) = folder.iterdir()
    data, found = file.read_bytes(), {}
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = events.Event.FromString(data[12 : 12 + length])
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = value.simple_value
        data = data[16 + length :]
    return found


def test_both_get_every_phase_as_the_history_has_it(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    x, y = X[:200], Y[:200]
    callbacks = [
        TensorBoard(tmp_path / "board"),
        WeightsAndBiases(project="digits", config={"lr": 1}),
    ]
    fit = ssvi_jax.fit(
        *(ssvi_jax.SSVI(sparsity=0.75), linen(mlp(width=16), x), (x, y)),
        **{"steps": 20, "inner_steps": 10, "batch_size": 40, "validation": 0.2},
        callbacks=callbacks,
    )
    history = {event["step"]: event for event in fit.history}
    assert [*history] == [10, 20]
    curves = points(tmp_path / "board")
    for step, event in history.items():
        assert curves["loss"][step] == pytest.approx(event["loss"])
        nll = event["validation"]["nll"]
        assert curves["validation/nll"][step] == pytest.approx(nll)
        values = dict(wandb.logged)[step]
        assert (values["loss"], values["validation/nll"]) == (event["loss"], nll)
    assert set(curves["iou_first"]) == {20}
    (options,) = wandb.began
    assert options["project"] == "digits"
    assert options["config"]["lr"] == 1
    assert (options["config"]["total_steps"], options["config"]["num_data"]) == (
        20,
        160,
    )
    assert wandb.finished == 1


def test_a_run_of_the_users_own_stays_open():
    wandb = FakeWandb()
    callback = WeightsAndBiases(wandb.init())
    callback.close()
    assert wandb.finished == 0
    with pytest.raises(InputError, match=r"^run: got one and project too"):
        WeightsAndBiases(wandb.init(), project="digits")


@pytest.mark.parametrize(
    ("callback", "package", "extra"),
    [
        (TensorBoard("nowhere"), "tensorboardX", "tensorboard"),
        (WeightsAndBiases(), "wandb", "wandb"),
    ],
)
def test_a_package_that_is_missing_is_named(callback, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    words = rf"needs the package {package}, .* pip install 'ssvi_jax\[{extra}\]'"
    algorithm = SimpleNamespace(estimator="mean", problem=SimpleNamespace())
    for name in ("total_steps", "inner_steps", "batch_size", "num_data", "seed"):
        setattr(algorithm.problem, name, 1)
    with pytest.raises(InputError, match=words):
        callback.begin(SimpleNamespace(algorithm=algorithm), None)
    callback.close()


def test_early_stopping_still_needs_a_validation():
    stopping = [ssvi_jax.EarlyStopping(2), TensorBoard("nowhere")]
    with pytest.raises(InputError, match=r"^callbacks: got EarlyStopping without"):
        ssvi_jax.fit(
            *(ssvi_jax.SSVI(), linen(mlp(), X), (X, Y)), steps=1, callbacks=stopping
        )
