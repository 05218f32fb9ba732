"""Folders of images: which files count, under which label and in which split; and what is read of them."""

import dataclasses
import hashlib
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline import datasets, image_folder

PICTURE = tf.io.encode_png(tf.fill([5, 7, 3], tf.constant(9, tf.uint8))).numpy()


def write(root, *names: str | bytes, content: bytes = PICTURE) -> str:
    """Files in the folder `root`; returns it."""
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
    return str(root)


def numbered(name: str, count: int) -> list[str]:
    return [f"{name}/{k}.png" for k in range(count)]


def found(root) -> dict[bytes, tuple[str, str]]:
    """(class, split) of each image."""
    listing = image_folder.listing(str(root))
    assert len(set(listing.names.tolist())) == len(listing.names)
    return {name: (listing.classes[label], datasets.SPLITS[split])
            for name, label, split in zip(listing.names.tolist(), listing.labels, listing.split)}


def test_a_folder_is_a_class_and_a_file_with_an_images_ending_an_image(tmp_path):
    """Sorted by class, then by name. Mutations: a scan's own order; endings in lower case only; hidden files."""
    names = [f"cat/{name}" for name in ("A.PNG", "b.jpg", "c.JPEG", "d.gif", "e.bmp")]
    write(tmp_path, *names, "bee/x.png", "Zebra/1.png", "cat/.hidden.png", ".git/x.png", "cat/notes.txt", "cat/jpg",
          "cat/deep/x.png", "none/readme", "LICENSE.txt", "lost.png")
    (tmp_path / "empty").mkdir()
    listing = image_folder.listing(str(tmp_path))
    assert listing.classes == ("Zebra", "bee", "cat")
    assert listing.names.tolist() == [b"Zebra/1.png", b"bee/x.png", *map(str.encode, names)]
    assert listing.labels.tolist() == [0, 1, 2, 2, 2, 2, 2]
    assert listing.path(1) == str(tmp_path / "bee/x.png")
    [note] = listing.notes
    assert note == (f"{tmp_path}: left out 'cat/deep' (a folder in a class folder), 'cat/jpg' (no image by its name), "
                    "'cat/notes.txt' (no image by its name) and 4 more")


def test_nothing_left_out_is_no_note(tmp_path):
    assert image_folder.listing(write(tmp_path, *numbered("a", 20), "LICENSE.txt")).notes == ()


def test_a_split_is_the_hash_of_class_and_name(tmp_path):
    """So anybody can tell. Mutations: hash the whole path, the name alone, or by another order of bytes."""
    for name, (_, split) in found(write(tmp_path, *numbered("a", 60), *numbered("b", 60))).items():
        part = int.from_bytes(hashlib.sha256(name).digest()[:8], "big") % 10
        assert split == {8: "validation", 9: "test"}.get(part, "train")


@settings(max_examples=15, deadline=None)
@given(more=st.lists(st.integers(100, 999), min_size=1, unique=True), moved=st.booleans())
def test_more_files_move_no_others(tmp_path_factory, more, moved):
    """Nor does another place of the folder. Mutation: split by the place in the list."""
    root = tmp_path_factory.mktemp("photos")
    before = found(write(root, *numbered("a", 30), *numbered("c", 30)))
    write(root, *(f"{'abc'[k % 3]}/{k}.png" for k in more))
    if moved:
        root = root.rename(root.with_name(root.name + "-moved"))
    after = found(root)
    assert {name: after[name] for name in before} == before and len(after) == 60 + len(more)


def test_another_training_image_gives_another_digest_another_test_image_does_not(tmp_path):
    """Mutations: the digest of the labels alone; of all splits."""
    root = write(tmp_path, *numbered("a", 30), *numbered("b", 30))
    before = image_folder.listing(root).train_digest
    of = {split: [os.fsdecode(name) for name, (_, other) in found(root).items() if other == split]
          for split in datasets.SPLITS}
    os.remove(tmp_path / of["test"][0])
    assert image_folder.listing(root).train_digest == before == image_folder.describe(root).train_digest
    os.remove(tmp_path / of["train"][0])
    assert image_folder.listing(root).train_digest != before


def test_an_image_in_another_class_gives_another_digest(tmp_path):
    """Mutation: the digest of the names alone."""
    listing = image_folder.listing(write(tmp_path, *numbered("a", 30), *numbered("b", 30)))
    other = dataclasses.replace(listing, labels=1 - listing.labels)
    assert other.train_digest != listing.train_digest


