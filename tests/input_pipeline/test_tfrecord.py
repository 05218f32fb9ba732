"""Laws of the data set `tfrecord`: any record in any order, as TensorFlow reads it; what is broken is named.

Mutations, each of which turned tests here red: offsets of another shard; labels in the order of the shards; the
checksum of a record not looked at; a grey image decoded as RGB.
"""

import os
import resource
import subprocess
import sys

import numpy as np
import pytest
import shard_files
import tensorflow as tf

from input_pipeline import augment, datasets, description, examples, order, pipeline, record_index, sources, tfrecord


@pytest.fixture
def folder(tmp_path):
    """15 records in three shards: image n is png(n), its label n % 3; 10 for training."""
    return shard_files.foreign(tmp_path / "set")


def own(folder, images, *, shape, encoding="png", more=()):
    """A set with dataset.json and one shard: encoded `images`, then the records `more`."""
    folder.mkdir()
    path = folder / "train-00000-of-00001.tfrecord"
    records = [shard_files.example(image__encoded=data, image__class__label=k % 2) for k, data in enumerate(images)]
    records += more
    shard_files.write(path, records)
    entry = {"file": path.name, "split": "train", "records": len(records), "bytes": path.stat().st_size,
             "sha256": "0" * 64}
    (folder / description.FILE).write_bytes(description.encode(
        name="own", classes=("a", "b"), image_shape=shape, encoding=encoding, identity="", skipped=[], shards=[entry]))
    return folder


def test_records_are_read_in_any_order(folder):
    source = datasets.load("tfrecord", "train", str(folder), image_size=8)
    assert isinstance(source, sources.SlowSource)
    assert len(source) == 10 and source.input_shape == (8, 8, 3) and source.classes == ("0", "1", "2")
    wanted = [7, 0, 9, 9, 3]
    batch = source.read(tf.constant(wanted, tf.int64))
    assert batch["label"].numpy().tolist() == [k % 3 for k in wanted] and batch["label"].dtype == tf.int32
    for k, image in zip(wanted, batch["input"].numpy()):
        assert np.array_equal(image, shard_files.pixels(k)) and image.dtype == np.uint8
    assert source.place(7) == f"{folder}/train-00001-of-00002, record 2"
    validation = datasets.load("tfrecord", "validation", str(folder), image_size=8)
    assert len(validation) == 5
    assert np.array_equal(validation.read(tf.constant([1], tf.int64))["input"][0], shard_files.pixels(11))


def test_facts_and_description(folder):
    assert datasets.facts("tfrecord").input_shape == (224, 224, 3)
    info = datasets.describe("tfrecord", str(folder), image_size=32)
    assert info.examples == {"train": 10, "validation": 5} and info.input_shape == (32, 32, 3)
    assert info.classes == ("0", "1", "2") and len(info.notes) == 1
    with pytest.raises(ValueError, match="split='test': must be one of train, validation"):
        datasets.load("tfrecord", "test", str(folder))
    with pytest.raises(ValueError, match="image_size=-1 must be"):
        datasets.describe("tfrecord", str(folder), image_size=-1)
    with pytest.raises(ValueError, match="no data_dir"):
        datasets.describe("tfrecord")


def test_the_pipeline_takes_the_same_batches_on_any_number_of_replicas(folder):
    """The order of the records is that of the seed and the step; a later start gives the same tail."""
    source = datasets.load("tfrecord", "train", str(folder), image_size=8)

    def batches(replicas, start):
        dataset = pipeline.training(source, augment.parse(""), seed=3, batch_size=6, start_step=start,
                                    replicas=replicas, local_replicas=replicas)
        parts = [part for part, _ in zip(dataset, range((5 - start) * replicas))]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    whole = batches(1, 0)
    indices = np.concatenate([order.indices(step, seed=3, batch_size=6, examples=10) for step in range(5)])
    assert np.array_equal(whole["index"], indices) and np.array_equal(whole["label"], indices % 3)
    for index, image in zip(indices, whole["input"]):
        assert np.array_equal(image, shard_files.pixels(int(index)).astype(np.float32))
    for replicas, start in ((2, 0), (3, 2)):
        again = batches(replicas, start)
        for name in ("input", "label", "index"):
            assert np.array_equal(again[name], whole[name][6 * start:]), name


