"""The model file: as it is, and with every checksum put right again.

A checksum keeps out accidents, not attackers: behind it every table and every stream
must be checked for itself.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from ssvi_jax import runtime
from ssvi_jax.core.types import Gaussian, Weights
from ssvi_jax.evaluation import contents as evaluation_contents
from ssvi_jax.io import artifact, container, graph, stored_graph
from ssvi_jax.networks import network, trace_graph
from ssvi_jax.networks.network import ImageNetwork, NetworkSpec

from . import mutate
from .mutate import Edit
from .targets import Input, Target, of_file


def small_models(folder: Path) -> list[Path]:
    """Model files of two small networks, one sparse and one dense."""
    spec = NetworkSpec("mlp", 0.02, 3, (2, 2, 1), (0.5,), (0.25,))
    net = ImageNetwork(spec)
    params, state = net.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    kernels = {layer.path: layer.shape for layer in net.layers(params, state)}
    masks = {path: rng.random(shape) < 0.5 for path, shape in kernels.items()}
    posterior = {path: _gaussian(mask, rng) for path, mask in masks.items()}
    rest = _without(params, masks)
    config = dataclasses.asdict(spec)
    paths = [folder / "sparse.ssvi", folder / "dense.ssvi"]
    about = {"run": {"dataset": "digits", "seed": 0}}
    weights = Weights(posterior, rest, state)
    inputs = trace_graph.inputs_of(config)
    made = trace_graph.for_file(net, weights, masks, inputs, half=True, classes=True)
    artifact.save(
        *(paths[0], weights, masks),
        config=config,
        metadata=about,
        half=True,
        graph=made,
    )
    artifact.save(paths[1], Weights({}, params, state), {}, config=config)
    return paths


def _gaussian(mask: np.ndarray, rng: np.random.Generator) -> Gaussian:
    count = int(mask.sum())
    mean = rng.normal(size=count).astype(np.float32)
    return Gaussian(jnp.asarray(mean), jnp.full(count, -7.0))


def _without(params: Any, masks: dict[str, np.ndarray], prefix: str = "") -> Any:
    kept = {}
    for name, value in params.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict):
            kept[name] = _without(value, masks, f"{path}/")
        elif path not in masks:
            kept[name] = value
    return kept


def forge(header: Any, coded: dict[str, bytes]) -> bytes:
    """A file with this header and these streams, and a right checksum."""
    text = json.dumps(header)
    metadata = {"ssvi_jax": text}
    try:
        metadata["sha256"] = container._digest(text, coded)
    except UnicodeEncodeError:  # a lone surrogate, which json.dumps has escaped
        metadata["sha256"] = "none"
    streams = {name: np.frombuffer(data, np.uint8) for name, data in coded.items()}
    return safetensors.numpy.save(streams, metadata)


def check_sound(found: artifact.Artifact) -> None:
    """What must hold of any model file that is accepted."""
    for path, index in found.index.items():
        positions = np.asarray(index)
        size = int(np.prod(found.shapes[path], dtype=object))
        assert (np.diff(positions) > 0).all(), "positions are not ascending"
        assert not len(positions) or 0 <= positions[0] <= positions[-1] < size
        for values in found.weights.posterior[path]:
            assert values.shape == positions.shape, "values do not fit positions"
    for leaf in jax.tree.leaves(found.weights):
        assert np.isfinite(np.asarray(leaf)).all(), "a value that is not finite"


def load_runtime(path: Path) -> None:
    """A model file that the runtime opens predicts probabilities, or refuses."""
    found = runtime.load(path)
    for mode in ("mean", "samples", "moments"):
        x = np.ones((2, *found.input_shape))
        predicted = found.predict(x, samples=2, mode=mode, threads=1)
        np.testing.assert_allclose(predicted.probabilities.sum(-1), 1, atol=1e-4)


def load_graph(path: Path) -> None:
    """The graph of a model file, whose nodes read those before them."""
    found = stored_graph.load(path)
    places = enumerate(found.nodes)
    assert all(0 <= i < place for place, node in places for i in node.inputs)
    assert stored_graph.decode(graph.encode(found)).nodes == found.nodes


def targets(folder: Path) -> list[Target]:
    """Readers of model files."""
    paths = small_models(folder)
    seeds = [path.read_bytes() for path in paths]
    contents = [container.read(path) for path in paths]
    path = folder / "model.ssvi"

    def forged(name: str, inputs: int, read: Any, part: str | None) -> Target:
        def make(edits: Sequence[Edit]) -> Input:
            (header, coded), _ = mutate.chosen(edits, contents)
            header, coded = dict(header), dict(coded)
            if not edits:
                pass
            elif part is not None:
                header[part] = mutate.of_json(header[part], edits)
            elif edits[0].value & 4:
                header = mutate.of_json(header, edits)
            else:
                stream, other = mutate.chosen(edits, sorted(coded))
                coded[stream] = mutate.of_bytes(coded[stream], edits, coded[other])
            data = forge(header, coded)
            path.write_bytes(data)
            return Input(read, len(data))

        return Target(name, inputs, make)

    def load() -> None:
        check_sound(artifact.load(path))
        found = evaluation_contents.read(path)
        assert all(0 <= kept <= math.prod(shape) for _, shape, kept in found.layers)

    def load_network() -> None:
        net, weights, masks = network.load(path)
        check_sound(artifact.load(path))
        assert net.spec.num_classes == 3
        assert all(mask.dtype == bool for mask in masks.values())
        assert weights.posterior.keys() == masks.keys()

    def predict() -> None:
        load_runtime(path)

    if runtime.library_path().exists():
        runtime.load(paths[0])  # loads the library, which no file may do
    return [
        of_file("model file", 15_000, path, seeds, lambda data: load()),
        forged("model file, checksum right", 15_000, load, None),
        forged("network of a model file, checksum right", 1500, load_network, "config"),
        of_file("model file, runtime", 5000, path, seeds[:1], lambda data: predict()),
        forged("model file, runtime, checksum right", 15_000, predict, None),
        forged(
            "model file, its graph, checksum right",
            5000,
            lambda: load_graph(path),
            None,
        ),
    ]
