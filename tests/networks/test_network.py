import dataclasses
import json

import jax
import numpy as np
import pytest
import smoke_run

from ssvi_jax import data
from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError
from ssvi_jax.io import artifact
from ssvi_jax.networks import models, network
from ssvi_jax.networks.adapters import LinenModel
from ssvi_jax.networks.network import ImageNetwork, NetworkSpec
from ssvi_jax.training import train

SPEC = NetworkSpec("mlp", 0.25, 10, (8, 8, 1), (0.3,), (0.4,))


@pytest.fixture(scope="module")
def smoke():
    return smoke_run.smoke()


def test_a_description_survives_json():
    text = json.dumps(dataclasses.asdict(SPEC))
    assert NetworkSpec.from_json(json.loads(text)) == SPEC


@pytest.mark.parametrize(
    "damage",
    [{"model": None}, {"input_shape": [8, 8, 1, 1]}, {"width": "wide"}, {"mean": 3}],
)
def test_a_wrong_description_is_shown(damage):
    values = dataclasses.asdict(SPEC) | damage
    values = {name: value for name, value in values.items() if value is not None}
    with pytest.raises(InputError, match=r"network: got .*needed: the fields of"):
        NetworkSpec.from_json(values)


def test_pixels_are_normalized_before_the_model():
    net = ImageNetwork(SPEC)
    params, state = net.init(jax.random.key(0))
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    logits, _ = net(
        params, state, jax.numpy.asarray(images), train=False, key=jax.random.key(0)
    )
    x = ((images / 255 - 0.3) / 0.4).reshape(5, 64)
    for name in ("dense1", "dense2"):
        layer = params[name]
        x = np.maximum(x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]), 0)
    expected = x @ np.asarray(params["linear"]["kernel"])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_series_are_normalized_as_they_come():
    spec = NetworkSpec("mlp", 0.25, 2, (4, 2), (1.0, -3.0), (2.0, 0.5), pixels=False)
    plain = LinenModel(models.build("mlp", num_classes=2, width=0.25))
    net = ImageNetwork(spec)
    params, state = net.init(jax.random.key(0))
    x = np.random.default_rng(0).normal(size=(5, 4, 2)).astype(np.float32)
    options = {"train": False, "key": jax.random.key(0)}
    logits, _ = net(params, state, jax.numpy.asarray(x), **options)
    scaled = ((x - [1.0, -3.0]) / [2.0, 0.5]).astype(np.float32)
    expected, _ = plain(params, state, jax.numpy.asarray(scaled), **options)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert NetworkSpec.from_json(json.loads(json.dumps(dataclasses.asdict(spec)))) == (
        spec
    )


def test_files_of_earlier_versions_are_of_images():
    values = dataclasses.asdict(SPEC)
    values["image_shape"] = values.pop("input_shape")
    del values["pixels"]
    assert NetworkSpec.from_json(values) == SPEC


@pytest.mark.parametrize("model", ["convnet", "resnet18", "wrn28"])
def test_a_model_of_images_is_refused_for_series(model):
    words = f"model: got {model}, allowed for series: lstm, mlp"
    with pytest.raises(InputError, match=words):
        dataclasses.replace(SPEC, model=model, input_shape=(48, 76))


def test_layers_are_in_the_order_they_run():
    net = ImageNetwork(dataclasses.replace(SPEC, model="convnet"))
    layers = net.layers(*jax.eval_shape(net.init, jax.random.key(0)))
    assert len(layers[0].shape) == 4
    assert layers[0].shape[2] == 1
    assert layers[0].positions == 64
    assert len(layers[-1].shape) == 2
    assert layers[-1].positions == 1


def test_the_network_of_a_configuration_knows_its_data():
    digits = data.load("digits")
    spec = train.build_problem(smoke_run.tiny_config(), digits)[0].spec
    assert spec.input_shape == (8, 8, 1)
    assert spec.num_classes == 10
    np.testing.assert_allclose(spec.mean, digits.train_images.mean() / 255, rtol=1e-5)
    np.testing.assert_allclose(spec.std, digits.train_images.std() / 255, rtol=1e-5)


def test_a_model_file_gives_back_what_was_trained(smoke):
    net, weights, masks = network.load(smoke.folder / "model.ssvi")
    assert net.spec.model == "mlp"
    run = artifact.load(smoke.folder / "model.ssvi").metadata["run"]
    assert (run["sparsity"], run["epochs"]) == (0.95, 4)
    assert not {"out", "data_dir"} & run.keys()  # no paths of the machine
    summary = json.loads((smoke.folder / "summary.json").read_text())
    phase = summary["step"] // 10 - 1  # the best epoch's
    assert masks.keys() == smoke.masks[phase].keys()
    for path, mask in masks.items():
        np.testing.assert_array_equal(mask, smoke.masks[phase][path])
        mean = smoke.weights[phase].posterior[path].mean
        np.testing.assert_allclose(weights.posterior[path].mean, mean, 2e-3, 1e-6)
    biases = trees.flatten(smoke.weights[phase].params)
    for path, leaf in trees.flatten(weights.params).items():
        np.testing.assert_allclose(leaf, biases[path], 2e-3, 1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 0.5}, "not those of mlp at width 0.5"),
        ({"num_classes": 7}, "not those of mlp"),
        ({"input_shape": [8, 4, 1]}, "not those of mlp"),
        ({"input_shape": [8, 8, 3]}, "a finite number for each of 3 channels"),
        ({"input_shape": [8, -8, 1]}, "input_shape: got -8"),
        ({"input_shape": [8, 0, 1]}, "input_shape: got 0"),
        ({"input_shape": [8, 8, 2**40]}, "a whole number up to 2147483647"),
        ({"input_shape": [8.0, 8, 1]}, "a whole number"),
        ({"input_shape": 3}, "needed: the fields of NetworkSpec"),
        ({"num_classes": True}, "got True, allowed: a whole number"),
        ({"num_classes": -1}, "num_classes: got -1"),
        ({"width": 10**400}, "needed: the fields of NetworkSpec"),
        ({"width": 1e300}, "not those of mlp at width 1e"),
        ({"model": "convnet", "input_shape": [1, 1, 1]}, "not those of|no network"),
        ({"copies": 2**31}, "a whole number"),
        ({"model": "x" * 30_000}, "model: got 'xxx"),
        ({"model": "convnet"}, "not those of convnet"),
        ({"model": "other"}, "model: got 'other', allowed: airbench, convnet, lstm"),
        ({"std": None}, "needed: the fields of NetworkSpec"),
    ],
)
def test_weights_that_do_not_fit_their_network(smoke, tmp_path, change, words):
    file = artifact.load(smoke.folder / "model.ssvi")
    spec = {k: v for k, v in (file.config | change).items() if v is not None}
    artifact.save(tmp_path / "m.ssvi", file.weights, file.masks(), config=spec)
    with pytest.raises(InputError, match=words):
        network.load(tmp_path / "m.ssvi")


def test_a_file_that_is_no_model(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        network.load(tmp_path / "missing.ssvi")
    (tmp_path / "text.ssvi").write_text("hello")
    with pytest.raises(InputError, match="not a whole model file"):
        network.load(tmp_path / "text.ssvi")


def test_the_file_of_a_network_of_the_users_own_says_so(smoke, tmp_path):
    file, path = artifact.load(smoke.folder / "model.ssvi"), tmp_path / "own.ssvi"
    artifact.save(path, file.weights, file.masks(), config={"kind": "flax"})
    with pytest.raises(InputError, match=r"own\.ssvi: holds .*module\)\.predict\(x\)"):
        network.load(path)
