"""Model files as an attacker would put them together."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from ssvi_jax.core.errors import InputError
from ssvi_jax.io import artifact, container


def assert_refused(path: Path, content: bytes, match: str = "not a whole") -> str:
    path.write_bytes(content)
    with pytest.raises(InputError, match=match) as error:
        artifact.load(path)
    assert str(path) in str(error.value)
    return str(error.value)


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


def apart(path: Path, folder: Path) -> list[Path]:
    """A file's parts as `tests/kernels/open.cpp` reads them.

    They are its header, its graph, and the other streams, each behind the lengths of
    its name and of itself.
    """
    header, coded = container.read(path)
    parts = [folder / f"{path.stem}.{name}" for name in ("json", "graph", "streams")]
    parts[0].write_text(container._json(header))
    size = header["graph"]["bytes"]
    parts[1].write_bytes(container.inflate(coded.pop("graph"), size))
    with parts[2].open("wb") as file:
        for name, data in coded.items():
            file.write(struct.pack("<BH", len(name), len(data)))
            file.write(name.encode() + data)
    return parts
