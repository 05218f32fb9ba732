"""Laws of `input_pipeline.description`: what is written is read, and a wrong value is named.

Mutations, each of which turned tests here red: file names with folders; counts not compared; bool taken as a number.
"""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline import description

SHARDS = [{"file": "train-00000-of-00001.tfrecord", "split": "train", "records": 3, "bytes": 100, "sha256": "0" * 64},
          {"file": "test-00000-of-00001.tfrecord", "split": "test", "records": 1, "bytes": 50, "sha256": "1" * 64}]
CONTENT = description.encode(name="pets", classes=("cat", "dog"), image_shape=(8, 8, 3), encoding="png",
                             identity="x", skipped=["cat/1.jpg"], shards=SHARDS)


def changed(**changes) -> bytes:
    return json.dumps(json.loads(CONTENT) | changes).encode()


def of_shard(**changes) -> bytes:
    return changed(shards=[SHARDS[0] | changes, SHARDS[1]])


def test_what_is_written_is_read():
    values = description.parse(CONTENT, "d")
    assert values["classes"] == ["cat", "dog"] and values["shards"] == SHARDS
    assert values["examples"] == {"train": 3, "validation": 0, "test": 1}


@pytest.mark.parametrize("content, words", [
    (b"", "is no JSON"), (b"{", "is no JSON"), (b"\xff\xfe", "is no JSON"), (b"[" * 200_000, "is no JSON"),
    (b"[]", "format must be"), (b"null", "format must be"), (changed(format="x"), "format must be"),
    (changed(version=2), "version must be 1"), (changed(version=True), "version must be 1"),
    (changed(classes=[]), "classes must be"), (changed(classes=["a", 3]), "classes must be"),
    (changed(classes=["a\x1b[2J"]), "classes must be"), (changed(classes="ab"), "classes must be"),
    (changed(image_shape=[8, 8]), "image_shape must be"), (changed(image_shape=[8, 8, 4]), "image_shape must be"),
    (changed(image_shape=[8, -8, 3]), "image_shape must be"), (changed(image_shape=[True, 8, 3]), "image_shape must"),
    (changed(image_shape=[10**5, 10**5, 3]), "image_shape must"), (changed(image_shape=[1.5, 8, 3]), "image_shape"),
    (changed(encoding=None), "encoding must be"), (changed(image_shape=None), "encoding must be"),
    (changed(encoding="gif"), "encoding must be"),
    (changed(shards=[]), "shards must be a list"), (changed(shards={}), "shards must be a list"),
    (changed(shards=[3]), "shards[0] must be an object"), (changed(shards=[SHARDS[0]] * 2), "have different files"),
    (of_shard(file="../x.tfrecord"), "shards[0]: file"), (of_shard(file="/etc/passwd"), "shards[0]: file"),
    (of_shard(file=".."), "shards[0]: file"), (of_shard(file="a\n"), "shards[0]: file"),
    (of_shard(file=3), "shards[0]: file"),
    (of_shard(split="eval"), "shards[0]: split"), (of_shard(split=["train"]), "shards[0]: split"),
    (of_shard(records=0), "shards[0]: records"), (of_shard(records=2**80), "shards[0]: records"),
    (of_shard(bytes="9"), "shards[0]: records and bytes"), (of_shard(bytes=-1), "shards[0]: records and bytes"),
    (of_shard(sha256="0" * 63), "shards[0]: sha256"), (of_shard(sha256=None), "shards[0]: sha256"),
    (changed(examples={"train": 4}), "examples must be"), (changed(examples=None), "examples must be"),
    (changed(shards=SHARDS[1:]), "no shard is for training"), (changed(skipped=[3]), "skipped must be"),
    (changed(identity=3), "identity must be"),
])
def test_a_wrong_value_is_named_in_one_line(content, words):
    with pytest.raises(ValueError) as error:
        description.parse(content, "set/dataset.json")
    assert str(error.value).startswith("set/dataset.json: ") and words in str(error.value)
    assert "\n" not in str(error.value)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
                    max_leaves=8)


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(list(json.loads(CONTENT))), value=JSON, of=st.booleans())
def test_any_value_anywhere_is_read_or_a_value_error(name, value, of):
    content = of_shard(**{sorted(SHARDS[0])[len(name) % 5]: value}) if of else changed(**{name: value})
    try:
        values = description.parse(content, "d")
    except ValueError as error:
        assert str(error).startswith("d: ")
    else:
        assert values["classes"] and values["shards"]