def test_images_of_one_size_are_taken_as_they_are(tmp_path):
    grey = [np.random.default_rng(k).integers(0, 256, (6, 10, 1), np.uint8) for k in range(4)]
    folder = own(tmp_path / "grey", [tf.io.encode_png(image).numpy() for image in grey], shape=(6, 10, 1))
    assert datasets.describe("tfrecord", str(folder)).input_shape == (6, 10, 1)
    source = datasets.load("tfrecord", "train", str(folder))
    assert np.array_equal(source.read(tf.range(4, dtype=tf.int64))["input"], grey)
    squares = datasets.load("tfrecord", "train", str(folder), image_size=6)
    assert squares.read(tf.range(4, dtype=tf.int64))["input"].shape == (4, 6, 6, 3)
    folder = own(tmp_path / "jpeg", [shard_files.jpeg(k, height=16, width=16) for k in range(4)], shape=(16, 16, 3),
                 encoding="jpeg")
    source = datasets.load("tfrecord", "train", str(folder))
    assert source.input_shape == (16, 16, 3)
    colours = source.read(tf.range(4, dtype=tf.int64))["input"].numpy()[:, 8, 8].astype(int)
    assert np.abs(colours - [shard_files.pixels(k)[0, 0].astype(int) for k in range(4)]).max() <= 3


def broken(folder, number, damage):
    """Damages the record, and returns a source that was loaded before."""
    source = datasets.load("tfrecord", "train", str(folder), image_size=8)
    path = folder / "train-00001-of-00002"
    content = bytearray(path.read_bytes())
    offset, length = shard_files.frames(path)[number]
    damage(content, offset, length)
    path.write_bytes(content)
    return source


def flip(content, offset, length):
    content[offset + 40] ^= 1


def cut(content, offset, length):
    del content[offset + 20:]


def no_png(content, offset, length):
    """A record whose checksums are right, and whose image is not."""
    at = content.index(b"IDAT", offset)
    content[at + 8] ^= 0xFF
    content[offset:offset + length + 16] = record_index.framed(bytes(content[offset + 12:offset + 12 + length]))


@pytest.mark.parametrize("damage, words", [
    (flip, "the checksum of its content is wrong"), (cut, "the file ends within it"),
    (no_png, "is a damaged PNG file")])
def test_a_broken_record_is_named_with_its_shard(damage, words, folder):
    source = broken(folder, 3, damage)
    batches = iter(pipeline.training(source, augment.parse(""), seed=0, batch_size=10, start_step=0, replicas=1,
                                     local_replicas=1))
    with pytest.raises(READ_ERRORS):
        for _ in range(2):
            next(batches)
    found = pipeline.unreadable(source, seed=0, batch_size=10, step=0)
    assert found.startswith(f"{folder}/train-00001-of-00002, record 3: ") and words in found and "\n" not in found
    assert source.find_broken([k for k in range(8)]) is None


def test_a_file_that_is_gone_and_a_label_without_a_class_are_named(folder):
    (folder / "labels.txt").write_text("a\nb\n")  # and there are labels 2
    source = datasets.load("tfrecord", "train", str(folder), image_size=8)
    place, why = source.find_broken(range(10))
    assert place.endswith("train-00000-of-00002, record 2") and why.endswith("holds 2; labels must be 0 to 1")
    (folder / "train-00001-of-00002").unlink()
    assert source.find_broken([6]) == (f"{folder}/train-00001-of-00002, record 1", "No such file or directory")
    with pytest.raises(tf.errors.NotFoundError, match="train-00001-of-00002; No such file"):
        source.read(tf.constant([0, 6], tf.int64))
    with pytest.raises(tf.errors.InvalidArgumentError, match="no class has the label"):
        source.read(tf.constant([2], tf.int64))


# TensorFlow's message of what is no Example holds its bytes; Python fails to make a text of them.
READ_ERRORS = (*pipeline.READ_ERRORS, UnicodeDecodeError)
IMAGE, LABEL = {"image__encoded": shard_files.png(1)}, {"image__class__label": 1}


@pytest.mark.parametrize("record, words", [
    (b"no example at all", "is no tf.train.Example"), (bytes(range(128, 256)), "is no tf.train.Example"),
    (shard_files.example(**IMAGE), "feature image/class/label: is not there"),
    (shard_files.example(**LABEL), "feature image/encoded: is not there"),
    (shard_files.example(**IMAGE, image__class__label=b"1"), "image/class/label: holds bytes; it must hold int64"),
    (shard_files.example(**LABEL, image__encoded=3), "image/encoded: holds int64; it must hold bytes"),
    (shard_files.example(**LABEL, image__encoded=1.5), "image/encoded: holds float; it must hold bytes"),
    (shard_files.example(**IMAGE, image__class__label=2), "holds 2; labels must be 0 to 1"),
    (shard_files.example(**IMAGE, image__class__label=-1), "holds -1; labels must be 0 to 1"),
    (shard_files.example(**IMAGE, image__class__label=2**32), f"holds {2**32}; labels must be 0 to 1"),
    (b"\x0a\x00" * 3_000_000, "has more than"), (examples._message(1, b"\x0a\x00" * 3_000_000), "has more than"),
], ids=lambda value: value if isinstance(value, str) else "record")  # protobuf writes the features in any order, so that ids of their bytes would differ between processes
def test_a_record_that_is_no_labelled_image_is_named(record, words, tmp_path):
    """With checksums that are right, as a stranger may write it."""
    folder = own(tmp_path / "set", [shard_files.png(0)] * 3, shape=(8, 8, 3), more=[record])
    source = datasets.load("tfrecord", "train", str(folder))
    batches = iter(pipeline.training(source, augment.parse(""), seed=0, batch_size=4, start_step=0, replicas=1,
                                     local_replicas=1))
    with pytest.raises(READ_ERRORS):
        next(batches)
    found = pipeline.unreadable(source, seed=0, batch_size=4, step=0)
    assert found.startswith(f"{folder}/train-00000-of-00001.tfrecord, record 3: ") and words in found


