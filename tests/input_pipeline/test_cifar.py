"""cifar10: the binary records are read as they are laid out, and damage is named.

Mutation: names that are no text are decoded without a word of where they stand.
"""

import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline import cifar, datasets

RECORDS = 3  # a file, in these tests


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """A folder with six small files; pixel (y, x) of channel c of example n in file f is known: `pixel`."""
    monkeypatch.setattr(cifar, "RECORDS_A_FILE", RECORDS)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number, name in enumerate([f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]):
        records = bytearray()
        for example in range(RECORDS):
            records.append((number + example) % 10)
            records += bytes(pixel(number, example, y, x, channel)
                             for channel in range(3) for y in range(32) for x in range(32))
        (folder / name).write_bytes(bytes(records))
    return str(tmp_path)


def pixel(file, example, y, x, channel):
    return (y * 7 + x * 3 + channel * 50 + example * 11 + file * 17) % 256


def test_records_are_a_label_and_three_planes(data_dir):
    """Mutations: NCHW read as NHWC; height and width exchanged; the label byte at the end."""
    y, x, c = np.meshgrid(np.arange(32), np.arange(32), np.arange(3), indexing="ij")
    for split, files in (("train", range(5)), ("test", [5])):
        source = cifar.load(split, data_dir)
        assert len(source) == len(files) * RECORDS and source.input_shape == (32, 32, 3)
        batch = source.read(tf.range(len(source), dtype=tf.int64))
        assert batch["input"].dtype == tf.uint8
        for k, (file, example) in enumerate((file, example) for file in files for example in range(RECORDS)):
            assert np.array_equal(batch["input"][k], pixel(file, example, y, x, c))
            assert batch["label"][k] == (file + example) % 10


def test_describe_counts_the_examples_and_lists_the_files(data_dir):
    info = cifar.describe(data_dir)
    assert (info.train_examples, info.test_examples, info.input_shape) == (5 * RECORDS, RECORDS, (32, 32, 3))
    assert len(info.files) == 6 and all(os.path.isfile(path) for path in info.files)


def test_the_published_facts():
    info = cifar.facts()
    assert (info.train_examples, info.test_examples, len(info.classes)) == (50_000, 10_000, 10)


def test_class_names_come_from_the_data_where_it_has_them(data_dir):
    assert cifar.describe(data_dir).classes[:2] == ("airplane", "automobile")
    path = pathlib.Path(data_dir, "cifar-10-batches-bin", "batches.meta.txt")
    path.write_text("\n".join(f"name {k}" for k in range(10)) + "\n\n")
    assert cifar.load("test", data_dir).classes == tuple(f"name {k}" for k in range(10))
    path.write_text("one\ntwo\n")
    with pytest.raises(ValueError, match="batches.meta.txt names 2 classes instead of 10"):
        cifar.describe(data_dir)


@pytest.mark.parametrize("damage, words", [
    (lambda path: path.unlink(), ["no file", "data_batch_3.bin"]),
    (lambda path: path.write_bytes(path.read_bytes()[:-1]), ["data_batch_3.bin", "9218 bytes", "9219"]),
])
@pytest.mark.parametrize("verb", [cifar.describe, lambda data_dir: cifar.load("test", data_dir)])
def test_missing_and_cut_files_are_named_with_the_command_that_gets_them(data_dir, damage, words, verb):
    damage(pathlib.Path(data_dir, "cifar-10-batches-bin", "data_batch_3.bin"))
    with pytest.raises(datasets.MissingData) as error:
        verb(data_dir)
    assert "\n" not in str(error.value)
    command = f"python -m input_pipeline.prepare --dataset=cifar10 --output={data_dir}"
    for word in [*words, command, "--download"]:
        assert word in str(error.value)


@pytest.mark.parametrize("data_dir", [None, "", "/nowhere"])
def test_no_folder_is_missing_data(data_dir):
    with pytest.raises(datasets.MissingData, match="prepare --dataset=cifar10"):
        cifar.describe(data_dir)


def test_a_wrong_label_is_named_with_file_and_offset(data_dir):
    path = pathlib.Path(data_dir, "cifar-10-batches-bin", "data_batch_2.bin")
    content = bytearray(path.read_bytes())
    content[2 * 3073] = 10
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"data_batch_2.bin: label 10 at byte 6146; .*must be 0\.\.9"):
        cifar.load("train", data_dir)


@pytest.mark.parametrize("length, words", [(0, "at byte 0 has 0 bytes"), (3072, "at byte 0 has 3072 bytes"),
                                           (2 * 3073 + 5, "at byte 6146 has 5 bytes")])
def test_a_file_of_broken_records_is_refused(tmp_path, length, words):
    path = tmp_path / "some.bin"
    path.write_bytes(bytes(length))
    with pytest.raises(ValueError, match=f"some.bin.*{words}.*3073"):
        cifar.read_file(str(path))


@settings(derandomize=True, database=None, deadline=None, max_examples=300)
@given(st.integers(0, 3 * 3073), st.binary(max_size=6), st.integers(0, 3 * 3073))
def test_any_file_is_whole_records_or_a_value_error(tmp_path_factory, place, new, length):
    whole = b"\5" * (3 * 3073)
    content = whole[:place] + new + whole[place + length:]
    path = tmp_path_factory.mktemp("cifar") / "some.bin"
    path.write_bytes(content)
    records = [content[start:start + 3073] for start in range(0, len(content), 3073)]
    if not content or len(records[-1]) < 3073 or any(record[0] > 9 for record in records):
        with pytest.raises(ValueError, match=r"some\.bin: (the record|label \d+) at byte \d+"):
            cifar.read_file(str(path))
    else:
        images, labels = cifar.read_file(str(path))
        assert labels.tolist() == [record[0] for record in records]
        assert [image.transpose(2, 0, 1).tobytes() for image in images] == [record[1:] for record in records]


@settings(derandomize=True, database=None, deadline=None, max_examples=300)
@given(st.binary(max_size=40) | st.lists(st.text(max_size=4), max_size=12).map(lambda names: "\n".join(names).encode()))
def test_any_class_names_are_ten_or_a_value_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("cifar") / "cifar-10-batches-bin" / "batches.meta.txt"
    path.parent.mkdir()
    path.write_bytes(content)
    try:
        assert len(cifar.class_names(str(path.parents[1]))) == 10
    except ValueError as error:
        assert "batches.meta.txt" in str(error)


def test_real_data(cifar10):
    info = datasets.describe("cifar10", cifar10)
    assert (info.train_examples, info.test_examples) == (50_000, 10_000)
    assert info.classes == cifar.CLASSES
    source = datasets.load("cifar10", "test", cifar10)
    batch = source.read(tf.range(len(source), dtype=tf.int64))
    assert np.bincount(batch["label"]).tolist() == [1000] * 10
    # Photos are smooth: neighbours differ by 0.23 to 0.25 deviations, in a wrong layout by 0.46 to 0.55.
    images = batch["input"].numpy().astype(np.float32)
    for axis in (1, 2):
        assert np.abs(np.diff(images, axis=axis)).mean() < 0.35 * images.std()
