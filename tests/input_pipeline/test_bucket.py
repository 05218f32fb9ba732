"""Google Cloud Storage: whole objects, generations, parts; and what is said where it does not work. Data sets read from it."""

import gzip
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import shard_files
import tensorflow as tf
from test_series import lines as months

from input_pipeline import augment, bucket, bucket_calls, datasets, pipeline, record_index, shards, storage, tfrecord


@pytest.fixture(autouse=True)
def no_set_is_known():
    tfrecord._found_once.cache_clear()


def test_an_object_is_what_was_written_and_no_other_generation_is_replaced(store):
    """Mutations: ifGenerationMatch is not sent; a lost answer to a first try counts as somebody else's object."""
    first = bucket.write("gs://bucket/a/b.txt", b"first", generation=0)
    assert (first.size, first.crc32c) == (5, bucket.crc32c(b"first")) and first.age < 5
    assert bucket.write("gs://bucket/a/b.txt", b"first", generation=0) == first  # sent again: the answer was lost
    with pytest.raises(FileExistsError, match="written by another process"):
        bucket.write("gs://bucket/a/b.txt", b"second", generation=0)
    second = bucket.write("gs://bucket/a/b.txt", b"second", generation=first.generation)
    with pytest.raises(FileExistsError):
        bucket.delete("gs://bucket/a/b.txt", generation=first.generation)
    third = bucket.append("gs://bucket/a/b.txt", b" and more", generation=second.generation)
    with pytest.raises(FileExistsError):
        bucket.append("gs://bucket/a/b.txt", b" and more", generation=second.generation)
    assert bucket.read("gs://bucket/a/b.txt") == b"second and more" and bucket.stat("gs://bucket/a/b.txt").size == third.size
    bucket.copy("gs://bucket/a/b.txt", "gs://bucket/a/c d#1.txt")
    assert [entry.name for entry in bucket.children("gs://bucket/a")[1]] == ["b.txt", "b.txt.tail", "c d#1.txt"]  # an append was refused
    assert bucket.children("gs://bucket/") == (["a"], []) and bucket.children("gs://bucket/none") == ([], [])
    assert bucket.delete("gs://bucket/a/b.txt") and not bucket.delete("gs://bucket/a/b.txt")
    assert bucket.read("gs://bucket/a/c d#1.txt") == b"second and more"


def test_large_objects_travel_in_parts_and_damage_on_the_way_is_refused(store, tmp_path, monkeypatch):
    """Mutation: no crc32c is sent along."""
    monkeypatch.setattr(bucket, "CHUNK_BYTES", 1 << 18)
    monkeypatch.setattr(bucket, "PART_BYTES", 100_000)
    content = np.random.default_rng(0).bytes(1_000_001)
    (tmp_path / "file").write_bytes(content)
    checksum = bucket.file_crc32c(tmp_path / "file")
    assert checksum == bucket.crc32c(content)
    assert bucket.upload(tmp_path / "file", "gs://bucket/large", checksum).size == len(content)
    before = len(store.requests)
    assert bucket.read("gs://bucket/large") == content and len(store.requests) - before == 12
    with pytest.raises(OSError, match="refuses it"):
        bucket.upload(tmp_path / "file", "gs://bucket/other", bucket.crc32c(b"another"))
    assert store.names() == ["large"]
    with storage.open_file("gs://bucket/large") as stream:
        assert stream.read(10) == content[:10] and stream.seek(999_990) and stream.read() == content[999_990:]
    with storage.local_copy("gs://bucket/large") as path:
        assert open(path, "rb").read() == content


def test_parts_are_as_they_are_and_none_is_made_up(store):
    store.write("a", b"0123456789")
    store.write("b", b"abc")
    assert bucket.read_ranges([("gs://bucket/a", 2, 5), ("gs://bucket/b", 0, 2), ("gs://bucket/a", 8, 20),
                               ("gs://bucket/a", 10, 20)]) == [b"234", b"ab", b"89", b""]
    with storage.Reader("gs://bucket/a") as file:
        assert file.read(2, 3) == b"234" and file.read(8, 5) == b"89" and file.read(20, 5) == b""
    with pytest.raises(FileNotFoundError, match="no such object"):
        bucket.read_ranges([("gs://bucket/a", 2, 5), ("gs://bucket/none", 0, 2)])
    with pytest.raises(ValueError, match="more than 4 bytes"):
        storage.read_whole("gs://bucket/a", 4)


def test_what_does_not_work_is_said_within_a_bound(store, monkeypatch):
    bucket.check("gs://bucket/run", write=True)
    assert store.names() == []  # the look left nothing
    for address, words in {"gs://none/run": "no bucket none", "gs://B!": "no address of the form"}.items():
        with pytest.raises(OSError) as caught:
            bucket.check(address, write=False)
        assert words in caught.value.strerror
    store.refuse(403, "POST")
    bucket.check("gs://bucket/run", write=False)
    with pytest.raises(PermissionError, match="does not permit it"):
        bucket.check("gs://bucket/run", write=True)
    store.refuse(401)
    with pytest.raises(PermissionError, match="no valid credentials were found; run gcloud auth"):
        bucket.check("gs://bucket/run", write=False)
    store.refuse(None)
    monkeypatch.setattr(bucket, "CHECK_SECS", 2)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{closed.getsockname()[1]}")
        bucket_calls.client.cache_clear()
        begun = time.monotonic()
        with pytest.raises(ConnectionError, match="does not answer in time"):
            bucket.check("gs://bucket/run", write=False)
        assert time.monotonic() - begun < 10


