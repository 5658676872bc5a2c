"""Damaged and forged model files are refused by the runtime.

`tests/ops/test_kernels_memory.py` opens such files under the sanitizers.
"""

import struct

import forged_models
import numpy as np
import pytest
import runtime_models

from ssvi_jax import runtime
from ssvi_jax.core.errors import InputError
from ssvi_jax.io import container, graph
from ssvi_jax.io.graph import Graph, Node

pytestmark = pytest.mark.skipif(
    not runtime.library_path().exists(), reason="the runtime was not compiled"
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A small model file."""
    path = tmp_path_factory.mktemp("file") / "model.ssvi"
    module, shape = runtime_models.KINDS["nnx mlp"]
    runtime_models.fitted(module, runtime_models.inputs(shape, 2)).save(path)
    return path


def test_every_cut_and_every_altered_byte_is_refused(file, tmp_path):
    content, path = file.read_bytes(), tmp_path / "model.ssvi"
    rng = np.random.default_rng(0)
    places = rng.choice(len(content), 200, replace=False)
    for place in (*places, *range(0, 400, 7)):
        altered = bytearray(content)
        altered[place] ^= 1 << int(rng.integers(8))
        for damaged in (bytes(altered), content[:place]):
            path.write_bytes(damaged)
            with pytest.raises(InputError, match=r"model\.ssvi: "):
                runtime.load(path)
    path.write_bytes(content)
    runtime.load(path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "it is too short"),
        (b"PK\3\4" + bytes(range(255)) * 9, "it is no model of ssvi_jax"),
        (b"a text, and nothing else\n" * 9, "it is no model of ssvi_jax"),
    ],
)
def test_files_of_other_kinds(tmp_path, content, text):
    path = tmp_path / "model.ssvi"
    path.write_bytes(content)
    with pytest.raises(InputError, match=text):
        runtime.load(path)


def test_bytes_after_the_end_are_refused(file, tmp_path):
    path = tmp_path / "model.ssvi"
    path.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(InputError, match="its size is not that of its header"):
        runtime.load(path)


def with_graph(file, path, stream: bytes, said: int | None = None) -> None:
    """A file with another graph and a right checksum."""

    def change(header):
        header["graph"] = {"bytes": len(stream) if said is None else said}

    streams = {"graph": container._deflate(stream)}
    path.write_bytes(forged_models.forge(file, change, streams))


INPUT, KERNEL = Node("input"), Node("kernel", (), ((0, 0),))
WINDOW = tuple((0, n) for n in (1, 1, 12, 20, 1, 1, 0, 0, 0, 0, 1, 1, 1, 0))
IMAGE = Node("reshape", (0,), ((1, 0), (0, 1), (0, 1), (0, 12)))


@pytest.mark.parametrize(
    "nodes",
    [
        [Node("kernel", (), ((0, 99),))],
        [Node("param", (), ((0, -1),))],
        [Node("constant", (), ((0, 0),))],
        [INPUT, Node("reshape", (0,), ((1, 0), (0, 13)))],
        [INPUT, Node("broadcast", (0,), ((1, 0), (0, 1 << 24), (0, 1 << 24), (0, 12)))],
        [INPUT, Node("transpose", (0,), ((0, 1), (0, 1)))],
        [INPUT, Node("slice", (0,), ((0, 0), (1, 0), (0, 1), (0, 3), (0, 13), (0, 1)))],
        [INPUT, Node("pad", (0, 0), ((0, 0),) * 6)],
        [INPUT, Node("reduce_sum", (0,), ((0, 2),))],
        [INPUT, Node("window_max", (0,), ((0, 1),) * 5)],
        [INPUT, Node("concatenate", (0, 0), ((0, 7),))],
        [INPUT, Node("matmul", (0, 0))],
        [INPUT, Node("add", (0,))],
        [INPUT, Node("select", (0, 0))],
        [INPUT, KERNEL, Node("product", (0, 1), WINDOW)],
        [INPUT, KERNEL, IMAGE, Node("product", (2, 1), WINDOW[:-1])],
        [INPUT, KERNEL, IMAGE, Node("product", (2, 1), (*WINDOW[:-1], (0, 2)))],
        [INPUT, KERNEL, IMAGE, Node("product", (2, 1), ((0, 2), *WINDOW[1:]))],
        [INPUT, KERNEL, IMAGE, Node("product", (2, 1), ((0, 0), *WINDOW[1:]))],
        [INPUT, KERNEL, IMAGE, Node("product", (2, 1, 0), (*WINDOW[:-1], (0, 1)))],
        [INPUT],
    ],
)
def test_a_graph_that_does_not_fit_is_refused(file, tmp_path, nodes):
    """When it is read, or at the latest when it is computed."""
    path = tmp_path / "model.ssvi"
    with_graph(file, path, graph.encode(Graph((12,), 5, [], nodes)))
    with pytest.raises(InputError, match=r"graph|shape|row"):
        runtime.load(path).predict(np.ones((2, 12)), mode="mean")


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


START = (graph.MAGIC, graph.VERSION, 1, 12, 5)


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"abc",
        words(*START),
        words(1, *START[1:], 0, 1, 0, 0, 0),
        words(graph.MAGIC, 2, *START[2:], 0, 1, 0, 0, 0),
        words(*START[:2], 9, *[1] * 9, 5, 0, 1, 0, 0, 0),
        words(*START[:4], 1, 0, 1, 0, 0, 0),
        words(*START, 0x7FFFFFFF),
        words(*START, -1),
        words(*START, 0, 0x7FFFFFFF, 0, 0, 0),
        words(*START, 0, 1, 999, 0, 0),
        words(*START, 0, 1, graph.OPERATIONS.index("exp"), 1, 0, 0),
        words(*START, 0, 1, 0, 0x40000000, 0, 0),
        words(*START, 1, 2, 1 << 24, 1 << 24, 0, 1, 0, 0, 0),
        words(*START, 0, 1, 0, 0, 0, 7),
    ],
)
def test_a_stream_that_is_no_graph_is_refused(file, tmp_path, stream):
    path = tmp_path / "model.ssvi"
    with_graph(file, path, stream)
    with pytest.raises(InputError, match=r"graph|shape"):
        runtime.load(path)


def test_a_graph_longer_than_announced_is_refused(file, tmp_path):
    path = tmp_path / "model.ssvi"
    stream = graph.encode(Graph((12,), 5, [], [INPUT]))
    for said in (len(stream) - 4, len(stream) + 4, 2**40):
        with_graph(file, path, stream, said)
        with pytest.raises(InputError, match="a stream is damaged"):
            runtime.load(path)
