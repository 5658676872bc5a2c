"""Other programs predict what the library predicts."""

import re
import sys
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runtime_models
import smoke_run
from forged_models import forge
from fuzz import model_targets

import ssvi_jax
from ssvi_jax.core.errors import InputError
from ssvi_jax.evaluation import entry
from ssvi_jax.io import container, graph
from ssvi_jax.io.graph import Graph, Node
from ssvi_jax.training.fitted import Fitted
from ssvi_jax.vi import predictive

KINDS = ("mlp", "cnn", "resnet", "depthwise", "vision transformer")
LIKELIHOODS = (
    ssvi_jax.Bernoulli(),
    ssvi_jax.Normal(0.1),
    ssvi_jax.Normal("output"),
    ssvi_jax.Poisson(),
)


@pytest.fixture(scope="module")
def fits():
    """Kind of a network → what was fitted, and inputs."""
    made = {}

    def of(kind):
        if kind not in made:
            module, shape = runtime_models.KINDS[kind]
            x = runtime_models.inputs(shape, 5)
            made[kind] = runtime_models.fitted(module, x), x
        return made[kind]

    return of


@pytest.fixture
def onnx_run():
    """Runs an .onnx file on inputs."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")

    def run(path, x):
        session = runtime.InferenceSession(str(path))
        assert [each.name for each in session.get_inputs()] == ["x"]
        (found,) = session.run(None, {"x": x})
        return found

    return run


def program(path):
    """What JAX alone makes of a .stablehlo file."""
    return jax.export.deserialize(path.read_bytes())


def library_mean(fit, x) -> np.ndarray:
    return predictive.predict_mean(fit.apply_fn, fit.weights, fit.masks, x)


# ONNX ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_is_the_mean_network(fits, onnx_run, tmp_path, kind):
    fit, x = fits(kind)
    path = tmp_path / "model.onnx"
    assert ssvi_jax.export(fit, path) == path.stat().st_size
    want = library_mean(fit, x)
    for rows in (slice(None), slice(2, 3)):
        np.testing.assert_allclose(onnx_run(path, x[rows]), want[rows], atol=1e-5)


def test_onnx_of_few_operations(fits, tmp_path):
    """Batch norms are in the convolutions, and nothing is turned between them."""
    onnx = pytest.importorskip("onnx")
    fit, _ = fits("resnet")
    ssvi_jax.export(fit, tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    kinds = [node.op_type for node in model.graph.node]
    assert (kinds.count("Conv"), kinds.count("Relu"), kinds.count("Add")) == (6, 5, 3)
    assert (kinds.count("Transpose"), len(kinds)) == (1, 21)
    assert model.ir_version == 7
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 13)]
    shape = model.graph.output[0].type.tensor_type.shape.dim
    assert (shape[0].dim_param, shape[1].dim_value) == ("n", 5)


def test_a_model_file_needs_no_module_for_onnx(fits, onnx_run, tmp_path):
    fit, x = fits("mlp")
    fit.save(tmp_path / "model.ssvi")
    ssvi_jax.export(tmp_path / "model.ssvi", tmp_path / "model.onnx", batch_size=5)
    module, _ = runtime_models.KINDS["mlp"]
    want = library_mean(ssvi_jax.load(tmp_path / "model.ssvi", module), x)
    found = onnx_run(tmp_path / "model.onnx", x)
    np.testing.assert_allclose(found, want, atol=1e-5)
    with pytest.raises(Exception, match="invalid dimensions"):
        onnx_run(tmp_path / "model.onnx", x[:2])


def test_the_command_takes_the_model_of_a_run(onnx_run, tmp_path):
    """Its inputs are pixels, also where the file has no graph."""
    x = np.random.default_rng(0).integers(0, 256, (3, 2, 2, 1), np.uint8)
    for model in model_targets.small_models(tmp_path):
        want = ssvi_jax.load(model).predict(x, samples=1).mean_probs
        for suffix in ("onnx", "stablehlo"):
            out = tmp_path / f"{model.stem}.{suffix}"
            said = smoke_run.call(entry.main, "export", model, out)
            assert f"wrote {out}, {out.stat().st_size:,} bytes" in said.out
            read = onnx_run if suffix == "onnx" else lambda p, x: program(p).call(x)
            np.testing.assert_allclose(read(out, x), want, atol=1e-5)
        again = smoke_run.call(entry.main, "export", model, out)
        assert again.code == 2
        assert "exists, allowed: a new file" in again.err


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)
def test_means_of_other_likelihoods(onnx_run, tmp_path, likelihood):
    x = runtime_models.inputs((4,), 6)
    outputs = 2 if likelihood == ssvi_jax.Normal("output") else 1
    fit = runtime_models.fitted(nn.Dense(outputs), x, sigma=0, likelihood=likelihood)
    found = fit.predict(x)
    want = found.probs if isinstance(likelihood, ssvi_jax.Bernoulli) else found.mean
    for name, read in (
        ("model.onnx", onnx_run),
        ("model.stablehlo", lambda path, x: program(path).call(x)),
    ):
        ssvi_jax.export(fit, tmp_path / name)
        got = read(tmp_path / name, x)
        np.testing.assert_allclose(got, want[:, None], atol=1e-5)


# StableHLO ----------------------------------------------------------------------------


def test_stablehlo_is_the_mean_network(fits, tmp_path):
    fit, x = fits("resnet")
    path = tmp_path / "model.stablehlo"
    assert ssvi_jax.export(fit, path) == path.stat().st_size
    found = program(path)
    assert found.platforms == ("cpu", "cuda", "tpu")
    assert b".py" not in path.read_bytes()  # whose source it was made of
    calls = re.findall(r"stablehlo.custom_call @(\w+)", found.mlir_module())
    assert set(calls) == {"shape_assertion"}  # nothing of ours
    for rows in (slice(None), slice(2, 3)):
        want = library_mean(fit, x[rows])
        np.testing.assert_allclose(found.call(x[rows]), want, atol=1e-5)


def test_stablehlo_draws_are_those_of_predict(fits, tmp_path):
    fit, x = fits("mlp")
    ssvi_jax.export(fit, tmp_path / "model.stablehlo", samples=3)
    draws = program(tmp_path / "model.stablehlo").call(x, np.uint32(7))
    assert draws.shape == (3, len(x), 5)
    want = fit.predict(x, samples=3, key=jax.random.key(7)).probs
    np.testing.assert_allclose(draws.mean(0), want, atol=1e-5)
    assert np.abs(draws[0] - draws[1]).max() > 1e-3


class Members:
    """Two members: a network, and the same with its outputs turned."""

    num_members = 2

    def __init__(self, network):
        self.network = network

    def one(self, weights, subspace, member, key):
        state = {**weights.model_state, "sign": jnp.array([1.0, -1.0])[member]}
        return weights._replace(model_state=state), subspace

    def __call__(self, params, state, x, **options):
        rest = {name: value for name, value in state.items() if name != "sign"}
        output, rest = self.network(params, rest, x, **options)
        return state["sign"] * output, rest


def test_members_are_averaged_in_stablehlo_and_refused_in_onnx(fits, tmp_path):
    pytest.importorskip("onnx")
    fit, x = fits("mlp")
    both = Fitted(**{**vars(fit), "apply_fn": Members(fit.apply_fn)})
    path = tmp_path / "model.stablehlo"
    ssvi_jax.export(both, path)
    want = both.predict(x, samples=2).mean_probs
    np.testing.assert_allclose(program(path).call(x), want, atol=1e-5)
    ssvi_jax.export(both, path, samples=2)
    draws = program(path).call(x, np.uint32(0))
    assert draws.shape == (4, len(x), 5)
    want = both.predict(x, samples=2).probs
    np.testing.assert_allclose(draws.mean(0), want, atol=1e-5)
    with pytest.raises(InputError, match=r"several members.* a \.stablehlo file may"):
        ssvi_jax.export(both, tmp_path / "model.onnx")


# Refusals -----------------------------------------------------------------------------


class Sorts(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jnp.sort(nn.Dense(3)(x), axis=-1) * jnp.float32(len(x) > 0)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("model.pb", {}, r"path: got 'model.pb', allowed: .* \.onnx or \.stablehlo"),
        ("model", {}, "path: got 'model'"),
        ("none/model.stablehlo", {"batch_size": 2}, "could not be written"),
        ("model.onnx", {"samples": 2}, r"samples: got 2 for an \.onnx file"),
        ("model.stablehlo", {"samples": 0}, "samples: got 0"),
        ("model.onnx", {"batch_size": 1.5}, "batch_size: got 1.5"),
        ("model.stablehlo", {}, r"batch_size: got None.* x\.shape\[0\] for len\(x\)"),
        ("model.stablehlo", {"model": SimpleNamespace()}, "model: got a SimpleNames"),
    ],
)
def test_refused_calls(tmp_path, name, options, text):
    x = runtime_models.inputs((4,), 2)
    fit = options.pop("model", None) or runtime_models.fitted(Sorts(), x)
    with pytest.raises(InputError, match=text):
        ssvi_jax.export(fit, tmp_path / name, **options)


def test_what_onnx_does_not_get_is_named(tmp_path):
    pytest.importorskip("onnx")
    x = runtime_models.inputs((4,), 2)
    fit = runtime_models.fitted(Sorts(), x)
    with pytest.raises(InputError, match=r"'sort' in Sorts.*a \.stablehlo file may"):
        ssvi_jax.export(fit, tmp_path / "model.onnx")
    fit.save(tmp_path / "model.ssvi")
    with pytest.raises(InputError, match=r"not say what .*'sort' in Sorts"):
        ssvi_jax.export(tmp_path / "model.ssvi", tmp_path / "model.onnx")
    with pytest.raises(InputError, match=r"of your own.*load\('.*', module\)"):
        ssvi_jax.export(tmp_path / "model.ssvi", tmp_path / "model.stablehlo")


def test_a_forged_graph_is_refused(tmp_path):
    pytest.importorskip("onnx")
    x, path = runtime_models.inputs((4,), 2), tmp_path / "model.ssvi"
    runtime_models.fitted(nn.Dense(3), x).save(path)
    node = Node("reshape", (0,), ((1, 0), (0, 5)))
    for nodes, text in (
        ([Node("input"), node], "does not fit together"),
        ([Node("kernel", (), ((0, 9),))], "out of range"),
        ([Node("transpose", (), ((0, 9),))], "out of range"),
    ):
        stream = graph.encode(Graph((4,), 3, [], nodes))
        said = {"graph": {"bytes": len(stream)}}
        streams = {"graph": container._deflate(stream)}
        forged = forge(path, lambda header, said=said: {**header, **said}, streams)
        (tmp_path / "forged.ssvi").write_bytes(forged)
        with pytest.raises(InputError, match=f"cannot be written as ONNX.*{text}"):
            ssvi_jax.export(tmp_path / "forged.ssvi", tmp_path / "model.onnx")


def test_without_its_package_it_is_said_what_brings_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    x = runtime_models.inputs((4,), 2)
    fit = runtime_models.fitted(nn.Dense(3), x)
    with pytest.raises(InputError, match=r"pip install 'ssvi_jax\[onnx\]'"):
        ssvi_jax.export(fit, tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(InputError, match=r"pip install 'ssvi_jax\[stablehlo\]'"):
        ssvi_jax.export(fit, tmp_path / "model.stablehlo")
