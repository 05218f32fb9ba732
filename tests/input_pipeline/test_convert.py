"""Laws of `input_pipeline.convert` and `shard_writer`: every image once, in its own split; whole or absent; kill -9.

Mutations, each of which turned tests here red: dataset.json written first; a shard believed by its name alone; the
order of the folder kept; labels by the order of the shards; a broken image skipped without a word; no lock.
"""

import collections
import contextlib
import dataclasses
import json
import os
import signal
import struct
import threading
import types

import numpy as np
import pytest
import shard_files
import tensorflow as tf
from loopback import start, until

from input_pipeline import cifar, convert, datasets, image_folder, mnist, record_index, shard_writer, shards, tfrecord
from input_pipeline.progress import Progress

QUIET = Progress()


def run(folder, output, **options) -> shard_writer.Done:
    options = {"progress": QUIET, "shard_bytes": 3000} | options
    return convert.convert("image_folder", str(folder), str(output), **options)


def records(output) -> dict[str, list[dict]]:
    """By split, in the order of the shards, what TensorFlow reads."""
    found = collections.defaultdict(list)
    for path in sorted(output.glob("*.tfrecord")):
        for record in tf.data.TFRecordDataset(str(path)):
            feature = tf.train.Example.FromString(record.numpy()).features.feature
            found[path.name.split("-")[0]].append({
                "name": feature["image/filename"].bytes_list.value[0].decode(), "shard": path.name,
                "label": feature["image/class/label"].int64_list.value[0],
                "image": feature["image/encoded"].bytes_list.value[0]})
    return found


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != record_index.SUFFIX}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return shard_files.photos(tmp_path_factory.mktemp("photos") / "p", each=30)


def test_every_image_once_in_its_own_split_byte_by_byte(photos, tmp_path):
    done = run(photos, tmp_path / "out")
    listing = image_folder.listing(str(photos))
    found = records(tmp_path / "out")
    assert done.shards > 3 and done.examples == {split: len(part) for split, part in found.items()}
    for split, part in found.items():
        names, labels = listing.of(split)
        assert sorted(one["name"] for one in part) == sorted(name.decode() for name in names.tolist())
        for one in part:
            assert one["image"] == (photos / one["name"]).read_bytes()
            assert listing.classes[one["label"]] == one["name"].split("/")[0]
        if split == "train":  # mixed, in itself and over the shards
            order = [one["name"] for one in part]
            assert order != sorted(order)
            per_shard = collections.defaultdict(set)
            for one in part:
                per_shard[one["shard"]].add(one["label"])
            assert sum(len(labels) == 2 for labels in per_shard.values()) > len(per_shard) / 2


def test_a_set_reads_as_its_folder_does(photos, tmp_path):
    run(photos, tmp_path / "out")
    for split in datasets.SPLITS:
        ours = datasets.load("tfrecord", split, str(tmp_path / "out"), image_size=16)
        theirs = datasets.load("image_folder", split, str(photos), image_size=16)
        assert len(ours) == len(theirs) and ours.classes == theirs.classes
        names = [one["name"] for one in records(tmp_path / "out")[split]]
        place = {theirs.path(index): index for index in range(len(theirs))}
        order = [place[os.path.join(os.path.realpath(photos), name)] for name in names]
        one, other = ours.read(tf.range(len(ours), dtype=tf.int64)), theirs.read(tf.constant(order, tf.int64))
        assert np.array_equal(one["input"], other["input"]) and np.array_equal(one["label"], other["label"])


def test_shards_are_of_about_the_size_asked_for_and_the_index_lies_beside_them(photos, tmp_path):
    run(photos, tmp_path / "out", shard_bytes=6000)
    sizes = [path.stat().st_size for path in (tmp_path / "out").glob("train-*.tfrecord")]
    assert len(sizes) > 2 and all(4000 < size < 8000 for size in sizes)
    values = json.loads((tmp_path / "out" / "dataset.json").read_text())
    for entry in values["shards"]:
        path = tmp_path / "out" / entry["file"]
        assert shard_writer._is_whole(str(tmp_path / "out"), entry)
        index = record_index.load(f"{path}.index", record_index.storage.status(str(path)))
        assert len(index.lengths) == entry["records"]


