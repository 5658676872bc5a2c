"""A graph comes back from its stream; a stream that is none does not."""

import struct

import numpy as np
import pytest
import runtime_models
import smoke_run
from flax import linen as nn
from forged_models import forge

from ssvi_jax.core.errors import InputError
from ssvi_jax.io import graph, stored_graph
from ssvi_jax.io.graph import Graph, Node

NODES = (
    Node("input"),
    Node("constant", (), ((0, 1),)),
    Node("add", (0, 1)),
    Node("reshape", (2,), ((1, 0), (2, -7), (0, 3))),
)
WHOLE = Graph(
    (2, 3), 4, [np.array(2.5, np.float32), np.ones((2, 3), np.float32)], NODES
)


def test_a_stream_is_the_graph():
    stream = graph.encode(WHOLE)
    found = stored_graph.decode(stream)
    assert found[:2] == WHOLE[:2]
    assert tuple(found.nodes) == NODES
    for got, want in zip(found.constants, WHOLE.constants, strict=True):
        assert (got.shape, got.dtype) == (np.shape(want), np.float32)
        assert (got == want).all()
    assert graph.encode(found) == stream


def test_no_part_of_a_stream_is_a_graph():
    stream = graph.encode(WHOLE)
    for end in range(len(stream)):
        with pytest.raises(ValueError, match=r"graph|end|number"):
            stored_graph.decode(stream[:end])
    with pytest.raises(ValueError, match="no whole graph"):
        stored_graph.decode(stream + b"\0")


START = (graph.MAGIC, graph.VERSION, 1, 12, 5)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((1, *START[1:], 0, 1, 0, 0, 0), "no graph"),
        ((graph.MAGIC, 2, *START[2:], 0, 1, 0, 0, 0), "another version"),
        ((*START[:2], 9, *[1] * 9, 5, 0, 1, 0, 0, 0), "an impossible shape"),
        ((*START[:2], 1, -1, 5, 0, 1, 0, 0, 0), "an impossible shape"),
        ((*START, 0x7FFFFFFF), "an impossible number"),
        ((*START, -1), "an impossible number"),
        ((*START, 0, 1, 999, 0, 0), "an unknown operation"),
        ((*START, 0, 1, -1, 0, 0), "an unknown operation"),
        ((*START, 0, 1, 24, 1, 0, 0), "reads what comes later"),
        ((*START, 0, 1, 0, 0x40000000, 0, 0), "an impossible number"),
        ((*START, 1, 2, 1 << 24, 1 << 24, 0, 1, 0, 0, 0), "an end that is too early"),
        ((*START, 0, 0), "no whole graph"),
    ],
)
def test_a_stream_that_is_no_graph_is_refused(words, text):
    with pytest.raises(ValueError, match=text):
        stored_graph.decode(struct.pack(f"<{len(words)}i", *words))


def test_files_without_a_graph_and_damaged_ones(tmp_path):
    old = smoke_run.ROOT / "results" / "cifar10-ivon-s95" / "model.ssvi"
    with pytest.raises(InputError, match=r"written by an earlier version.*load\("):
        stored_graph.load(old)
    with pytest.raises(InputError, match="its graph is damaged"):
        stored_graph.load(tmp_path / "none.ssvi")
    path = tmp_path / "model.ssvi"
    runtime_models.fitted(nn.Dense(3), runtime_models.inputs((4,), 2)).save(path)
    assert stored_graph.load(path).classes == 3
    for said in (3, -1, "many", None):
        change = {"graph": {"bytes": said}}
        path.with_suffix(".bad").write_bytes(
            forge(path, lambda h, c=change: {**h, **c})
        )
        with pytest.raises(InputError, match="its graph is damaged"):
            stored_graph.load(path.with_suffix(".bad"))
