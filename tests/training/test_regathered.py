"""Running statistics of what predicts, gathered at the end of a run."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smoke_run

from ssvi_jax import data
from ssvi_jax.networks import whitening
from ssvi_jax.networks.models import mlp
from ssvi_jax.training import train
from ssvi_jax.training.callbacks import Progress
from ssvi_jax.training.train import regathered

X = np.random.default_rng(0).integers(0, 17, (40, 8, 8, 1)).astype(np.uint8)
KEY = jax.random.key(0)


def begun(method, **changes):
    built = smoke_run.tiny_algorithm(
        method=method, model="airbench", width=0.1, **changes
    )
    state, masks = built.init(KEY, np.random.default_rng(0))
    return built.problem, Progress(state, masks, masks)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("ssvi", {}),
        ("deterministic", {}),
        ("rank1", {"members": 3, "batch_size": 60}),
    ],
)
def test_they_are_those_of_the_images(method, changes):
    problem, progress = begun(method, **changes)
    found = regathered(problem, progress, X, KEY)
    old, new = progress.state.model_state, found.state.model_state
    assert jax.tree.structure(old) == jax.tree.structure(new)
    for path, leaf in jax.tree_util.tree_leaves_with_path(new):
        assert np.isfinite(leaf).all()
        assert not np.allclose(leaf, 1.0 if "var" in str(path) else 0.0)


def test_every_copy_has_its_own():
    problem, progress = begun("ssvi_ensemble", members=2)
    found = regathered(problem, progress, X, KEY).state.model_state
    old = progress.state.model_state
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, old)
    first, second = found["batch_stats"]["bn1"]["mean"]
    assert not np.allclose(first, second)


def test_a_run_leaves_them(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "regathered", lambda *given: given)
    monkeypatch.setattr(mlp.MLP, "fast_statistics", True, raising=False)
    trained = smoke_run.tiny_train(
        tmp_path, method="deterministic", epochs=1, train_size=200
    )
    given: Any = trained.progress
    problem, end, images, _ = given
    assert problem.num_data == len(images) == 200
    assert end.state.model_state == {}


def test_whitening_sees_no_more_images_than_the_training():
    whole = data.load("digits")
    images = whole.train_images.copy()
    images[200:] = 0
    filters = [
        smoke_run.problem_of(
            smoke_run.tiny_config(model="airbench", width=0.1, train_size=200), given
        )[1].model_state[whitening.FILTERS]
        for given in (whole, dataclasses.replace(whole, train_images=images))
    ]
    assert all(map(np.array_equal, *map(jax.tree.leaves, filters)))
