"""Running statistics of what predicts, gathered at the end of a run."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smoke_run

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


@pytest.mark.parametrize("method", ["ssvi", "deterministic", "rank1"])
def test_they_are_those_of_the_images(method):
    problem, progress = begun(method)
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
    trained = smoke_run.tiny_train(tmp_path, method="deterministic", epochs=0.2)
    given: Any = trained.progress
    problem, end, images, _ = given
    assert problem.num_data == len(images)
    assert end.state.model_state == {}
