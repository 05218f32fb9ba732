"""Checkpoints: whole or absent, in an order that a crash between any two file operations cannot break; retention."""
import json
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from trainer import checkpoint, manifest
from trainer.config import UserError


def state(value: float) -> dict:
    return {"model": {"conv1/kernel": tf.Variable(tf.fill([3, 2], value)), "a.Sb/c": tf.Variable(value)},
            "trainer": {"step": tf.Variable(int(value), dtype=tf.int64)}}


@pytest.fixture
def keeper(tmp_path):
    variables = state(1.0)
    return checkpoint.Checkpointer(tmp_path / "checkpoints", variables, keep=3, protected=lambda old: set()), variables


def test_round_trip(keeper, tmp_path):
    keep, variables = keeper
    keep.save(10)
    keep.wait()
    assert manifest.published(keep.folder) == [10]
    assert manifest.damage(keep.folder, 10) == ""
    other = state(5.0)
    checkpoint.restore(keep.folder, 10, other)
    assert np.array_equal(other["model"]["conv1/kernel"], np.ones([3, 2])) and int(other["trainer"]["step"]) == 1
    found = checkpoint.tensors(keep.folder, 10)
    assert np.array_equal(found["model"]["conv1/kernel"], np.ones([3, 2]))
    assert found.keys() == other.keys() and all(found[group].keys() == other[group].keys() for group in found)
    # What INTERFACE promises: TensorFlow's own reader reads it.
    names = [name for name, _ in tf.train.list_variables(str(manifest.prefix(keep.folder, 10)))]
    assert "model/conv1.Skernel/.ATTRIBUTES/VARIABLE_VALUE" in names


def test_a_save_takes_the_values_of_its_moment(keeper):
    """The copy is taken before save returns; what training does next is not in it. Mutation: write the live variables."""
    keep, variables = keeper
    keep.save(1)
    for part in variables.values():
        for variable in part.values():
            variable.assign(tf.fill(variable.shape, tf.cast(9, variable.dtype)))
    keep.wait()
    assert np.array_equal(checkpoint.tensors(keep.folder, 1)["model"]["conv1/kernel"], np.ones([3, 2]))


