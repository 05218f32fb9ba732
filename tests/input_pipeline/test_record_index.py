"""Laws of `input_pipeline.record_index`: it agrees with TensorFlow's reader, and damage is one ValueError.

Mutations, each of which turned tests here red: no check of a length's checksum, of the content's; no bound by the
file's size, by MAX_RECORD_BYTES; an index believed without its checksum, of another size of the shard.
"""

import struct

import numpy as np
import pytest
import shard_files
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline import record_index, storage

STATUS = storage.Status(5266, 1, 2)
RECORDS = [b"a", b"bc" * 100, b"\0" * 5000, b"d"]


@pytest.fixture
def shard(tmp_path):
    return shard_files.write(tmp_path / "x.tfrecord", RECORDS)


def content(path, offset: int, length: int) -> bytes:
    with storage.Reader(str(path)) as file:
        return record_index.content(file, offset, length)


def header(length: int, crc: int | None = None) -> bytes:
    packed = struct.pack("<Q", length)
    return packed + struct.pack("<I", record_index.masked_crc(packed) if crc is None else crc)


@settings(max_examples=50, deadline=None)
@given(records=st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=20))
def test_what_is_framed_is_what_tensorflow_reads_and_the_index_finds(records, tmp_path_factory):
    path = tmp_path_factory.mktemp("shard") / "x.tfrecord"
    path.write_bytes(b"".join(map(record_index.framed, records)))
    assert [record.numpy() for record in tf.data.TFRecordDataset(str(path))] == records
    index = record_index.scan(str(path))
    found = [content(path, offset, length) for offset, length in zip(index.offsets.tolist(), index.lengths.tolist())]
    assert found == records
    again = record_index.decoded(record_index.encoded(index), index.shard, "x.index")
    assert np.array_equal(again.lengths, index.lengths) and again.largest_label == -1


def test_a_saved_index_is_whole_and_the_same(shard, tmp_path):
    index = record_index.scan(str(shard))
    record_index.save(str(tmp_path / "i"), index)
    again = record_index.load(str(tmp_path / "i"), index.shard)
    assert again.lengths.tolist() == list(map(len, RECORDS)) and again.offsets.tolist() == [0, 17, 233, 5249]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i", "x.tfrecord"]


@pytest.mark.parametrize("content, words", [
    (b"", "is empty"),
    (b"abc", "ends within the header of record 0"),
    (b"no TFRecord file at all", "record 0, at byte 0: the checksum of its length is wrong"),
    (header(0) + bytes(4), "record 0, at byte 0, is empty"),
    (header(2**63), f"is said to have {2**63} bytes"),
    (header(2**64 - 1), f"is said to have {2**64 - 1} bytes"),
    (header(record_index.MAX_RECORD_BYTES + 1), "67108864 are the most"),
    (header(1000) + bytes(20), "ends 984 bytes behind the end of the file"),
    (header(5, crc=1) + bytes(9), "the checksum of its length is wrong"),
    (b"\x1f\x8b" + bytes(100), "is compressed by gzip"),
])
def test_a_shard_that_is_none_is_refused_from_its_headers(content, words, tmp_path):
    path = tmp_path / "bad.tfrecord"
    for before, number in ((b"", 0), (record_index.framed(b"fine"), 1)):
        path.write_bytes(before + content)
        if number and (not content or "gzip" in words):
            continue
        with pytest.raises(ValueError) as error:
            record_index.scan(str(path))
        said = words.replace("record 0", f"record {number}").replace("at byte 0", f"at byte {len(before)}")
        assert str(error.value).startswith(str(path)) and said in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("keep", [0, 1, 233 + 11, 233 + 12, 233 + 5000, 5249 + 16])
def test_a_shard_that_is_cut_is_refused(keep, shard):
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(ValueError, match="x.tfrecord.*(empty|ends|cut off)"):
        record_index.scan(str(shard))


def test_any_changed_byte_of_a_record_is_seen(shard):
    whole = shard.read_bytes()
    for position in (*range(17), 17, 24, 29, 100, 228, 232):
        number = 0 if position < 17 else 1
        offset, length = (0, 1) if number == 0 else (17, 200)
        shard.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1:])
        with pytest.raises(ValueError, match="checksum|length is not"):
            content(shard, offset, length)


def test_a_file_that_shrank_is_seen_when_a_record_is_read(shard):
    shard.write_bytes(shard.read_bytes()[:300])
    with pytest.raises(ValueError, match="the file ends within it, at byte 300"):
        content(shard, 233, 5000)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_index_is_refused(data):
    """Changed bits, cuts, additions: nothing but ValueError, and never another index."""
    index = record_index.Index(shard=STATUS, lengths=np.array(list(map(len, RECORDS)), np.uint32))
    content = bytearray(record_index.encoded(index))
    kind = data.draw(st.sampled_from(["bit", "cut", "add", "any"]))
    if kind == "bit":
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del content[data.draw(st.integers(0, len(content) - 1)):]
    elif kind == "add":
        content += data.draw(st.binary(min_size=1, max_size=40))
    else:
        content = data.draw(st.binary(max_size=100))
    with pytest.raises(ValueError, match="^x.index: "):
        record_index.decoded(bytes(content), STATUS, "x.index")


@pytest.mark.parametrize("change, words", [
    ({"shard": STATUS._replace(size=5300)}, "is the index of another file"),
    ({"shard": STATUS._replace(modified=3)}, "is the index of another file"),
    ({"shard": STATUS._replace(changed=3)}, "is the index of another file"),
    ({"lengths": np.array([5265 - 16], np.uint32)}, None),
    ({"lengths": np.array([1, 200, 5000, 2], np.uint32)}, "records have 5267 bytes together"),
    ({"lengths": np.array([0, 201, 5000, 1], np.uint32)}, "must be 1 to"),
    ({"lengths": np.array([2**32 - 1], np.uint32)}, "must be 1 to"),
    ({"lengths": np.array([], np.uint32)}, "0 records"),
    ({"largest_label": -2}, "its largest label is -2"),
])
def test_an_index_with_a_right_checksum_must_still_fit(change, words):
    """As an attacker would write it."""
    values = {"shard": STATUS, "lengths": np.array([1, 200, 5000, 1], np.uint32)} | change
    content = record_index.encoded(record_index.Index(**values))
    with pytest.raises(ValueError, match=words or "together"):
        record_index.decoded(content, STATUS, "x.index")


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=400))
def test_a_scan_of_anything_ends_with_an_index_or_a_value_error(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "x.tfrecord"
    path.write_bytes(content)
    with pytest.raises(ValueError):
        record_index.scan(str(path))
