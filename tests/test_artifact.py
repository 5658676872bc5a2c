"""Model files: exact or close, small, and refused unless whole."""

import contextlib
import json
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ssvi_jax import artifact, container
from ssvi_jax.errors import InputError
from ssvi_jax.types import Gaussian, Weights

CONFIG = {"name": "convnet", "width": 0.25, "num_classes": 10, "image": [32, 32, 3]}


def weights_for(masks, rng, params=None, model_state=None) -> Weights:
    """A posterior like a trained one: σ about 6e-4, means about 0.05."""
    posterior = {}
    for path, mask in masks.items():
        count = int(mask.sum())
        sigma = np.abs(rng.normal(6e-4, 5e-4, count)) + 1e-6
        posterior[path] = Gaussian(
            jnp.asarray(0.05 * rng.normal(size=count), jnp.float32),
            jnp.asarray(np.log(np.expm1(sigma)), jnp.float32),
        )
    return Weights(posterior, params or {}, model_state or {})


@pytest.fixture
def model():
    rng = np.random.default_rng(0)
    masks = {
        "conv/kernel": rng.random((3, 3, 8, 16)) < 0.1,
        "stem/kernel": np.ones((3, 3, 1, 8), bool),
        "dense/kernel": rng.random((64, 10)) < 0.8,
    }
    params = {
        "conv": {"bias": rng.normal(size=16).astype(np.float32)},
        "norm": {"scale": jnp.ones(16), "steps": np.array(7, np.int64)},
    }
    model_state = {
        "norm": {
            "mean": rng.normal(size=16).astype(np.float32),
            "var": np.array([1e-12, 1e6, *rng.random(14)], np.float32),
        }
    }
    return weights_for(masks, rng, params, model_state), masks


def assert_equal(got, want) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_single_precision_is_lossless(model, tmp_path):
    weights, masks = model
    metadata = {"dataset": "digits", "test": {"accuracy": 1 / 3}}
    path = tmp_path / "model.ssvi"
    artifact.save(path, weights, masks, config=CONFIG, metadata=metadata)
    got = artifact.load(path)
    assert_equal(got.weights, weights)
    assert_equal(got.masks(), masks)
    for name, mask in masks.items():
        assert got.index[name].dtype == jnp.int32
        np.testing.assert_array_equal(got.index[name], np.flatnonzero(mask))
        assert got.shapes[name] == mask.shape
    assert (got.config, got.metadata, got.half) == (CONFIG, metadata, False)
    assert os.listdir(tmp_path) == ["model.ssvi"]


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(
    hnp.arrays(np.float32, st.integers(1, 30), elements=FLOATS),
    hnp.arrays(bool, hnp.array_shapes(max_dims=4, max_side=5)),
    st.booleans(),
)
def test_any_values_and_masks_come_back(tmp_path_factory, values, mask, half):
    """Single precision: every bit. Half: within the documented bounds."""
    mean = jnp.array(np.resize(values, mask.sum()))
    weights = Weights({"k": Gaussian(mean, -mean)}, {"b": values}, {"var": values})
    path = tmp_path_factory.mktemp("any") / "model.ssvi"
    artifact.save(path, weights, {"k": mask}, config={}, half=half)
    got = artifact.load(path)
    assert_equal(got.masks(), {"k": mask})
    assert_equal(got.weights.model_state, weights.model_state)
    if not half:
        assert_equal(got.weights, weights)
    pairs = zip(jax.tree.leaves(got.weights), jax.tree.leaves(weights), strict=True)
    for a, b in pairs:
        a, b = np.float64(a), np.float64(b)
        assert np.all(np.abs(a - b) <= np.maximum(np.abs(b) / 2048, 2.0**-25))
        assert np.linalg.norm(a - b) <= 2.0**-10 * np.linalg.norm(b)


@pytest.mark.parametrize("sigma", [3.0, 1e-2, 6e-4, 1e-6, 1e-9])
def test_half_precision_keeps_small_standard_deviations(tmp_path, sigma):
    sigmas = sigma * np.linspace(0.5, 2, 1000)
    rho = jnp.array(np.log(np.expm1(sigmas)), jnp.float32)
    weights = Weights({"k": Gaussian(rho, rho)}, {}, {})
    path = tmp_path / "model.ssvi"
    artifact.save(path, weights, {"k": np.ones(1000, bool)}, config={}, half=True)
    got = np.logaddexp(0, np.float64(artifact.load(path).weights.posterior["k"].rho))
    bound = np.maximum(np.abs(rho), 1) / 2048 + 1e-5
    assert np.all(np.abs(got / sigmas - 1) <= bound)
    assert np.max(np.abs(got / sigmas - 1)) > 1e-5


