"""Arrays from files of others: read as NumPy reads them, or refused cheaply."""

import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ssvi_jax.io.npy import open_npy, read_npz

KINDS = [np.uint8, np.int32, np.int64, np.float32, np.float64, np.bool_, "<U5", ">i2"]


def header(text: str, data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    """A .npy file with any header."""
    size = struct.pack("<H" if version == b"\1\0" else "<I", len(text))
    return b"\x93NUMPY" + version + size + text.encode() + data


def described(shape: str, descr: str = "'|u1'", fortran: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}}}"


@given(data=st.data())
def test_arrays_come_back(tmp_path_factory, data):
    dtype = np.dtype(data.draw(st.sampled_from(KINDS)))
    shapes = arrays.array_shapes(min_dims=0, min_side=0, max_side=4)
    array = data.draw(arrays.arrays(dtype, shapes))
    if data.draw(st.booleans()):
        array = np.asfortranarray(array)
    folder = tmp_path_factory.mktemp("npy")
    np.save(folder / "a.npy", array)
    np.savez(folder / "a.npz", a=array, b=array[..., None])
    np.savez_compressed(folder / "b.npz", a=array, b=array[..., None])
    found = [open_npy(folder / "a.npy")]
    for name in ("a.npz", "b.npz"):
        read = read_npz(folder / name)
        assert list(read) == ["a", "b"]
        np.testing.assert_array_equal(read["b"], array[..., None])
        found.append(read["a"])
    for got in found:
        assert (got.dtype, got.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(got, array)


REFUSED = {
    "more than there is": (header(described("(10**9,)")), "literal|malformed"),
    "a terabyte": (header(described("(1000000000000,)")), "asks for 1000000000000"),
    "beyond 64 bits": (header(described("(18446744073709551616, 2)")), "asks for"),
    "zero after overflow": (header(described("(4294967296, 4294967296)")), "asks for"),
    "a negative length": (header(described("(-4, -1)"), b"1234"), "impossible shape"),
    "more data than said": (header(described("(3,)"), b"1234"), "asks for 3 bytes"),
    "an open bracket": (header("{'descr': (((("), "EOF in multi-line"),
    "deep brackets": (header("(" * 3000), "."),
    "minus signs": (header("-" * 9000 + "1"), "."),
    "objects": (header(described("(1,)", "'|O'"), bytes(8)), "not numbers or text"),
    "times": (header(described("(1,)", "'<M8[s]'"), bytes(8)), "not numbers or text"),
    "records": (header(described("(1,)", "[('a', '<i4')]"), bytes(4)), "not numbers"),
    "empty texts": (header(described("(9999999999,)", "'<U0'")), "not numbers or text"),
    "too long a header": (header(" " * 60_000), "large|Header"),
    "4 GB of header": (b"\x93NUMPY\2\0\xff\xff\xff\xff{", "EOF|MemoryError"),
    "version 3": (header(described("(0,)"), version=b"\3\0"), "version"),
    "version 9": (header(described("(0,)"), version=b"\x09\0"), "version|support"),
    "nothing": (b"", "EOF"),
    "an archive": (b"PK\3\4" + bytes(100), "magic string"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_files_are_refused_cheaply(tmp_path, case):
    content, words = REFUSED[case]
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=words):
            open_npy(path)
        if case != "4 GB of header":  # asked of the system, but never touched
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(ValueError, match=words):
        read_npz(tmp_path / "a.npz")


def test_no_file(tmp_path):
    for read in (open_npy, read_npz):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "a")
        with pytest.raises(IsADirectoryError):
            read(tmp_path)


def test_only_what_is_chosen_is_read(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(3), b=np.arange(4))
    names = []
    found = read_npz(path, lambda there: names.extend(there) or ["b"])
    assert names == ["a", "b"]
    assert list(found) == ["b"]
    with pytest.raises(ZeroDivisionError):
        read_npz(path, lambda there: [str(1 / 0)])


def archive_of(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


GOOD = header(described("(2000,)"), bytes(range(250)) * 8)


def with_size(content: bytes, size: int) -> bytes:
    """The archive with another unpacked size in its directory."""
    at = content.rindex(b"PK\1\2")
    return content[: at + 24] + struct.pack("<I", size) + content[at + 28 :]


def with_method(content: bytes, method: int) -> bytes:
    for mark, at in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        start = content.rindex(mark) + at
        packed = struct.pack("<H", method)
        content = content[:start] + packed + content[start + 2 :]
    return content


def flipped(content: bytes) -> bytes:
    at = content.index(b"a.npy") + 40
    return content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (with_size(archive_of(a=GOOD), 2**32 - 2), "larger than such an archive"),
        (with_size(archive_of(a=GOOD), 100), "."),
        (with_method(archive_of(a=GOOD), 12), "is no array of np.savez"),
        (with_method(archive_of(a=GOOD), 99), "is no array of np.savez"),
        (flipped(archive_of(a=GOOD)), "."),
        (archive_of(a=GOOD)[:-30], "not a zip file"),
        (archive_of(a=GOOD).replace(b"a.npy", b"a.txt"), "'a.txt' in it is no array"),
        (b"", "not a zip file"),
    ],
)
def test_damaged_archives_are_refused(tmp_path, content, words):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_npz(path)


def test_a_bomb_is_refused_before_it_expands(tmp_path):
    """Many entries that share one stretch of compressed bytes."""
    zeros = archive_of(a=header(described("(9000000,)"), bytes(9_000_000)))
    at = zeros.rindex(b"PK\1\2")
    entry, end = zeros[at : zeros.rindex(b"PK\5\6")], zeros[zeros.rindex(b"PK\5\6") :]
    names = [chr(ord("a") + i).encode() for i in range(20)]
    entries = b"".join(entry.replace(b"a.npy", name + b".npy") for name in names)
    counts = struct.pack("<HHI", 20, 20, len(entries))
    content = zeros[:at] + entries + end[:8] + counts + end[16:]
    path = tmp_path / "bomb.npz"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="larger than such an archive can hold"):
            read_npz(path)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