def test_squares_are_stored_as_training_sees_them(photos, tmp_path):
    run(photos, tmp_path / "out", image_size=16)
    info = datasets.describe("tfrecord", str(tmp_path / "out"))
    assert info.input_shape == (16, 16, 3)
    for one in records(tmp_path / "out")["test"]:
        assert tf.io.decode_jpeg(one["image"]).shape == (16, 16, 3)
        label, number = one["name"].split("/")
        colour = shard_files.pixels({"cat": 0, "dog": 100}[label] + int(number[:-4]))[0, 0].astype(int)
        assert np.abs(tf.io.decode_jpeg(one["image"]).numpy().astype(int) - colour).max() <= 6


def test_arrays_keep_every_pixel_and_their_splits(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "RECORDS_A_FILE", 7)
    folder = tmp_path / "data" / cifar.FOLDER
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for path in cifar.paths(str(tmp_path / "data"), "train") + cifar.paths(str(tmp_path / "data"), "test"):
        content = random.integers(0, 256, (7, cifar.RECORD_BYTES), np.uint8)
        content[:, 0] %= 10
        content.tofile(path)
    done = convert.convert("cifar10", str(tmp_path / "data"), str(tmp_path / "out"), progress=QUIET)
    assert done.examples == {"train": 35, "validation": 0, "test": 7}
    for split in ("train", "test"):
        ours, theirs = (datasets.load(name, split, str(tmp_path / place))
                        for name, place in (("tfrecord", "out"), ("cifar10", "data")))
        assert ours.input_shape == (32, 32, 3) and ours.classes == theirs.classes
        order = [int(one["name"].split("/")[1]) for one in records(tmp_path / "out")[split]]
        assert sorted(order) == list(range(len(ours))) and order != sorted(order)
        one, other = ours.read(tf.range(len(ours), dtype=tf.int64)), theirs.read(tf.constant(order, tf.int64))
        assert np.array_equal(one["input"], other["input"]) and np.array_equal(one["label"], other["label"])
    with pytest.raises(ValueError, match="--image_size=8 is for photos; those of cifar10 stay as they are"):
        convert.convert("cifar10", str(tmp_path / "data"), str(tmp_path / "out2"), image_size=8)


def test_grey_images_stay_grey(tmp_path):
    folder = tmp_path / mnist.FOLDER
    folder.mkdir()
    for prefix, count in (("train", 5), ("t10k", 3)):
        for kind, sizes in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
            head = struct.pack(f">4B{len(sizes)}I", 0, 0, 8, len(sizes), *sizes)
            values = (np.arange(np.prod(sizes)) % (10 if len(sizes) == 1 else 251)).astype(np.uint8)
            (folder / f"{prefix}-{kind}-ubyte").write_bytes(head + values.tobytes())
    convert.convert("mnist", str(tmp_path), str(tmp_path / "out"), progress=QUIET)
    info = datasets.describe("tfrecord", str(tmp_path / "out"))
    assert info.input_shape == (28, 28, 1) and info.examples == {"train": 5, "test": 3}
    images = datasets.load("tfrecord", "test", str(tmp_path / "out")).read(tf.range(3, dtype=tf.int64))["input"]
    wanted = (np.arange(3 * 784) % 251).reshape(3, 28, 28, 1)
    assert sorted(images.numpy()[:, 0, 0, 0].tolist()) == sorted(wanted[:, 0, 0, 0].tolist())


