"""Laws of `input_pipeline.shards`: sets of others are understood, indexes are kept, damage is named with a fix.

Mutations, each of which turned tests here red: an index of another size believed; the cache not used where the folder
is read-only; splits drawn by position; a half converted set taken for a stranger's; labels looked for every time.
"""

import os

import numpy as np
import pytest
import shard_files

from input_pipeline import record_index, shards


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lockstep" / "tfrecord"


@pytest.fixture
def counted(monkeypatch):
    """Names of the shards whose headers were scanned."""
    scanned, scan = [], record_index.scan

    def counting(path, *arguments):
        scanned.append(os.path.basename(path))
        return scan(path, *arguments)

    monkeypatch.setattr(record_index, "scan", counting)
    return scanned


def find(folder) -> shards.Shards:
    return shards.find(str(folder))


def test_a_strangers_set_is_read_and_its_index_kept_beside_it(tmp_path, counted):
    folder = shard_files.foreign(tmp_path / "set")
    for _ in range(2):
        found = find(folder)
        assert found.counts == {"train": 10, "validation": 5, "test": 0}
        assert found.classes == ("0", "1", "2") and found.image_shape is None
        assert (found.image_feature, found.label_feature) == ("image/encoded", "image/class/label")
        assert len(found.notes) == 1 and "no labels.txt" in found.notes[0]
    assert counted == ["train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"]
    assert sum(path.suffix == ".index" for path in folder.iterdir()) == 3


@pytest.mark.parametrize("image, label", [("image", "label"), ("image", "class"), ("image__encoded", "label")])
def test_features_are_found_by_their_usual_names(image, label, tmp_path):
    found = find(shard_files.foreign(tmp_path / "set", image=image, label=label))
    assert (found.image_feature, found.label_feature) == (image.replace("__", "/"), label)


def test_another_training_record_gives_another_digest_one_for_validation_does_not(tmp_path):
    """Mutations: the number of records alone; every split."""
    folder = shard_files.foreign(tmp_path / "set")
    digests = [find(folder).train_digest]
    for name in ("validation-00000-of-00001", "train-00001-of-00002"):
        records = [shard_files.example(image__encoded=shard_files.png(n, width=9 + n), image__class__label=n % 3)
                   for n in range(5)]
        shard_files.write(folder / name, records)
        digests.append(find(folder).train_digest)
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("names, counts", [
    (["flowers-train.tfrecord-00000-of-00001", "flowers-test.tfrecord-00000-of-00001"], {"train": 5, "test": 5}),
    (["pets_train_00000-of-00001.tfrecord", "pets_val_00000-of-00001.tfrecord"], {"train": 5, "validation": 5}),
    (["train.tfrecords", "eval.tfrecords", "dev.tfrecords"], {"train": 5, "validation": 5, "test": 5}),
    (["Train.tfrec", "TEST.tfrec"], {"train": 5, "test": 5}),
])
def test_the_split_is_a_word_of_the_name(names, counts, tmp_path):
    found = find(shard_files.foreign(tmp_path / "set", names=names))
    assert {split: count for split, count in found.counts.items() if count} == counts


def test_without_a_word_each_records_split_is_drawn_and_new_shards_move_none(tmp_path):
    folder = shard_files.foreign(tmp_path / "set", names=["flowers00-300.tfrec", "flowers01-300.tfrec"], records=300)
    found = find(folder)
    parts = np.concatenate(found.splits)
    assert len(parts) == 600 and "drawn by record" in found.notes[0]
    for place, share in enumerate((0.8, 0.1, 0.1)):
        assert abs(np.mean(parts == place) - share) < 0.05
    (folder / "flowers00-300.tfrec").rename(folder / "flowers02-300.tfrec")
    shard_files.foreign(folder, names=["flowers00-3.tfrec"], records=3)
    assert np.array_equal(find(folder).splits[1], found.splits[1])


@pytest.mark.parametrize("content, classes", [
    ("cat\ndog\nbird\n", ("cat", "dog", "bird")), ("0:cat\n1:dog\n2:a: b\n\n", ("cat", "dog", "a: b")),
    ("a:b\nc\nd", ("a:b", "c", "d")), ("\ufeffcat\r\ndog\r\n", ("cat", "dog"))])
def test_class_names_are_the_lines_of_a_file(content, classes, tmp_path):
    folder = shard_files.foreign(tmp_path / "set")
    (folder / "labels.txt").write_text(content)
    found = find(folder)
    assert found.classes == classes and found.notes == ()


def test_labels_are_looked_for_once_and_only_without_names(tmp_path, monkeypatch):
    folder = shard_files.foreign(tmp_path / "set")
    seen = []
    label_only = shards.examples.label_only
    monkeypatch.setattr(shards.examples, "label_only", lambda *arguments: seen.append(1) or label_only(*arguments))
    (folder / "labels.txt").write_text("a\nb\nc\n")
    find(folder)
    assert not seen
    (folder / "labels.txt").unlink()
    find(folder)
    find(folder)
    assert len(seen) == 15


def test_a_changed_shard_gets_a_new_index(tmp_path, counted):
    folder, name = shard_files.foreign(tmp_path / "set"), "train-00000-of-00002"
    records = [shard_files.example(image__encoded=shard_files.png(1), image__class__label=k, pad=bytes(40 * k))
               for k in range(3)]
    shard_files.write(folder / name, records)
    assert find(folder).counts["train"] == 8
    counted.clear()
    size = (folder / name).stat().st_size
    shard_files.write(folder / name, records[::-1])  # of the same size
    assert (folder / name).stat().st_size == size
    found = find(folder)
    assert counted == [name] and found.shards[0].index.lengths.tolist() == [len(record) for record in records[::-1]]
    shard_files.write(folder / name, records[:1])
    assert find(folder).counts["train"] == 6 and counted == [name] * 2