def test_the_splits_are_eighty_ten_and_ten_percent(tmp_path):
    splits = [split for _, split in found(write(tmp_path, *numbered("a", 2000))).values()]
    assert [round(splits.count(split) / 20, 0) for split in datasets.SPLITS] == pytest.approx([80, 10, 10], abs=2)


@pytest.mark.parametrize("validation", ["validation", "val"])
def test_folders_named_as_splits_are_the_splits(tmp_path, validation):
    write(tmp_path, *numbered("train/a", 3), *numbered("train/b", 3), *numbered(f"{validation}/b", 2),
          *numbered("test/a", 1))
    expected = {f"train/{c}/{k}.png": (c, "train") for c in "ab" for k in range(3)}
    expected |= {f"{validation}/b/{k}.png": ("b", "validation") for k in range(2)} | {"test/a/0.png": ("a", "test")}
    assert found(tmp_path) == {os.fsencode(name): value for name, value in expected.items()}
    assert datasets.describe("image_folder", str(tmp_path)).examples == {"train": 6, "validation": 2, "test": 1}


def test_a_split_that_is_not_there_is_not_offered(tmp_path):
    write(tmp_path, *numbered("train/a", 3), *numbered("val/a", 2))
    info = datasets.describe("image_folder", str(tmp_path))
    assert info.splits == ("train", "validation") and info.test_examples == 0
    with pytest.raises(ValueError, match="split='test': must be one of train, validation"):
        datasets.load("image_folder", "test", str(tmp_path))


def test_other_folders_beside_them_make_them_classes(tmp_path):
    """A train is also something on rails."""
    write(tmp_path, *numbered("train", 20), *numbered("test", 20), *numbered("bus", 20))
    assert image_folder.listing(str(tmp_path)).classes == ("bus", "test", "train")


@pytest.mark.parametrize("train, others", [("Train", ("Test", "VALID")), ("training", ("eval", "dev")), ("train", ())])
def test_splits_by_other_usual_names_and_what_lies_beside_them(tmp_path, train, others):
    """Mutation: the stray folder becomes the only class."""
    write(tmp_path, *(name for top in (train, *others) for name in numbered(f"{top}/a", 3) + numbered(f"{top}/b", 2)),
          *numbered("samples", 2))
    found = image_folder.listing(str(tmp_path))
    assert found.classes == ("a", "b")
    assert np.bincount(found.split, minlength=3).tolist() == [5, 5 * bool(others), 5 * bool(others)]
    assert found.notes == (f"{os.path.realpath(tmp_path)}: left out 'samples' (beside the splits' folders)",)


def test_a_link_to_itself_is_left_out(tmp_path):
    write(tmp_path, *numbered("a", 20))
    (tmp_path / "a" / "loop.jpg").symlink_to("loop.jpg")
    found = image_folder.listing(str(tmp_path))
    assert len(found.names) == 20 and "'a/loop.jpg' (no file)" in found.notes[0]


def test_without_train_they_are_classes(tmp_path):
    assert image_folder.listing(write(tmp_path, *numbered("val", 20), *numbered("test", 20))).classes == ("test", "val")


@pytest.mark.parametrize("names, words", [
    ((), "has no images; it must hold a folder for each class"),
    (("x.png", "a/readme"), "has no images"),
    (("train/a/1.png", "val/a/1.png", "validation/a/1.png"), "has folders val and validation"),
    (("train/a/1.png", "test/b/1.png"), "images of class 'b' in test and none in train"),
    (("train/readme", "test/a/1.png"), "images of class 'a' in test and none in train"),
    (("a\nb/1.png",), r"the name of a class must be printable; rename it"),
    ((b"\xff/1.png",), r"the name of a class must be printable"),
])
def test_a_wrong_folder_is_refused(tmp_path, names, words):
    write(tmp_path, *names)
    with pytest.raises(ValueError, match=words) as error:
        image_folder.listing(str(tmp_path))
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_no_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no data_dir is given"):
        datasets.describe("image_folder")
    with pytest.raises(ValueError, match="is no folder; give the one that holds a folder of images for each class"):
        datasets.describe("image_folder", str(tmp_path / "nowhere"))


