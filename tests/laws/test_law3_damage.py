"""Law 3: a damaged checkpoint is never loaded, and never fatal while a whole one is left.

Mutations: the manifest's digests are not compared; the newest prefix is taken without a manifest; all damaged is taken for
nothing published.
"""
import shutil

import numpy as np
import pytest

import runs

FLAGS = ("--train_steps=40", "--log_steps=1", "--deterministic", "--summary_steps=0", "--histogram_steps=0",
         "--checkpoint_steps=10", "--keep_checkpoints=3")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run of 40 steps."""
    return runs.train(tmp_path_factory.mktemp("whole"), *FLAGS)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


DAMAGES = {"data truncated": ("data-00000-of-00001", truncate), "data missing": ("data-00000-of-00001", lambda p: p.unlink()),
           "index bit flipped": ("index", flip), "manifest truncated": ("json", truncate)}


@pytest.mark.parametrize("damage", DAMAGES)
def test_goes_on_from_the_newest_whole_one(tmp_path, whole, damage):
    """The newest of three is damaged: the run says so, goes on from the one before, ends bit for bit as it was."""
    folder = tmp_path / "m"
    shutil.copytree(whole.model_dir, folder)
    assert whole.published() == [20, 30, 40]  # --keep_checkpoints=3
    ending, spoil = DAMAGES[damage]
    spoil(folder / "checkpoints" / f"ckpt-00000040.{ending}")
    again = runs.train(folder, *FLAGS)
    assert "checkpoint 40 is damaged" in again.err and "set aside" in again.err, again.err
    assert "resumed from" in again.out and "ckpt-00000030" in again.out
    assert again.published()[-1] == 40
    ours, theirs = again.tensors(40), whole.tensors(40)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert [line["step"] for line in again.lines] == list(range(1, 41))


def test_all_damaged_is_no_fresh_start(tmp_path, whole):
    """Some were published and none is whole: code 2, which files and why, and nothing is overwritten."""
    folder = tmp_path / "m"
    shutil.copytree(whole.model_dir, folder)
    for path in (folder / "checkpoints").glob("*.data-*"):
        truncate(path)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    again = runs.train(folder, *FLAGS, code=2)
    assert "no whole checkpoint is left" in again.err and "ckpt-00000030.data-00000-of-00001 has" in again.err
    assert {path: path.read_bytes() for path in before} == before


def test_never_published_is_a_fresh_start(tmp_path, whole):
    """A TensorFlow checkpoint without a manifest was never published: a crash came between."""
    folder = tmp_path / "m"
    shutil.copytree(whole.model_dir, folder)
    for path in (folder / "checkpoints").glob("ckpt-*.json"):
        path.unlink()
    (folder / "DONE").unlink()
    again = runs.train(folder, *FLAGS)
    assert "fresh start" in again.out
    assert [line["step"] for line in again.lines] == list(range(1, 41))


def test_another_network_is_an_error_that_names_the_difference(tmp_path, whole):
    again = runs.train(whole.model_dir, *FLAGS, "--model=digits_cnn_regularized", code=2)
    assert "--model=digits_cnn_regularized" in again.err and "has digits_cnn" in again.err