def test_a_damaged_index_is_made_again(tmp_path, counted):
    folder = shard_files.foreign(tmp_path / "set")
    find(folder)
    counted.clear()
    path = folder / "train-00001-of-00002.index"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert find(folder).counts["train"] == 10 and counted == ["train-00001-of-00002"]
    assert find(folder).counts["train"] == 10 and len(counted) == 1


def test_where_the_folder_cannot_be_written_the_index_lies_in_the_cache(tmp_path, counted, cache, monkeypatch):
    folder = shard_files.foreign(tmp_path / "set")
    publish = shards.storage.publish

    def read_only(path, content):  # root may write anywhere
        if path.startswith(str(folder)):
            raise PermissionError(13, "Permission denied", path)
        publish(path, content)

    monkeypatch.setattr(shards.storage, "publish", read_only)
    for _ in range(2):
        assert find(folder).counts["train"] == 10
    assert len(counted) == 3 and len(list(cache.iterdir())) == 3
    assert not [path for path in folder.iterdir() if path.suffix == ".index"]
    os.utime(folder / "train-00000-of-00002", (1, 1))  # perhaps another file
    find(folder)
    assert counted[3:] == ["train-00000-of-00002"]
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert find(folder).counts["train"] == 10  # in memory


@pytest.mark.parametrize("damage, words", [
    (lambda folder: [path.unlink() for path in folder.iterdir()], "holds no TFRecord files"),
    (lambda folder: (folder / "train-00000-of-00002").write_bytes(b""), "train-00000-of-00002: is empty"),
    (lambda folder: (folder / "odd.tfrecord").write_bytes(b"x"), "odd.tfrecord': its name has no word train"),
    (lambda folder: (folder / "train-test.tfrecord").write_bytes(b"x"), "its name says test and train"),
    (lambda folder: [path.unlink() for path in folder.glob("train*")], "has no records for training"),
    (lambda folder: (folder / "labels.txt").write_bytes(b""), "labels.txt: must have a printable name"),
    (lambda folder: (folder / "labels.txt").write_bytes(b"a\x1b[2J\n"), "labels.txt: must have a printable name"),
    (lambda folder: (folder / "labels.txt").write_bytes(b"a\n\nb\n"), "labels.txt: must have a printable name"),
    (lambda folder: (folder / "labels.txt").write_bytes(b"a\nn\xe9\n"), "labels.txt: is no UTF-8 text (invalid"),
    (lambda folder: shard_files.write(folder / "train-00000-of-00002", [b"no example"]),
     "record 0: is no tf.train.Example"),
    (lambda folder: shard_files.write(folder / "train-00000-of-00002", [shard_files.example(a=1, b=b"x")]),
     "record 0: has no feature image/encoded or image; it has a, b"),
    (lambda folder: shard_files.write(folder / "train-00000-of-00002", [shard_files.example(image=b"raw", label=1)]),
     "record 0: feature image holds no PNG, JPEG, BMP, GIF file"),
    (lambda folder: shard_files.write(folder / "train-00001-of-00002", [
        shard_files.example(image__encoded=b"\xff\xd8\xff", image__class__label=10**15)]),
     "train-00001-of-00002: record 0: feature image/class/label: holds 1000000000000000; labels must be 0 to 99999"),
])
def test_what_is_wrong_is_named_in_one_line(damage, words, tmp_path):
    folder = shard_files.foreign(tmp_path / "set")
    damage(folder)
    with pytest.raises(ValueError) as error:
        find(folder)
    assert words in str(error.value) and str(folder) in str(error.value) and "\n" not in str(error.value)


def test_no_folder_is_named_and_a_half_converted_one_says_so(tmp_path):
    with pytest.raises(ValueError, match="cannot be read .No such file.*give the folder"):
        find(tmp_path / "none")
    (tmp_path / "none.converting").mkdir()
    with pytest.raises(ValueError, match="none.converting is an unfinished conversion: run it again"):
        find(tmp_path / "none")
    with pytest.raises(ValueError, match="is an unfinished conversion"):
        find(tmp_path / "none.converting")


def test_what_takes_long_shows_how_far_it_is(tmp_path, monkeypatch, capsys):
    folder = shard_files.foreign(tmp_path / "set")
    find(folder)
    assert capsys.readouterr().err == ""
    for path in folder.glob("*.index"):
        path.unlink()
    monkeypatch.setattr(shards, "QUIET_SECONDS", -1.0)
    find(folder)
    assert "train-00000-of-00002, labels:" in capsys.readouterr().err


def test_a_file_that_is_missing_by_the_others_names_is_told(tmp_path):
    """Mutation: what is there is taken for the whole set."""
    folder = shard_files.foreign(tmp_path / "a", names=("train-00000-of-00003", "train-00002-of-00003"))
    with pytest.raises(ValueError, match="has 2 of the 3 files train-NUMBER-of-00003: number 1 is missing; get it too"):
        shards.find(str(folder))


def test_endings_in_any_case_count(tmp_path):
    """Mutation: a split in upper case is left out without a word."""
    folder = shard_files.foreign(tmp_path / "a", names=("train.tfrecord", "TEST.TFRECORD"))
    assert shards.find(str(folder)).counts == {"train": 5, "validation": 0, "test": 5}
