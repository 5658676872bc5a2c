"""Operations of a graph in ONNX compute what NumPy and JAX compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import special

from ssvi_jax.core.types import Weights
from ssvi_jax.io.graph import BINARY, UNARY, Graph, Node
from ssvi_jax.networks import onnx_graph, trace_graph

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

LINE = np.array([-30, -2.5, -1, -0.4, -1e-4, 0, 1e-4, 0.4, 0.5, 1.5, 3, 20], "f4")
PLUS = np.array([1e-4, 0.4, 1, 20], "f4")
WHOLE = np.array([-2, 0, 1], "f4")
ODD = np.array([np.nan, np.inf, -np.inf, 3e38, 1], "f4")

ORACLES = {
    **{name: (getattr(np, name), LINE) for name in ("sign", "floor", "ceil", "trunc")},
    **{name: (getattr(np, name), LINE) for name in ("abs", "exp", "exp2", "expm1")},
    **{name: (getattr(np, name), LINE) for name in ("tanh", "cbrt", "sin", "cos")},
    **{name: (getattr(np, name), PLUS) for name in ("log", "sqrt")},
    "neg": (np.negative, LINE),
    "round": (np.round, LINE),
    "log1p": (np.log1p, np.concatenate([LINE[3:], [np.inf]])),
    "logistic": (special.expit, LINE),
    "rsqrt": (lambda x: x**-0.5, PLUS),
    "erf": (special.erf, LINE),
    "erfc": (special.erfc, LINE),
    "square": (np.square, LINE),
    "not": (np.logical_not, WHOLE),
    "is_finite": (np.isfinite, ODD),
    "add": (np.add, LINE),
    "sub": (np.subtract, LINE),
    "mul": (np.multiply, LINE),
    "div": (np.divide, LINE),
    "max": (np.maximum, LINE),
    "min": (np.minimum, LINE),
    "pow": (np.power, PLUS),
    "eq": (np.equal, WHOLE),
    "ne": (np.not_equal, WHOLE),
    "lt": (np.less, WHOLE),
    "le": (np.less_equal, WHOLE),
    "gt": (np.greater, WHOLE),
    "ge": (np.greater_equal, WHOLE),
    "and": (np.logical_and, WHOLE),
    "or": (np.logical_or, WHOLE),
}

INPUTS = {**dict.fromkeys(UNARY, (1,)), **dict.fromkeys(BINARY, (1, 2))}


def run(graph, x, batch_size=None) -> np.ndarray:
    """What ONNX Runtime makes of a graph."""
    model = onnx_graph.build(
        onnx,
        graph,
        [],
        [],
        dtype=str(x.dtype),
        batch_size=batch_size,
        output="y",
        softmax=False,
    )
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": x})[0]


def column(place):
    """One of the numbers of each example."""
    axis = ((0, place), (0, place + 1), (0, 1))
    return Node("slice", (0,), ((0, 0), (1, 0), (0, 1), *axis))


@pytest.mark.parametrize("operation", [*UNARY, *BINARY])
def test_elementwise(operation):
    oracle, x = ORACLES[operation]
    operands = [grid.reshape(-1) for grid in np.meshgrid(*[x] * len(INPUTS[operation]))]
    nodes = [Node("input"), column(0), column(len(operands) - 1)]
    graph = Graph((len(operands),), 1, [], [*nodes, Node(operation, INPUTS[operation])])
    found = run(graph, np.stack(operands, axis=-1))[:, 0]
    with np.errstate(all="ignore"):
        want = oracle(*(operand.astype(np.float64) for operand in operands))
    # Of these a result near 0 is the difference of larger numbers.
    atol = 1e-7 if operation in ("erfc", "sin", "cos", "logistic") else 0
    np.testing.assert_allclose(found, want.astype(np.float32), rtol=3e-6, atol=atol)


FUNCTIONS = {
    "pads, gaps and cuts": lambda x: lax.pad(
        x, 0.5, [(0, 0, 0), (2, -1, 2), (-2, 3, 1), (1, 0, 0)]
    ),
    "a batch twice": lambda x: jnp.concatenate([x, x])[: x.shape[0] * 2 : 2],
    "reversed": lambda x: x[:, ::-1, :, ::-1],
    "steps": lambda x: x[:, 1::2, 1:5:3, 1:],
    "a window wider than its image": lambda x: lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        (1, 2, 3, 1),
        (1, 1, 2, 1),
        [(0, 0), (2, 1), (3, 0), (0, 0)],
    ),
    "sums over channels": lambda x: lax.reduce_window(
        x, 0.0, lax.add, (1, 1, 1, 3), (1, 1, 1, 1), [(0, 0), (0, 0), (0, 0), (1, 1)]
    ),
    "a window with gaps": lambda x: lax.reduce_window(
        x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "VALID", None, (1, 2, 3, 1)
    ),
    "sums and extremes": lambda x: x.sum((1, 3)) + x.max((1, 3)) * x.min(3).sum(1),
    "a choice": lambda x: jnp.where((x > 0) & (x < 1), x, jnp.cbrt(x)),
    "products of pairs": lambda x: jnp.einsum("nhwc,nhvc->nhwv", x, x),
    "a kernel that is computed": lambda x: lax.conv_general_dilated(
        x, _kernel(x), (1, 2), [(1, 0), (2, 1)], dimension_numbers=LAYOUT
    ),
    "groups and gaps": lambda x: lax.conv_general_dilated(
        *(x, KERNEL, (1, 1), [(1, 2), (0, 1)]),
        **{"rhs_dilation": (1, 2), "dimension_numbers": LAYOUT},
        feature_group_count=3,
    ),
}
LAYOUT = ("NHWC", "HWIO", "NHWC")
KERNEL = jax.random.normal(jax.random.key(1), (2, 2, 1, 6))


def _kernel(x):
    """Made of the input, but of its shape only."""
    scale = jnp.exp(x[:1, :1, :1, :1] * 0)
    return jnp.tile(KERNEL, (1, 1, 3, 1)) * scale


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    def network(params, model_state, x, *, train, key, kernels=None):
        y = FUNCTIONS[name](x)
        return y.reshape(x.shape[0], -1), model_state

    x = np.random.default_rng(0).normal(size=(3, 5, 6, 3)).astype(np.float32)
    example = jax.ShapeDtypeStruct(x.shape, x.dtype)
    graph = trace_graph.trace(network, Weights({}, {}, {}), {}, example)
    want = FUNCTIONS[name](x).reshape(len(x), -1)
    np.testing.assert_allclose(run(graph, x), want, atol=1e-5)
    np.testing.assert_allclose(run(graph, x, batch_size=3), want, atol=1e-5)


INPUT, IMAGE = Node("input"), Node("reshape", (0,), ((1, 0), (0, 1), (0, 1), (0, 2)))
WINDOW = tuple((0, n) for n in (1, 1, 2, 2, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1))


@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        ([Node("kernel", (), ((0, 3),))], "index"),
        ([Node("constant", (), ((0, -1),))], "a row below 0"),
        ([INPUT, Node("exp", (0, 0))], "does not fit together"),
        ([INPUT, Node("reduce_sum", (0,), ((1, 0),))], "depends on the batch"),
        ([INPUT, Node("pad", (0, 0), ((0, 0),) * 6)], "a pad with what is not known"),
        ([INPUT, Node("window_max", (0,), ((0, 1),) * 10)], "windows over all axes"),
        ([INPUT, IMAGE, Node("product", (1, 0, 0), WINDOW)], "terms that are not"),
        ([INPUT, Node("reshape", (0,), ((1, 0), (0, 3)))], "does not fit together"),
    ],
)
def test_a_graph_that_does_not_fit_is_refused(nodes, text):
    with pytest.raises((ValueError, IndexError), match=text):
        run(Graph((2,), 2, [], nodes), np.ones((1, 2), np.float32))


def test_weights_that_no_file_holds_are_refused(monkeypatch):
    monkeypatch.setattr(onnx_graph, "MAX_BYTES", 7)
    nodes = [Node("input"), Node("constant", (), ((0, 0),)), Node("add", (0, 1))]
    with pytest.raises(ValueError, match="8 bytes of weights, more than 7"):
        run(Graph((2,), 2, [np.ones(2, np.float32)], nodes), np.ones((1, 2)))