def test_half_precision_is_smaller_and_spares_what_it_would_harm(model, tmp_path):
    weights, masks = model
    weights.params["norm"]["large"] = np.full(16, 1e5, np.float32)
    weights.params["norm"]["small"] = np.full(16, 1e-8, np.float32)
    path = tmp_path / "model.ssvi"
    single = artifact.save(path, weights, masks, config=CONFIG)
    half = artifact.save(path, weights, masks, config=CONFIG, half=True)
    got = artifact.load(path)
    assert half["mean"] + half["rho"] < 0.6 * (single["mean"] + single["rho"])
    assert half["file"] < single["file"]
    assert_equal(got.weights.model_state, weights.model_state)
    for name in ("large", "small", "steps"):
        assert_equal(got.weights.params["norm"][name], weights.params["norm"][name])
    assert got.half


@pytest.mark.parametrize("posterior", [True, False])
def test_dense_networks(tmp_path, posterior):
    """Dense VI stores no positions; a deterministic network has no posterior."""
    rng = np.random.default_rng(0)
    masks = {"conv/kernel": np.ones((3, 3, 16, 32), bool)} if posterior else {}
    kernel = (0.05 * rng.normal(size=(64, 64))).astype(np.float32)
    weights = weights_for(masks, rng, {"dense": {"kernel": kernel}})
    path = tmp_path / "model.ssvi"
    sizes = artifact.save(path, weights, masks, config=CONFIG)
    assert_equal(artifact.load(path).weights, weights)
    assert sizes["positions"] == 2
    assert sizes["kept"] == sizes["weights"] == (4608 if posterior else 0)
    assert sizes["dense_vi_file"] == 8 * sizes["weights"] + kernel.nbytes


def resnet18_shapes() -> dict[str, tuple[int, ...]]:
    shapes, width = {"stem/kernel": (3, 3, 3, 64)}, 64
    for stage, new in enumerate((64, 128, 256, 512)):
        for block in range(2):
            name = f"stage{stage}/block{block}"
            shapes[f"{name}/conv1/kernel"] = (3, 3, width, new)
            shapes[f"{name}/conv2/kernel"] = (3, 3, new, new)
            if new != width:
                shapes[f"{name}/shortcut/kernel"] = (1, 1, width, new)
            width = new
    return shapes | {"head/kernel": (512, 10)}


@pytest.mark.parametrize(("half", "times_smaller"), [(False, 21), (True, 40)])
def test_resnet18_at_95_percent(tmp_path, half, times_smaller):
    rng = np.random.default_rng(0)
    shapes = resnet18_shapes()
    masks = {path: rng.random(shape) < 0.05 for path, shape in shapes.items()}
    masks["stem/kernel"][:] = True
    widths = [shape[-1] for path, shape in shapes.items() if path != "head/kernel"]
    params, model_state = (
        {
            f"norm{i}": {n: rng.random(width).astype(np.float32) for n in names}
            for i, width in enumerate(widths)
        }
        for names in (("scale", "bias"), ("mean", "var"))
    )
    weights = weights_for(masks, rng, params, model_state)
    path = tmp_path / "model.ssvi"
    sizes = artifact.save(path, weights, masks, config=CONFIG, half=half)
    kept, rest = sizes["kept"], 4 * 4 * sum(widths)
    assert sizes["weights"] == 11_164_352
    assert kept == sum(int(mask.sum()) for mask in masks.values())
    assert sizes["file"] == path.stat().st_size
    assert sizes["dense_vi_file"] == 8 * 11_164_352 + rest
    assert sizes["times_smaller"] == sizes["dense_vi_file"] / sizes["file"]
    assert sizes["times_smaller"] > times_smaller
    bound = sizes["bits_per_position_bound"]
    assert bound <= sizes["bits_per_position"] <= 1.01 * bound
    # Coding never costs: bytes of the values, positions at their entropy, the header.
    values = kept * (4 if half else 8) + rest
    assert sizes["file"] <= values + 1.01 * bound / 8 * kept + sizes["header"]
    assert sizes["header"] < 10_000
    parts = ("mean", "rho", "positions", "params", "model_state", "header")
    assert sum(sizes[part] for part in parts) == sizes["file"]
    assert_equal(artifact.load(path).masks(), masks)