def test_images_that_no_shard_can_hold_are_told_before_anything_is_written(tmp_path, monkeypatch):
    """Mutation: found when the set is read again, after it was published."""
    monkeypatch.setattr(datasets, "describe", lambda *_: dataclasses.replace(datasets.facts("mnist"), input_shape=(28, 28, 2)))
    with pytest.raises(ValueError, match="mnist: its images have 2 channels; shards hold images of 1 or 3"):
        convert.convert("mnist", str(tmp_path / "in"), str(tmp_path / "out"), progress=QUIET)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_a_link_is_the_folder_behind_it(photos, tmp_path):
    """Mutation: the link itself is to be replaced, which fails after all was written."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    run(photos, tmp_path / "out")
    assert (tmp_path / "disk" / "dataset.json").is_file() and (tmp_path / "out").is_symlink()


def test_the_same_command_again_does_nothing_and_another_is_refused(photos, tmp_path):
    first = run(photos, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = run(photos, tmp_path / "out")
    assert again.was_there and not first.was_there and again.examples == first.examples
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    with pytest.raises(ValueError, match="was made of other images or with other options; move it away"):
        run(photos, tmp_path / "out", image_size=8)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").touch()
    with pytest.raises(ValueError, match="other is there and is no set of shards"):
        run(photos, tmp_path / "other")
    (tmp_path / "empty").mkdir()
    assert run(photos, tmp_path / "empty").examples == first.examples
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "other", "out"]


@pytest.mark.parametrize("damage, words", [
    (b"", "is empty"), (b"GARBAGE" * 99, "is none of PNG, JPEG"),
    (shard_files.jpeg(3)[:200], "is a damaged JPEG file")])
@pytest.mark.parametrize("image_size", [0, 8])
def test_a_broken_image_is_named_or_left_out_with_a_word(damage, words, image_size, tmp_path):
    folder = shard_files.photos(tmp_path / "p")
    (folder / "dog" / "5.jpg").write_bytes(damage)
    with pytest.raises(ValueError, match=f"p/dog/5.jpg: {words}.*--skip_broken"):
        run(folder, tmp_path / "out", image_size=image_size)
    assert not (tmp_path / "out").exists()
    notes = []
    progress = Progress()
    progress.note = notes.append
    done = run(folder, tmp_path / "out", image_size=image_size, skip_broken=True, progress=progress)
    assert done.skipped == ("dog/5.jpg",) and sum(done.examples.values()) == 23
    assert [note for note in notes if "left out" in note and "dog/5.jpg: " in note and words in note]
    assert "dog/5.jpg" not in [one["name"] for part in records(tmp_path / "out").values() for one in part]


def test_nothing_but_broken_images_publishes_nothing(tmp_path):
    folder = shard_files.photos(tmp_path / "p", each=3)
    for path in folder.rglob("*.jpg"):
        path.write_bytes(b"x")
    with pytest.raises(ValueError, match="no image for training can be read"):
        run(folder, tmp_path / "out", skip_broken=True)
    assert not (tmp_path / "out").exists()


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_writer.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=5000))
    with pytest.raises(OSError, match="MB are needed, and 0 MB are free: make room"):
        run(photos, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list((tmp_path / "out.converting").iterdir())


def test_a_mount_point_is_refused_before_an_image_is_decoded(photos, tmp_path, monkeypatch):
    """Nothing can be renamed to it. Mutation: found when all is done."""
    monkeypatch.setattr(os.path, "ismount", lambda path: path == str(tmp_path / "set"))
    with pytest.raises(ValueError, match=f"{tmp_path}/set is a mount point, .* name a folder in it, such as {tmp_path}/set/shards"):
        convert.convert("image_folder", str(photos), str(tmp_path / "set"))
    assert not (tmp_path / "set.converting").exists()


def test_an_output_within_the_images_is_refused(photos, tmp_path):
    (tmp_path / "link").symlink_to(photos)
    for output in (photos, photos / "out", tmp_path / "link" / "cat" / "out"):
        with pytest.raises(ValueError, match="lies in the folder of the images"):
            run(photos, output)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("operation, at_least", [("fsync", 15), ("rename", 10), ("unlink", 1)])
def test_ended_at_any_operation_on_files_the_same_command_goes_on(operation, at_least, photos, tmp_path, monkeypatch):
    """At every one of them in turn, with what the disk then holds; at the end the same set, byte for byte.

    (But for the index files, which say when their shard was written.)
    """
    run(photos, tmp_path / "whole", shard_bytes=15_000)
    wanted, real, moment, calls = files(tmp_path / "whole"), getattr(os, operation), 0, 0

    def ending(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == moment:
            raise Killed
        return real(*arguments, **options)

    while calls >= moment:
        moment, calls = moment + 1, 0
        output = tmp_path / f"out-{moment}"
        with monkeypatch.context() as patch:
            patch.setattr(os, operation, ending)
            with contextlib.suppress(Killed):
                run(photos, output, shard_bytes=15_000)
        assert not output.exists() or files(output) == wanted
        run(photos, output, shard_bytes=15_000)
        assert files(output) == wanted and not (tmp_path / f"out-{moment}.converting").exists()
    assert moment > at_least


def test_shards_that_are_whole_are_kept_and_others_made_again(photos, tmp_path, monkeypatch):
    written = []
    write = shard_writer._write_shard

    def counting(work, staging, shard, *arguments):
        written.append(shard.file)
        if len(written) == 4:
            raise Killed
        return write(work, staging, shard, *arguments)

    monkeypatch.setattr(shard_writer, "_write_shard", counting)
    with pytest.raises(Killed):
        run(photos, tmp_path / "out")
    staging = tmp_path / "out.converting"
    damaged = staging / written[1]
    content = bytearray(damaged.read_bytes())
    content[100] ^= 1
    damaged.write_bytes(content)
    (staging / "left.part").write_bytes(b"x")
    first = written[:3]
    written[:] = [None] * 10
    run(photos, tmp_path / "out")
    assert first[0] not in written and first[2] not in written and first[1] in written
    run(photos, tmp_path / "fresh")
    assert files(tmp_path / "out") == files(tmp_path / "fresh")


def test_changed_images_begin_anew(tmp_path, monkeypatch):
    folder = shard_files.photos(tmp_path / "p")
    with monkeypatch.context() as patch:
        real = shard_writer._publish_journal

        def once(*arguments):
            real(*arguments)
            raise Killed

        patch.setattr(shard_writer, "_publish_journal", once)
        with pytest.raises(Killed):
            run(folder, tmp_path / "out")
    (folder / "cat" / "0.jpg").write_bytes(shard_files.jpeg(77))
    notes = []
    progress = Progress()
    progress.note = notes.append
    run(folder, tmp_path / "out", progress=progress)
    assert any("begun with other images or options: anew" in note for note in notes)
    assert shard_files.jpeg(77) in [one["image"] for part in records(tmp_path / "out").values() for one in part]


@pytest.mark.parametrize("round", range(6))
def test_several_processes_make_one_set(photos, tmp_path, round):
    """Threads stand for them: the lock is one of open files. All come out right, and the work is done once. Mutation, red in
    one of twelve rounds: the folder may go between two looks at it."""
    done, waited = [], []

    def convert_it():
        progress = Progress()
        progress.note = waited.append
        done.append(run(photos, tmp_path / "out", progress=progress))

    threads = [threading.Thread(target=convert_it) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(one.was_there for one in done) == [False, True, True]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
@pytest.mark.parametrize("signum, code", [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_killed_command_goes_on_with_the_shards_that_are_whole(signum, code, tmp_path):
    folder = shard_files.photos(tmp_path / "p", each=1500)
    command = ("-m", "input_pipeline.prepare", "--dataset=image_folder", f"--from={folder}",
               f"--output={tmp_path / 'out'}", "--shard_mb=1", "--image_size=128")
    staging = tmp_path / "out.converting"
    process = start(*command)
    until(lambda: (staging / "journal.json").exists(), "the first shard", seconds=120)
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code and out == "" and "Traceback" not in err, err
    assert not (tmp_path / "out").exists()
    if code > 0:
        assert "the same command goes on" in err
    kept = {path.name: path.stat().st_mtime_ns for path in staging.glob("*.tfrecord")}
    assert kept
    with pytest.raises(ValueError, match="is an unfinished conversion"):
        tfrecord.describe(str(tmp_path / "out"))
    process = start(*command)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0 and "goes on: " in err, err
    assert f" --recipe=flowers_cnn --dataset=tfrecord --data_dir={tmp_path / 'out'}\n" in out
    journal = json.loads((tmp_path / "out" / "dataset.json").read_text())["shards"]
    same = [entry["file"] for entry in journal
            if kept.get(entry["file"]) == (tmp_path / "out" / entry["file"]).stat().st_mtime_ns]
    assert same and sum(entry["records"] for entry in journal) == 3000
    assert shards.find(str(tmp_path / "out")).counts["train"] == image_folder.describe(str(folder)).train_examples