def test_without_an_address_nothing_of_the_network_is_imported():
    """Mutation: gcsfs is imported at the top."""
    program = ("import sys; from input_pipeline import bucket, datasets; datasets.describe('digits', 'data'); "
               "sys.exit(any(name in sys.modules for name in ('gcsfs', 'aiohttp', 'google.auth', 'tensorflow')))")
    subprocess.run([sys.executable, "-c", program], check=True)


def batches(name: str, data_dir: str, split: str = "train") -> list[dict]:
    source = datasets.load(name, split, data_dir)
    dataset = pipeline.training(source, augment.parse(""), seed=1, batch_size=8, start_step=0, replicas=1, local_replicas=1)
    return [{key: value.numpy() for key, value in batch.items()} for batch in dataset.take(3)]


@pytest.mark.parametrize("name", ["image_folder", "tfrecord", "mnist", "co2"])
def test_data_at_gs_are_those_of_the_folder(name, store, tmp_path):
    """Facts and batches. Mutations: offsets without the frame; names of a listing in another order."""
    folder = tmp_path / "data"
    if name == "image_folder":
        shard_files.photos(folder, each=20)
    elif name == "tfrecord":
        shard_files.foreign(folder, records=10)
    elif name == "mnist":
        (folder / "mnist").mkdir(parents=True)
        for prefix, count in (("train", 40), ("t10k", 8)):
            images = np.arange(count * 36, dtype=np.uint8)
            (folder / f"mnist/{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(
                b"\0\0\x08\x03" + b"".join(size.to_bytes(4, "big") for size in (count, 6, 6)) + images.tobytes()))
            (folder / f"mnist/{prefix}-labels-idx1-ubyte").write_bytes(
                b"\0\0\x08\x01" + count.to_bytes(4, "big") + bytes(k % 10 for k in range(count)))
    else:
        (folder / "co2").mkdir(parents=True)
        (folder / "co2/co2-mm-mlo.csv").write_text(months(900))
    store.put_folder(folder, "some/data")
    here, there = datasets.describe(name, str(folder)), datasets.describe(name, "gs://bucket/some/data/")
    assert (here.examples, here.classes, here.input_shape) == (there.examples, there.classes, there.input_shape)
    assert len(here.files) == len(there.files) > 0
    for a, b in zip(batches(name, str(folder)), batches(name, "gs://bucket/some/data"), strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_of_a_large_shard_only_the_records_of_a_batch_are_read(store, tmp_path, monkeypatch):
    """The index once, in large parts, kept beside the shard; then a request a record, of its bytes alone."""
    shard_files.foreign(tmp_path / "set", names=("train-00000-of-00001",), records=500)
    store.put_folder(tmp_path / "set", "set")
    source = tfrecord.load("train", "gs://bucket/set")
    assert "set/train-00000-of-00001.index" in store.names()
    assert len([path for method, path in store.requests if "/download/" in path]) < 6
    shards.find("gs://bucket/set")
    before = len(store.requests)
    fetched = source.fetch(tf.constant([3, 499, 250], tf.int64))
    assert len(store.requests) - before == 3
    assert [source.decode_one({key: value[k] for key, value in fetched.items()})["label"] for k in range(3)] == [0, 1, 1]


def test_a_damaged_record_or_image_at_gs_is_named(store, tmp_path):
    shard_files.foreign(tmp_path / "set", names=("train-00000-of-00001",), records=4)
    content = bytearray((tmp_path / "set/train-00000-of-00001").read_bytes())
    index = record_index.scan(str(tmp_path / "set/train-00000-of-00001"))
    store.write("set/train-00000-of-00001", bytes(content))
    source = tfrecord.load("train", "gs://bucket/set")
    content[int(index.offsets[2]) + 40] ^= 1
    store.write("set/train-00000-of-00001", bytes(content))
    with pytest.raises(ValueError, match="checksum"):
        source.read(tf.constant([2], tf.int64))
    assert source.find_broken([0, 1, 2, 3]) == (
        "gs://bucket/set/train-00000-of-00001, record 2",
        "the checksum of its content is wrong; the file was changed or damaged: get it again")
    shard_files.photos(tmp_path / "photos", each=6)
    store.put_folder(tmp_path / "photos", "photos")
    images = datasets.load("image_folder", "train", "gs://bucket/photos", image_size=8)
    store.write(images.path(1).removeprefix("gs://bucket/"), b"no image")
    where, why = images.find_broken(range(3))
    assert where == images.path(1) and "is none of" in why
    store.delete(images.path(1).removeprefix("gs://bucket/"))
    assert images.find_broken(range(3)) == (images.path(1), "there is no such object")


def test_missing_data_at_gs_are_said_in_a_line(store):
    for name, address, words in (("cifar10", "gs://none/d", "gs://none/d: there is no bucket none"),
                                 ("cifar10", "gs://bucket/d", "no file gs://bucket/d/cifar-10-batches-bin/data_batch_1.bin"),
                                 ("image_folder", "gs://bucket/d", "is no folder"),
                                 ("tfrecord", "gs://bucket/d", "holds no TFRecord files")):
        with pytest.raises(ValueError, match=words):
            datasets.describe(name, address)