@pytest.fixture
def content(model, tmp_path) -> bytes:
    path = tmp_path / "model.ssvi"
    artifact.save(path, *model, config=CONFIG)
    return path.read_bytes()


def assert_refused(path: Path, content: bytes, match: str = "not a whole") -> str:
    path.write_bytes(content)
    with pytest.raises(InputError, match=match) as error:
        artifact.load(path)
    assert str(path) in str(error.value)
    return str(error.value)


def test_every_altered_byte_is_refused(content, tmp_path):
    """Every byte of the header, and every 41st of the streams, bits in turn."""
    header = 8 + struct.unpack("<Q", content[:8])[0]
    places = [*range(header), *range(header, len(content), 41)]
    match = "not a whole|no model of ssvi_jax"
    for i in places:
        altered = bytearray(content)
        altered[i] ^= 1 << (i % 8)
        assert_refused(tmp_path / "altered.ssvi", bytes(altered), match)


def test_every_truncation_is_refused(content, tmp_path):
    for length in [*range(0, len(content), 97), len(content) - 1]:
        assert_refused(tmp_path / "short.ssvi", content[:length])
    assert_refused(tmp_path / "long.ssvi", content + b"\0")


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "model.ssvi"
    assert_refused(path, b"")
    assert_refused(path, b"PK\x03\x04" + bytes(range(256)))
    assert_refused(path, b"\x80\x04cos\nsystem\n(S'echo'\ntR.")
    assert_refused(path, b"\xff" * 1000)
    foreign = safetensors.numpy.save({"x": np.zeros(3, np.float32)})
    assert_refused(path, foreign, "no model of ssvi_jax")
    with pytest.raises(InputError, match="there is no such file"):
        artifact.load(tmp_path / "missing.ssvi")
    with pytest.raises(InputError, match="not a whole"):
        artifact.load(tmp_path)