def test_links_are_followed_within_the_folder_only(tmp_path):
    """Mutation: follow all of them."""
    root = write(tmp_path / "photos", *numbered("a", 20))
    write(tmp_path / "secret", "b/1.png")
    pathlib.Path(root, "a/inside.png").symlink_to("3.png")
    pathlib.Path(root, "a/outside.png").symlink_to(tmp_path / "secret/b/1.png")
    pathlib.Path(root, "a/nothing.png").symlink_to("nowhere.png")
    pathlib.Path(root, "other").symlink_to(tmp_path / "secret/b")
    (tmp_path / "link").symlink_to(root)
    listing = image_folder.listing(str(tmp_path / "link"))  # a link itself is where it leads
    assert listing.folder == root and listing.classes == ("a",)
    assert set(listing.names.tolist()) == {f"a/{k}.png".encode() for k in range(20)} | {b"a/inside.png"}
    assert "'a/nothing.png' (no file), 'a/outside.png' (a link that leads out of the folder), 'other' (a link" in (
        listing.notes[0])


ODD = [b"sp ace.png", b"-rf.png", b"new\nline.png", "gr\u00fc\u00df \U0001F33B.png".encode(), b"\xff\xfe.png",
       b"100%25#?*[a].png", b"a:b\\c.png", b"UPPER.PNG", b"'\".png", b"x" * 250 + b".png"]


def test_odd_names_are_read(tmp_path):
    """Each file holds another grey. Mutation: paths through text in UTF-8."""
    for value, name in enumerate(ODD):
        grey = tf.io.encode_png(tf.fill([4, 4, 1], tf.constant(value * 10, tf.uint8))).numpy()
        write(tmp_path, b"train/-odd class \xc3\xbc/" + name, content=grey)
    source = datasets.load("image_folder", "train", str(tmp_path), image_size=4)
    assert len(source) == len(ODD) and source.classes == ("-odd class \u00fc",)
    images = source.read(tf.range(len(ODD), dtype=tf.int64))["input"].numpy()
    for index, image in enumerate(images):
        assert (image == 10 * ODD.index(os.fsencode(os.path.basename(source.path(index))))).all()


def test_images_of_all_sizes_become_squares_with_their_labels(tmp_path):
    shapes = {"a/1.png": (30, 50, 1), "a/2.png": (10, 10, 4), "b/1.png": (400, 300, 3)}
    for name, shape in shapes.items():
        image = tf.fill(shape, tf.constant(100, tf.uint8))
        write(tmp_path / "train", name, content=tf.io.encode_png(image).numpy())
    jpeg = tf.io.encode_jpeg(tf.fill([90, 70, 3], np.uint8(100))).numpy()
    write(tmp_path / "train", "b/not really.png", content=jpeg)
    info = datasets.describe("image_folder", str(tmp_path), image_size=20)
    source = datasets.load("image_folder", "train", str(tmp_path), image_size=20)
    assert info.input_shape == source.input_shape == (20, 20, 3)
    batch = source.read(tf.constant([3, 2, 1, 0], tf.int64))
    assert batch["input"].dtype == tf.uint8 and batch["label"].numpy().tolist() == [1, 1, 0, 0]
    assert abs(batch["input"].numpy().astype(int) - 100).max() <= 1


def test_without_an_image_size_it_is_224(tmp_path):
    assert datasets.facts("image_folder").input_shape == (224, 224, 3)
    for size in (-1, 4097):
        with pytest.raises(ValueError, match=f"image_size={size} must be 1 to 4096"):
            datasets.facts("image_folder", image_size=size)


def test_a_process_counts_and_reads_the_same_images(tmp_path):
    """Mutation: look again for each split."""
    write(tmp_path, *numbered("a", 30))
    info = datasets.describe("image_folder", str(tmp_path))
    write(tmp_path, *numbered("a", 60), *numbered("0", 10))
    for split in info.splits:
        source = datasets.load("image_folder", split, str(tmp_path))
        assert len(source) == info.examples[split] and source.classes == info.classes


@pytest.mark.parametrize("content, words", [(b"", "is empty"), (b"text", "is none of PNG, JPEG, BMP, GIF"),
                                            (PICTURE[:-30], "is a damaged PNG file"), (None, "No such file")])
def test_the_first_broken_file_is_found(tmp_path, content, words):
    write(tmp_path / "train", *numbered("a", 8))
    source = datasets.load("image_folder", "train", str(tmp_path), image_size=8)
    assert source.find_broken(range(8)) is None
    for k in (2, 6):
        path = tmp_path / "train/a" / f"{k}.png"
        path.unlink() if content is None else path.write_bytes(content)
    path, why = source.find_broken([1, 6, 2, 0])
    assert path == str(tmp_path / "train/a/6.png") and words in why
    assert source.find_broken([1, 0]) is None
