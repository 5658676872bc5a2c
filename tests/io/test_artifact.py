"""Model files: exact or close, small, and refused unless whole."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from model_files import CONFIG, example, weights_for

from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Gaussian, Weights
from ssvi_jax.io import artifact


@pytest.fixture
def model():
    return example()


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


def test_names_may_hold_slashes_and_tildes(tmp_path):
    """`trees.split` escapes them in the paths of kernels; files do so in all paths."""
    params = {
        "a/b": {"kernel": np.ones((2, 3), np.float32), "~1": np.arange(2)},
        "a": {"b": {"kernel": np.arange(3)}, "b/~1": np.arange(4), "": np.arange(5)},
    }
    kernels, rest = trees.split(params)
    assert list(kernels) == ["a~1b/kernel"]
    masks = {path: np.eye(2, 3, dtype=bool) for path in kernels}
    weights = weights_for(masks, np.random.default_rng(0), rest)
    weights = weights._replace(model_state={"x/y": {"~0": np.arange(6)}})
    artifact.save(tmp_path / "model.ssvi", weights, masks, config={})
    got = artifact.load(tmp_path / "model.ssvi")
    assert_equal(got.weights, weights)
    assert_equal(got.masks(), masks)


@pytest.mark.parametrize("name", ["exp[1]", "a*b", "ü x?", "100%41", "back\\slash"])
def test_the_path_of_a_file_may_hold_anything(model, tmp_path, name):
    path = tmp_path / name / f"{name}.ssvi"
    path.parent.mkdir()
    artifact.save(path, *model, config=CONFIG)
    assert_equal(artifact.load(path).weights, model[0])
    assert os.listdir(path.parent) == [path.name]


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
    packed = artifact.load(path).weights.posterior["k"]
    assert isinstance(packed, Gaussian)
    got = np.logaddexp(0, np.float64(packed.rho))
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
        (lambda w, m: w.params["norm"].update({3: np.ones(1)}), "key 3, allowed"),
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
from ssvi_jax.io import container
from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
try:
    container.write(pathlib.Path(sys.argv[1]), {}, {"x": bytes(range(256))})
except InputError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_old_file(model, tmp_path):
    path = tmp_path / "model.ssvi"
    artifact.save(path, *model, config=CONFIG)
    content = path.read_bytes()
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out.startswith(f"{path}: the file could not be written (")
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["model.ssvi"]


def test_a_folder_is_no_model_file(tmp_path):
    with pytest.raises(
        InputError, match=r"^path: got .*, a folder, .*; give a file, as"
    ):
        artifact.load(tmp_path)
    (tmp_path / "model.ssvi").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        artifact.load(tmp_path)
    assert str(caught.value) == (
        f"path: got {tmp_path}, a folder, allowed: a model file; give "
        f"{tmp_path / 'model.ssvi'}."
    )
    with pytest.raises(
        InputError, match=r"^path: got a NoneType, allowed: the path of"
    ):
        artifact.load(None)  # type: ignore[arg-type]
