"""Laws of `input_pipeline.examples`: what protobuf writes is read, and anything else is one ValueError, soon.

Mutations, each of which turned tests here red: no bound on the number of features; a length believed beyond the
record; unpacked int64 not read; a negative label taken as a large one; the first of two equal keys counts.
"""

import time
import tracemalloc

import pytest
import shard_files
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline import examples
from input_pipeline.examples import _message, _varint

NAMES = st.sampled_from(["image/encoded", "image/class/label", "image", "", "ä", "x" * 200])
VALUES = st.one_of(st.binary(max_size=300), st.integers(-2**63, 2**63 - 1), st.floats(width=32, allow_nan=False))


@settings(max_examples=200, deadline=None)
@given(features=st.dictionaries(NAMES, VALUES, max_size=6), label=st.integers(0, 2**31), image=st.binary(max_size=300))
def test_what_protobuf_writes_is_read(features, label, image):
    record = tf.train.Example(features=tf.train.Features(feature={
        name: shard_files.feature(value) for name, value in (features | {"i": image, "l": label}).items()}))
    data = record.SerializeToString()
    assert examples.image_and_label(data, "i", "l", 2**31 + 1) == (image, label)
    assert set(examples.names(data)) == set(features) | {"i", "l"}


@settings(max_examples=100, deadline=None)
@given(image=st.binary(max_size=300), label=st.integers(0, 99_999), name=st.text(max_size=20))
def test_what_is_encoded_protobuf_reads(image, label, name):
    try:
        name.encode()
    except UnicodeEncodeError:
        name = "surrogates"
    data = examples.encode(image=image, label=label, name=name)
    feature = tf.train.Example.FromString(data).features.feature
    assert feature["image/encoded"].bytes_list.value == [image]
    assert feature["image/class/label"].int64_list.value == [label]
    assert feature["image/filename"].bytes_list.value == [name.encode()]
    assert examples.image_and_label(data, examples.IMAGE, examples.LABEL, 100_000) == (image, label)


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_anything_else_is_a_value_error(data):
    """Changed, cut and random bytes; where something is found, it lies within the record."""
    record = bytearray(shard_files.example(image__encoded=b"\xff\xd8\xff" * 9, image__class__label=3, other=1.5))
    for _ in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(["byte", "cut", "insert"]))
        position = data.draw(st.integers(0, max(0, len(record) - 1)))
        if kind == "byte" and record:
            record[position] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del record[position:]
        else:
            record[position:position] = data.draw(st.binary(max_size=12))
    try:
        image, label = examples.image_and_label(bytes(record), examples.IMAGE, examples.LABEL, 5)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert image in bytes(record) and 0 <= label < 5
    try:
        examples.names(bytes(record))
    except ValueError as error:
        assert "\n" not in str(error)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200))
def test_random_bytes_are_a_value_error(data):
    with pytest.raises(ValueError):
        examples.image_and_label(data, examples.IMAGE, examples.LABEL, 5)


def entry(name: bytes, feature: bytes) -> bytes:
    return _message(1, _message(1, name) + _message(2, feature))


def with_label(feature: bytes) -> bytes:
    return _message(1, entry(b"i", _message(1, _message(1, b"image"))) + entry(b"l", feature))


@pytest.mark.parametrize("feature, words", [
    (_message(1, _message(1, b"3")), "holds bytes; it must hold int64"),
    (_message(2, _message(1, b"\0\0\0\0")), "holds float; it must hold int64"),
    (b"", "holds nothing; it must hold int64"),
    (_message(3, b""), "holds no values; it must hold one"),
    (_message(3, _message(1, b"\1\2")), "holds several values"),
    (_message(3, _message(1, b"\1" * 10_000)), "holds several values"),
    (_message(3, _message(1, _varint(-1))), "holds -1; labels must be 0 to 4"),
    (_message(3, _message(1, _varint(5))), "holds 5; labels must be 0 to 4"),
    (_message(3, _message(1, _varint(2**63 - 1))), f"holds {2**63 - 1}; labels must be 0 to 4"),
    (_message(3, _message(1, b"\xff" * 11)), "is no tf.train.Example"),
])
def test_a_wrong_label_is_named(feature, words):
    with pytest.raises(ValueError, match="^feature l: ") as error:
        examples.image_and_label(with_label(feature), "i", "l", 5)
    assert words in str(error.value)
    with pytest.raises(ValueError):
        examples.label_only(with_label(feature), "l", 5)


@pytest.mark.parametrize("feature", [_message(3, _message(1, b"\3")), _message(3, b"\x08\3")])
def test_a_label_may_be_packed_or_not(feature):
    assert examples.label_only(with_label(feature), "l", 5) == 3


def test_a_missing_or_repeated_image_is_named():
    label = entry(b"l", _message(3, _message(1, b"\3")))
    with pytest.raises(ValueError, match="feature i: is not there"):
        examples.image_and_label(_message(1, label), "i", "l", 5)
    two = entry(b"i", _message(1, _message(1, b"a") + _message(1, b"b")))
    with pytest.raises(ValueError, match="feature i: holds 2 values; it must hold one"):
        examples.image_and_label(_message(1, label + two), "i", "l", 5)


def test_of_two_features_of_one_name_the_last_counts_as_in_protobuf():
    one, two = (entry(b"l", _message(3, _message(1, number))) for number in (b"\1", b"\2"))
    data = _message(1, one + two)
    assert tf.train.Example.FromString(data).features.feature["l"].int64_list.value == [2]
    assert examples.label_only(data, "l", 5) == 2


@pytest.mark.parametrize("bomb", [
    b"\x0a\x00" * 5_000_000,                                            # millions of Features
    _message(1, b"\x0a\x00" * 5_000_000),                               # of features
    _message(1, entry(b"l", _message(3, b"\x08\x01" * 5_000_000))),     # of values
    _message(1, entry(b"l", b"\x1a\x00" * 5_000_000)),                  # of lists
    _message(1, _message(1, b"\x0a\x00" * 5_000_000)),                  # of names
    _message(1, b"".join(entry(b"%d" % k, b"") for k in range(200_000))),
    b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(100),           # a length of 2^63
    b"\x0b" * 1_000_000,                                                # groups within groups
], ids=["Features", "features", "values", "lists", "names", "different", "length", "groups"])
def test_a_bomb_costs_neither_memory_nor_time(bomb):
    tracemalloc.start()
    begun = time.process_time()
    with pytest.raises(ValueError):
        examples.image_and_label(bomb, "i", "l", 5)
    with pytest.raises(ValueError):
        examples.names(bomb)
        examples.label_only(bomb, "l", 5)
    seconds, (_, peak) = time.process_time() - begun, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000 and seconds < 1.0