def test_a_crash_between_any_two_file_operations(tmp_path, monkeypatch):
    """Whatever operation a save ends at, the folder holds the last checkpoint whole, or the new one, or both; and the
    next save works. Mutation: the manifest before the data."""
    class Crash(BaseException):
        pass

    calls, limit = [0], [10**9]

    def counted(function):
        def wrapper(*arguments, **options):
            calls[0] += 1
            if calls[0] > limit[0]:
                raise Crash
            return function(*arguments, **options)
        return wrapper

    for owner, name in ((checkpoint, "sync"), (checkpoint, "sha256"), (pathlib.Path, "rename"),
                        (pathlib.Path, "write_text"), (pathlib.Path, "unlink"), (tf.train.Checkpoint, "write")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    variables = state(1.0)
    folder = tmp_path / "checkpoints"
    checkpoint.publish(folder, 1, checkpoint._trackable(variables))
    operations = calls[0]
    assert operations >= 9
    for limit[0] in range(operations):
        calls[0] = 0
        step = 100 + limit[0]
        with pytest.raises(Crash):
            checkpoint.publish(folder, step, checkpoint._trackable(variables))
        whole = manifest.published(folder)
        assert 1 in whole and all(manifest.damage(folder, s) == "" for s in whole), (limit, whole)
    limit[0], calls[0] = 10**9, 0
    checkpoint.publish(folder, 2, checkpoint._trackable(variables))
    assert manifest.newest_whole(folder)[0] >= 2 and not list((folder / ".writing").iterdir())


def test_what_a_killed_save_left_is_in_nobodys_way(tmp_path):
    """TensorFlow writes into a folder of its own first, which a kill in the middle of it leaves."""
    left = tmp_path / ".writing" / "ckpt-00000001_temp"
    left.mkdir(parents=True)
    (left / "part-00000-of-00001.data-00000-of-00001").write_bytes(b"half")
    checkpoint.publish(tmp_path, 2, checkpoint._trackable(state(1.0)))
    assert manifest.newest_whole(tmp_path) == (2, []) and list((tmp_path / ".writing").iterdir()) == []


def test_an_error_of_a_save_is_raised_by_the_next(keeper, monkeypatch):
    keep, _ = keeper
    monkeypatch.setattr(checkpoint, "publish", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    keep.save(1)
    with pytest.raises(OSError, match="No space left"):
        keep.save(2)


def test_retention_keeps_the_newest_whole_and_the_protected(tmp_path):
    """Damaged ones take nobody's place, the best stays. Mutation: count files instead of whole checkpoints."""
    variables = state(1.0)
    keep = checkpoint.Checkpointer(tmp_path, variables, keep=2, protected=lambda old: {10} & set(old))
    for step in (10, 20, 30):
        keep.save(step)
        keep.wait()
    assert manifest.published(tmp_path) == [10, 20, 30]
    (tmp_path / "ckpt-00000030.index").unlink()
    keep.save(40)
    keep.wait()
    assert [s for s in manifest.published(tmp_path) if manifest.damage(tmp_path, s) == ""] == [10, 20, 40]
    keep.save(50)
    keep.wait()
    assert [s for s in manifest.published(tmp_path) if manifest.damage(tmp_path, s) == ""] == [10, 40, 50]
    assert not (tmp_path / "ckpt-00000020.index").exists()


def test_newest_whole_and_what_was_wrong(tmp_path):
    assert manifest.newest_whole(tmp_path / "none") == (None, [])
    for step in (1, 2):
        checkpoint.publish(tmp_path, step, checkpoint._trackable(state(1.0)))
    path = tmp_path / "ckpt-00000002.data-00000-of-00001"
    path.write_bytes(path.read_bytes()[:-1])
    step, notes = manifest.newest_whole(tmp_path)
    assert step == 1 and "ckpt-00000002.data-00000-of-00001 has" in notes[0]
    manifest.set_aside(tmp_path, 2)
    assert manifest.newest_whole(tmp_path) == (1, [])
    (tmp_path / "ckpt-00000001.json").write_text("[]")
    with pytest.raises(UserError, match="no whole checkpoint"):
        manifest.newest_whole(tmp_path)


def test_another_steps_files_under_this_name(tmp_path):
    for step, value in ((1, 1.0), (2, 2.0)):
        checkpoint.publish(tmp_path, step, checkpoint._trackable(state(value)))
    os.replace(tmp_path / "ckpt-00000001.data-00000-of-00001", tmp_path / "ckpt-00000002.data-00000-of-00001")
    assert "sha256" in manifest.damage(tmp_path, 2)
    os.replace(tmp_path / "ckpt-00000001.json", tmp_path / "ckpt-00000002.json")
    assert "another checkpoint" in manifest.damage(tmp_path, 2)


def test_a_checkpoint_of_another_network_is_named(tmp_path):
    checkpoint.publish(tmp_path, 1, checkpoint._trackable(state(1.0)))
    other = state(1.0)
    other["model"]["conv1/kernel"] = tf.Variable(tf.zeros([5]))
    with pytest.raises(UserError, match=r"model/conv1/kernel is \(3, 2\) there and \(5,\) here"):
        checkpoint.restore(tmp_path, 1, other)


def test_manifest_lists_both_files(tmp_path):
    checkpoint.publish(tmp_path, 7, checkpoint._trackable(state(1.0)))
    entry = json.loads((tmp_path / "ckpt-00000007.json").read_text())
    assert entry["step"] == 7
    assert set(entry["files"]) == {"ckpt-00000007.data-00000-of-00001", "ckpt-00000007.index"}
    for name, facts in entry["files"].items():
        assert facts == {"size": (tmp_path / name).stat().st_size, "sha256": manifest.sha256(tmp_path / name)}
