"""A method from outside: one dataclass, which `fit` and the command line use as it is.

Nothing of the package knows of it.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, ClassVar
from unittest import mock

import flax.linen as nn
import jax
import numpy as np
import pytest
import smoke_run

from ssvi_jax import fit, from_flax
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.settings import positive, setting
from ssvi_jax.core.types import Masks
from ssvi_jax.methods import METHODS, Method, register
from ssvi_jax.methods.algorithms import swapping
from ssvi_jax.methods.problem import Problem
from ssvi_jax.vi import masks as masks_lib


@dataclasses.dataclass(frozen=True)
class Toy(Method):
    """Point estimates of every n-th weight."""

    name: ClassVar[str] = "toy"
    fixed: ClassVar[tuple[str, ...]] = ("every",)
    training: ClassVar[Mapping[str, Any]] = {"weight_decay": 0.0}

    every: int = setting(4, positive)
    """n: one of so many of a kernel's weights is there."""

    def build(self, problem: Problem) -> "EveryNth":
        """See `Method.build`."""
        masks = {
            path: np.arange(np.prod(shape)).reshape(shape) % self.every == 0
            for path, shape in problem.shapes.items()
        }
        points, counts = swapping.points(problem), masks_lib.counts(masks)
        return EveryNth(problem, points, counts, sigma_init=None, masks=masks)


@dataclasses.dataclass(frozen=True, eq=False)
class EveryNth(swapping.Swapping):
    """`Swapping` with masks that are given."""

    masks: Masks = dataclasses.field(default_factory=dict)

    def init(self, key, rng):
        """See `problem.Algorithm`."""
        del rng
        masks, problem = self.masks, self.problem
        start = problem.params, problem.model_state, masks
        return self.inference.init(key, *start, sigma_init=None), masks


@pytest.fixture
def registered():
    with mock.patch.dict(METHODS):
        yield register(Toy)


class Net(nn.Module):
    """One hidden layer."""

    @nn.compact
    def __call__(self, x):
        """Maps ``[batch, 2]`` to logits ``[batch, 3]``."""
        return nn.Dense(3)(nn.tanh(nn.Dense(16)(x)))


def blobs(number=300):
    """Three clusters that a line each separates."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, number)
    x = np.eye(3)[labels, :2] * 6 + rng.normal(size=(number, 2))
    return x.astype(np.float32), labels


def test_fit_trains_it_registered_or_not():
    x, y = blobs()
    network = from_flax(Net(), x[:1], key=jax.random.key(0))
    fitted = fit(Toy(every=2), network, (x, y), steps=200, batch_size=50)
    assert (fitted.about["method"], fitted.about["every"]) == ("toy", 2)
    assert fitted.sparsity == 0.5
    losses = [event["loss"] for event in fitted.history]
    assert losses[-1] < 0.3 * losses[0]
    assert fitted.evaluate(x, y)["accuracy"] > 0.9
    for mask in fitted.masks.values():
        np.testing.assert_array_equal(np.diff(np.flatnonzero(mask)), 2)


@pytest.mark.usefixtures("registered")
def test_the_command_line_trains_it_and_knows_its_flags(tmp_path):
    folder, flags = tmp_path / "run", ("--method", "toy", "--no-figures")
    outcome = smoke_run.command(
        *smoke_run.TINY, *flags, "--every", "2", "--epochs", "1", "--out", folder
    )
    assert (outcome.code, outcome.err) == (0, "")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["weights_kept"] == 0.5 * summary["weights_total"]
    assert summary["test"]["mean"]["accuracy"] > 0.3
    config = json.loads((folder / "config.json").read_text())["config"]
    assert (config["method"], config["every"], config["weight_decay"]) == ("toy", 2, 0)
    losses = [event["loss"] for event in smoke_run.events(folder) if "loss" in event]
    assert losses[-1] < losses[0]
    assert "every: got 0, allowed" in smoke_run.refused(*flags, "--every", "0")
    assert "no setting of the method toy" in smoke_run.refused(*flags, "--removal=snr")
    said = smoke_run.refused("--method", "ssvi", "--every", "2")
    assert "--every: no setting of the method ssvi" in said


def test_it_is_known_only_while_it_is_registered():
    before = dict(METHODS)
    with mock.patch.dict(METHODS):
        register(Toy)
        assert METHODS == {**before, "toy": Toy}
        assert smoke_run.tiny_config(method="toy").method == Toy()
    assert METHODS == before
    with pytest.raises(InputError, match="method: got 'toy', allowed: "):
        smoke_run.tiny_config(method="toy")
    assert "--method: got 'toy'" in smoke_run.refused("--method", "toy")
