"""Altered, foreign and hostile model files: refused, and cheaply."""

import contextlib
import json
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from forged_models import assert_refused, forge
from model_files import CONFIG, example

from ssvi_jax.core.errors import InputError
from ssvi_jax.io import artifact, container


@pytest.fixture
def content(tmp_path) -> bytes:
    path = tmp_path / "model.ssvi"
    artifact.save(path, *example(), config=CONFIG)
    return path.read_bytes()


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
    with pytest.raises(InputError, match="a folder, allowed: a model file"):
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
    "other dtype on the way": lambda h: h["arrays"]["params"][0].__setitem__(
        1, "float64"
    ),
    "weights that are no floats": lambda h: h["arrays"]["mean"][0].__setitem__(
        slice(1, 3), ["int32", "int32"]
    ),
    "configuration of pairs": lambda h: h.__setitem__("config", [["name", "mlp"]]),
    "a number that is none": lambda h: h["config"].__setitem__("width", float("nan")),
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


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(content, tmp_path, value):
    path = tmp_path / "model.ssvi"
    header, _ = container.read(path)
    size = sum(row[2] for row in header["layers"])
    planes = artifact._byte_planes(np.full(size, value, np.float32))
    forged = forge(
        path, lambda header: None, {"mean/float32": container._deflate(planes)}
    )
    assert_refused(path, forged, "a value that is not finite")


def test_what_a_killed_process_left_is_replaced(tmp_path, monkeypatch):
    path = tmp_path / "model.ssvi"

    def killed(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            artifact.save(path, *example(), config=CONFIG)
    assert not path.exists()
    artifact.save(path, *example(), config=CONFIG)
    assert list(tmp_path.iterdir()) == [path]
