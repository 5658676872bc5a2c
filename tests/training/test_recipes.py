"""The settings of papers: what a preset of theirs gives, and that flags still win."""

import dataclasses
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import small_data

from ssvi_jax.methods import METHODS
from ssvi_jax.networks.network import ImageNetwork, NetworkSpec
from ssvi_jax.training import cli, presets, recipes, train
from ssvi_jax.training.presets import defaults
from ssvi_jax.training.recipes import RECIPES
from ssvi_jax.training.run_config import Config, names_of

ROOT = Path(__file__).parents[2]
SHAPES = {"mimic3": ((48, 76), 2), "imagenet2012": ((224, 224, 3), 1000)} | {
    name: ((32, 32, 3), classes)
    for name, classes in (("cifar10", 10), ("cifar100", 100))
}


def of(name):
    recipe = RECIPES[name]
    return defaults(name, recipe.dataset, recipe.method)


def values(config):
    """All settings by name, as attributes."""
    return SimpleNamespace(**config.values())


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_one_flag_gives_method_data_and_network(name):
    asked = cli.parse(["--preset", name])
    got = cli.resolve(["--preset", name], preset=name, dataset=asked.data.dataset)
    assert got == of(name)
    found = values(got)
    assert (found.method, found.dataset) == (
        RECIPES[name].method,
        RECIPES[name].dataset,
    )
    assert found.preset == name


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_flags_win_over_a_recipe(name):
    flags = ["--preset", name, "--epochs", "1", "--train-size", "256"]
    flags += ["--method", "deterministic", "--dataset", "digits"]
    asked = values(cli.parse(flags))
    assert (asked.method, asked.dataset) == ("deterministic", "digits")
    got = values(cli.resolve(flags, preset=name, dataset="digits"))
    assert (got.method, got.epochs, got.train_size) == ("deterministic", 1, 256)
    assert got.model == of(name).training.model


def zeros(network, key):
    """Initial parameters without computing any."""
    shapes = jax.eval_shape(partial(_init, network), key)
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


_init = ImageNetwork.init


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_trained_as_a_recipe_says(name, method, monkeypatch):
    """A recipe's training holds for every method; what is its method's own does not."""
    recipe = RECIPES[name]
    config = defaults(name, recipe.dataset, method)
    found, plain = config.values(), Config.of({"method": method}).values()
    kept = METHODS[method].defining()
    for field, value in recipe.training.items():
        if field in names_of(METHODS[method]):
            assert found[field] == kept.get(field, value)
    for field in recipe.own.keys() & names_of(METHODS[method]) - kept.keys():
        expected = recipe.own if method == recipe.method else plain
        assert found[field] == expected[field]
    monkeypatch.setattr(ImageNetwork, "init", zeros)
    images, labels = np.zeros((2000, 8, 8, 1), np.uint8), np.zeros(2000, np.int32)
    data = dataclasses.replace(
        small_data.make(shape=(8, 8, 1)), train_images=images, train_labels=labels
    )
    config = config.with_values(model="mlp", width=1.0)
    problem = dataclasses.replace(train.build_problem(config, data)[1], total_steps=200)
    algorithm = config.method.build(problem)
    assert algorithm.problem is problem


def test_the_wide_resnet_is_that_of_uncertainty_baselines():
    got = values(of("rank1-wrn28-cifar10"))
    assert (got.model, got.width, got.batch_size, got.members) == ("wrn28", 10, 128, 4)
    assert (got.momentum, got.nesterov, got.epochs) == (0.9, True, 250)
    assert (got.member_batch, got.samples, got.kl_scale) == ("tile", 1, 1.0)
    assert (got.fast_prior, got.fast_posterior) == ("gaussian", "gaussian")
    assert (got.fast_init_std, got.fast_sign_probability) == (0, 0.5)
    assert got.kl_warmup * got.epochs == 200
    # 1 epoch of warm-up; 80, 160 and 180 epochs of 200, scaled to 250.
    schedule = of("rank1-wrn28-cifar10").training.optimizer().rate(1000)
    epochs = {0.5: 0.05, 1: 0.1, 99: 0.1, 101: 0.02, 199: 0.02, 201: 4e-3, 226: 8e-4}
    for epoch, rate in epochs.items():
        got_rate = np.asarray(schedule(round(4 * epoch))).item()
        assert got_rate == pytest.approx(rate, rel=1e-4)
    # tf.nn.l2_loss halves, and their code doubles: d/dw (1e-4 w²) = 2e-4 w.
    assert got.weight_decay == 2 * 1e-4


def test_imagenet_is_that_of_uncertainty_baselines():
    got = values(of("rank1-resnet50-imagenet"))
    assert (got.model, got.width, got.members) == ("resnet50", 1.0, 4)
    assert (got.member_batch, got.batch_size) == ("tile", 1024)
    assert (got.learning_rate, got.nesterov, got.epochs) == (
        0.1 * 1024 / 256,
        True,
        135,
    )
    assert (got.fast_init_std, got.fast_sign_probability) == (0, 0.75)
    assert got.fast_prior_scale == 0.05
    assert got.fast_sigma_init == pytest.approx(np.sqrt(1e-3 / (1 - 1e-3)), rel=2e-3)
    assert got.kl_warmup * got.epochs == pytest.approx(90)
    # 5 epochs of warm-up, and falls after 30, 60 and 80, of 90 scaled to 135.
    schedule = of("rank1-resnet50-imagenet").training.optimizer().rate(1350)
    epochs = {3.7: 0.197, 8: 0.4, 44: 0.4, 46: 0.04, 89: 0.04, 91: 4e-3, 121: 4e-4}
    for epoch, rate in epochs.items():
        got_rate = np.asarray(schedule(round(10 * epoch))).item()
        assert got_rate == pytest.approx(rate, rel=1e-2)
    assert got.weight_decay == 2 * 1e-4


def test_the_paper_preset_is_the_recipe_of_its_network():
    for name in ("cifar10", "cifar100"):
        got = of(f"ssvi-resnet18-{name}")
        paper = defaults("paper", name, "ssvi")
        assert got.as_dict() == paper.as_dict() | {"preset": got.run.preset}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_the_network_takes_its_data(name):
    config = of(name)
    shape, classes = SHAPES[config.data.dataset]
    channels = (0.0,) * shape[-1], (1.0,) * shape[-1]
    training = config.training
    spec = NetworkSpec(training.model, training.width, classes, shape, *channels)
    network = ImageNetwork(spec)
    params, state = jax.eval_shape(network.init, jax.random.key(0))
    sizes = sum(leaf.size for leaf in jax.tree.leaves(params))
    expected = {
        "ssvi-resnet18-cifar10": 11_173_962,
        "rank1-wrn28-cifar10": 36_479_194,
        "rank1-resnet50-imagenet": 25_557_032,
    }
    assert sizes == expected.get(name, sizes)
    assert network.layers(params, state)[-1].shape[-1] == classes


def test_every_recipe_is_documented_with_its_command():
    text = (ROOT / "docs" / "recipes.md").read_text()
    named = set(re.findall(r"--preset ([\w-]+)", text))
    assert named >= set(RECIPES)
    assert named <= {*RECIPES, *presets.PRESETS}
    assert recipes.PAPER is presets.PRESETS["paper"]
