"""IDX files: what was written is read, and whatever else a file holds ends in a ValueError, in bounded memory."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline import idx

IMAGES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)


def content(array: np.ndarray) -> bytes:
    """An IDX file of `array`."""
    code = next(code for code, kind in idx.TYPES.items() if np.dtype(kind) == array.dtype.newbyteorder(">"))
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(idx.TYPES[code]).tobytes()


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("kind", idx.TYPES.values())
@pytest.mark.parametrize("shape", [(7,), (3, 4, 5), (2, 3, 4, 5)])
def test_reads_every_type_and_shape_whatever_the_name(tmp_path, pack, kind, shape):
    """Mutation: little-endian numbers."""
    array = np.random.default_rng(0).integers(0, 100, shape).astype(np.dtype(kind).newbyteorder("="))
    path = str(tmp_path / "file")
    (tmp_path / "file").write_bytes(pack(content(array)))
    found = idx.read(path)
    assert found.dtype == array.dtype and np.array_equal(found, array)
    assert idx.header(path) == (array.dtype, array.shape)


@pytest.mark.parametrize("old, new, words", [
    (slice(0, 2), b"PK", ["begins with bytes 50 4b", "00 00"]),
    (slice(2, 3), b"\x0a", ["begins with bytes 00 00 0a", "08, 09, 0b"]),
    (slice(3, 4), b"\x00", ["begins with bytes", "1 to 4 dimensions"]),
    (slice(3, 4), b"\x05", ["begins with bytes", "1 to 4 dimensions"]),
    (slice(0, None), b"", ["begins with bytes none"]),
    (slice(9, None), b"", ["ends within its header"]),
    (slice(-1, None), b"", ["ends after 59 of the 60 bytes", "3 x 4 x 5"]),
    (slice(76, 76), b"\0", ["more than the 60 bytes"]),
    (slice(4, 8), b"\0\0\0\0", ["states 0 x 4 x 5", "1 to"]),
    (slice(4, 16), b"\xff" * 12, ["states 4294967295 x 4294967295 x 4294967295", "this file can hold"]),
])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_anything_else_is_refused_by_name(tmp_path, pack, old, new, words):
    """Mutations: leave out each of the checks."""
    data = bytearray(content(IMAGES))
    data[old] = new
    path = tmp_path / "x.gz"
    path.write_bytes(pack(bytes(data)))
    with pytest.raises(ValueError) as error:
        idx.read(str(path))
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:-8] + b"\0" * 8,
                                    lambda data: data[:20] + b"\xff" * 9 + data[29:]])
def test_a_damaged_gzip_file_is_refused(tmp_path, damage):
    path = tmp_path / "x.gz"
    path.write_bytes(damage(gzip.compress(content(IMAGES), mtime=0)))
    with pytest.raises(ValueError, match="is damaged"):
        idx.read(str(path))


def most_memory(call) -> int:
    """Bytes that `call` had in use at once."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_bomb_is_not_unpacked(tmp_path):
    """100 MB of zeros behind a header of 60 bytes. Mutation: read all, then compare."""
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(content(IMAGES) + bytes(100_000_000)))

    def call():
        with pytest.raises(ValueError, match="more than the 60 bytes"):
            idx.read(str(path))

    assert most_memory(call) < 2_000_000


def test_a_header_that_promises_more_than_the_file_can_hold_allocates_nothing(tmp_path):
    """Mutation: leave out the look at the file's size."""
    path = tmp_path / "x"
    path.write_bytes(struct.pack(">BBBB2I", 0, 0, 8, 2, 30_000, 60_000) + bytes(1000))

    def call():
        with pytest.raises(ValueError, match="1800000000 bytes of numbers; this file can hold 1 to 1044384"):
            idx.read(str(path))

    assert most_memory(call) < 1_000_000


@settings(max_examples=300, deadline=None)
@given(head=st.sampled_from([b"", b"\0\0\x08\x01", b"\0\0\x0d\x03", content(IMAGES),
                             gzip.compress(content(IMAGES), mtime=0)]),
       tail=st.binary(max_size=80), packed=st.booleans(),
       flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=3))
def test_any_bytes_give_an_array_or_a_value_error(tmp_path_factory, head, tail, packed, flips):
    data = bytearray(gzip.compress(head + tail) if packed else head + tail)
    for place, mask in flips:
        if data:
            data[place % len(data)] ^= mask
    path = tmp_path_factory.getbasetemp() / "any.idx"
    path.write_bytes(bytes(data))
    try:
        array = idx.read(str(path))
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert 0 < array.nbytes <= idx.MAX_INFLATION * len(data)