@pytest.mark.parametrize("data, words", [
    (shard_files.png(1, height=9), "has the shape (9, 8, 3), and dataset.json says (8, 8, 3)"),
    (b"", "is empty"), (shard_files.jpeg(1)[:100], "is a damaged JPEG file"), (b"MZ" * 50, "is none of PNG, JPEG")])
def test_an_image_that_is_not_what_dataset_json_says_is_named(data, words, tmp_path):
    folder = own(tmp_path / "set", [shard_files.png(0), data], shape=(8, 8, 3))
    source = datasets.load("tfrecord", "train", str(folder))
    with pytest.raises(tf.errors.OpError):
        source.read(tf.constant([1], tf.int64))
    place, why = source.find_broken(range(2))
    assert place.endswith("record 1") and words in why


def test_an_image_of_a_size_that_only_its_header_states_is_not_decoded(tmp_path):
    data = bytearray(shard_files.png(0))
    data[16:24] = (50_000).to_bytes(4, "big") * 2  # 7.5 GB of pixels
    folder = own(tmp_path / "set", [shard_files.png(1), bytes(data)], shape=(8, 8, 3))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for options in ({}, {"image_size": 8}):
        source = datasets.load("tfrecord", "train", str(folder), **options)
        with pytest.raises(tf.errors.InvalidArgumentError):
            source.read(tf.constant([1], tf.int64))
        assert "has 50000 x 50000 pixels" in source.find_broken([1])[1]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


@pytest.mark.parametrize("damage, words", [
    (lambda path: path.write_bytes(path.read_bytes()[:-1]), "instead of"), (lambda path: path.unlink(), "is missing"),
    (lambda path: path.write_bytes(path.read_bytes() + record_index.framed(b"more")), "instead of")])
def test_a_shard_that_is_not_as_dataset_json_says_is_refused_before_training(damage, words, tmp_path):
    folder = own(tmp_path / "set", [shard_files.png(0)] * 3, shape=(8, 8, 3))
    damage(folder / "train-00000-of-00001.tfrecord")
    with pytest.raises(ValueError, match=f"train-00000-of-00001.tfrecord: .*{words}"):
        datasets.describe("tfrecord", str(folder))


def test_a_description_needs_no_tensorflow(folder):
    program = ("import sys; from input_pipeline import datasets; "
               f"print(datasets.describe('tfrecord', {str(folder)!r}).train_examples, 'tensorflow' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "10 False\n"


LARGE = """
import sys
import numpy as np, tensorflow as tf
from input_pipeline import augment, pipeline, tfrecord
source = tfrecord.load("train", sys.argv[1], image_size=32)
batches = iter(pipeline.training(source, augment.parse(""), seed=0, batch_size=64, start_step=0, replicas=1,
                                 local_replicas=1))
seen = np.concatenate([next(batches)["index"] for _ in range(60)])
highest = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(len(source), len(set(seen)), highest, flush=True)
"""


@pytest.mark.slow
def test_a_set_of_four_gigabytes_is_read_at_random_within_one(tmp_path):
    """Memory does not grow with the set: 0.68 GB were measured, of which 0.65 are TensorFlow's."""
    folder = tmp_path / "large"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (160, 400, 400, 3), np.uint8)
    block = b"".join(record_index.framed(shard_files.example(
        image__encoded=tf.io.encode_jpeg(image, quality=95).numpy(), image__class__label=0)) for image in noise)
    (folder / "labels.txt").write_text("noise\n")
    try:
        for shard in range(8):
            with open(folder / f"train-{shard:05d}-of-00008", "wb") as file:
                for _ in range(-(-2**29 // len(block))):
                    file.write(block)
        assert sum(path.stat().st_size for path in folder.iterdir()) > 4 * 2**30
        done = subprocess.run([sys.executable, "-c", LARGE, str(folder)], capture_output=True, text=True, timeout=500,
                              env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
        assert done.returncode == 0, done.stderr[-2000:]
        records, different, kilobytes = map(int, done.stdout.split())
        assert records > 10_000 and different == 3840 and kilobytes < 1_000_000, done.stdout
    finally:
        for path in folder.iterdir():
            path.unlink()