@contextlib.contextmanager
def at_most(num_bytes: int):
    """Fails when what runs inside allocates more at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < num_bytes
    finally:
        tracemalloc.stop()


def forge(path: Path, change, streams=None) -> bytes:
    """A file with another header and a right checksum: what an attacker would send."""
    header, coded = container.read(path)
    changed = change(header)
    text = json.dumps(header if changed is None else changed)
    coded |= streams or {}
    return safetensors.numpy.save(
        {name: np.frombuffer(data, np.uint8) for name, data in coded.items()},
        {"ssvi_jax": text, "sha256": container._digest(text, coded)},
    )


BOMB = zlib.compress(bytes(50_000_000), 9, -15)
HOSTILE = {
    "huge shape": lambda h: h["layers"][0].__setitem__(1, [2**40, 2**20]),
    "huge dense layer": lambda h: h["layers"][0].__setitem__(
        slice(1, 4), [[2**31 - 1], 2**31 - 1, 0]
    ),
    "huge layer kept whole": lambda h: h["layers"][1].__setitem__(
        slice(1, 3), [[10**7], 10**7]
    ),
    "negative shape": lambda h: h["layers"][0].__setitem__(1, [-3, -3, 8, 16]),
    "fractional shape": lambda h: h["layers"][0].__setitem__(1, [3.0, 3, 8, 16]),
    "huge count": lambda h: h["layers"][0].__setitem__(2, 10**12),
    "negative count": lambda h: h["layers"][0].__setitem__(2, -1),
    "negative bytes": lambda h: h["layers"][0].__setitem__(3, -(10**9)),
    "huge bytes": lambda h: h["layers"][0].__setitem__(3, 10**15),
    "huge array": lambda h: h["arrays"]["params"][0].__setitem__(3, [10**13]),
    "infinite array": lambda h: h["arrays"]["params"][0].__setitem__(3, [10**400]),
    "negative array": lambda h: h["arrays"]["params"][0].__setitem__(3, [-4, -4]),
    "fractional array": lambda h: h["arrays"]["params"][0].__setitem__(3, [16.0]),
    "object array": lambda h: h["arrays"]["params"][0].__setitem__(1, "O"),
    "stored objects": lambda h: h["arrays"]["params"][0].__setitem__(2, "O"),
    "other dtype": lambda h: h["arrays"]["params"][0].__setitem__(2, "float64"),
    "path that is a number": lambda h: h["arrays"]["params"][0].__setitem__(0, 3),
    "configuration that is a list": lambda h: h.__setitem__("config", [1]),
    "path of numbers": lambda h: h["arrays"]["params"][0].__setitem__(0, [1, 2]),
    "path through a leaf": lambda h: h["arrays"]["params"][1].__setitem__(
        0, h["arrays"]["params"][0][0] + "/x"
    ),
    "no arrays": lambda h: h.pop("arrays"),
    "no layers": lambda h: h.__setitem__("layers", 3),
    "a list": lambda h: [1],
    "nothing": lambda h: 0,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused_cheaply(content, tmp_path, name):
    path = tmp_path / "model.ssvi"
    forged = forge(path, HOSTILE[name])
    with at_most(2_000_000):
        assert_refused(path, forged)


@pytest.mark.parametrize("stream", ["positions", "mean/float32", "params/float32"])
@pytest.mark.parametrize("data", [BOMB, zlib.compress(b"zlib"), b"", b"\0\xff"])
def test_streams_that_expand_to_another_size_are_refused(
    content, tmp_path, stream, data
):
    path = tmp_path / "model.ssvi"
    forged = forge(path, lambda header: None, {stream: data})
    with at_most(2_000_000):
        assert_refused(path, forged)


def test_negative_size_is_no_size_without_limit():
    with at_most(100_000), pytest.raises(ValueError, match="impossible size"):
        container.inflate(BOMB, -1)


def test_streams_of_another_dtype_are_refused(content, tmp_path):
    path = tmp_path / "model.ssvi"
    header, coded = container.read(path)
    text = json.dumps(header)
    streams = {name: np.frombuffer(data, np.int8) for name, data in coded.items()}
    metadata = {"ssvi_jax": text, "sha256": container._digest(text, coded)}
    assert_refused(path, safetensors.numpy.save(streams, metadata))


def test_deeply_nested_header_is_refused(content, tmp_path):
    path = tmp_path / "model.ssvi"
    text = "[" * 1_000_000
    metadata = {"ssvi_jax": text, "sha256": container._digest(text, {})}
    assert_refused(path, safetensors.numpy.save({}, metadata))


def test_a_newer_format_is_refused(content, tmp_path):
    path = tmp_path / "model.ssvi"
    newer = forge(path, lambda header: header.__setitem__("format", 2))
    assert_refused(path, newer, "format 2, this version reads 1")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda w, m: m.pop("conv/kernel"), "in only one: conv/kernel"),
        (lambda w, m: m["conv/kernel"].fill(True), r"needed: float32\(1152,\)"),
        (lambda w, m: m.update({"conv/kernel": np.ones(3)}), "not boolean"),
        (
            lambda w, m: w.posterior["conv/kernel"].mean.fill(np.nan),
            "mean: conv/kernel holds values that are not finite",
        ),
        (lambda w, m: w.model_state.update(n=np.float32(np.inf)), "n holds values"),
        (lambda w, m: w.params.update({"a/b": np.ones(1)}), "key 'a/b', allowed"),
        (lambda w, m: w.params.update({3: np.ones(1)}), "key 3, allowed"),
        (
            lambda w, m: w.params.update(n=np.array(["x"])),
            "n is <U1, allowed: bool",
        ),
        (lambda w, m: w.params.update(n=np.array([None])), "n is object, allowed"),
    ],
)
def test_what_cannot_be_saved(model, tmp_path, change, match):
    weights, masks = model
    for path, gaussian in weights.posterior.items():
        weights.posterior[path] = Gaussian(*map(np.array, gaussian))  # pyright: ignore
    change(weights, masks)
    with pytest.raises(InputError, match=match):
        artifact.save(tmp_path / "model.ssvi", weights, masks, config=CONFIG)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("config", [{"x": {1, 2}}, {"x": float("nan")}])
def test_configuration_must_be_json(model, tmp_path, config):
    with pytest.raises(InputError, match="allowed: JSON values"):
        artifact.save(tmp_path / "model.ssvi", *model, config=config)


def test_a_file_that_cannot_be_written(model, tmp_path):
    with pytest.raises(InputError, match=r"could not be written \(No such file"):
        artifact.save(tmp_path / "missing" / "model.ssvi", *model, config={})


FULL_DISK = """
import pathlib, resource, signal, sys
from ssvi_jax import container
from ssvi_jax.errors import InputError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
try:
    container.write(pathlib.Path(sys.argv[1]), {}, {"x": bytes(range(256))})
except InputError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_old_file(content, tmp_path):
    path = tmp_path / "model.ssvi"
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out.startswith(f"{path}: the file could not be written (")
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["model.ssvi"]
