"""Checkpoints: whole or absent, in an order that a crash between any two file operations cannot break; retention."""
import errno
import json
import os
import pathlib
import threading

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


def test_training_goes_on_beside_a_save_and_the_next_one_waits_for_it(keeper, monkeypatch):
    """The disk stands still until somebody waits for it: save has returned, training moves, and the next save copies when
    the first is published. Mutations: what is copied is written before save returns; the next save does not wait."""
    keep, variables = keeper
    reached, go, copied, flush, copy = threading.Event(), threading.Event(), [], checkpoint.sync, keep._copy

    def stalled(path):
        reached.set()
        assert go.wait(20), "nobody waits for the save"
        flush(path)

    monkeypatch.setattr(checkpoint, "sync", stalled)
    monkeypatch.setattr(keep, "_copy", lambda: (copied.append(manifest.published(keep.folder)), copy()))
    keep.save(1)
    assert reached.wait(20) and manifest.published(keep.folder) == []
    variables["model"]["conv1/kernel"].assign(tf.fill([3, 2], 2.0))
    join = keep._thread.join
    monkeypatch.setattr(keep._thread, "join", lambda: (go.set(), join()))
    keep.save(2), keep.wait()
    assert copied == [[], [1]]
    for step in (1, 2):
        assert np.array_equal(checkpoint.tensors(keep.folder, step)["model"]["conv1/kernel"], np.full([3, 2], step))


OPERATIONS = ((checkpoint, "sync"), (manifest.files, "sync"), (checkpoint, "sha256"), (pathlib.Path, "rename"),
              (pathlib.Path, "write_text"), (pathlib.Path, "unlink"), (pathlib.Path, "mkdir"), (tf.train.Checkpoint, "write"))


class Crash(BaseException):
    """A kill."""


class Operations:
    """Counts the file operations of a save. The one after `limit` raises `error`."""

    def __init__(self, monkeypatch, error):
        self.calls, self.limit, self.error = 0, 10**9, error
        for owner, name in OPERATIONS:
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, function):
        def wrapper(*arguments, **options):
            self.calls += 1
            if self.calls == self.limit + 1:
                raise self.error
            return function(*arguments, **options)
        return wrapper

    def start(self, limit=10**9):
        self.calls, self.limit = 0, limit


def whole(folder) -> list[int]:
    """The published steps, all of which must be whole."""
    steps = manifest.published(folder)
    assert all(manifest.damage(folder, step) == "" for step in steps), steps
    return steps


def test_a_crash_between_any_two_file_operations(tmp_path, monkeypatch):
    """Whatever operation a save or a retirement ends at, the folder holds whole checkpoints only, two or more of them; and
    the next save works. Mutations: the manifest before the data; the data deleted before the manifest."""
    folder = tmp_path / "checkpoints"
    operations = Operations(monkeypatch, Crash)
    keep = checkpoint.Checkpointer(folder, state(1.0), keep=2, protected=lambda old: set())
    keep.save(1), keep.save(2), keep.wait()
    operations.start()
    keep.save(3), keep.wait()
    total = operations.calls
    assert total >= 14 and whole(folder) == [2, 3]
    for limit in range(total):
        operations.start(limit)
        with pytest.raises(Crash):  # as save does, in this thread
            checkpoint.publish(folder, 100 + limit, keep._checkpoint)
            keep._retire()
        left = whole(folder)
        assert len(left) >= 2 and left[-1] >= 3, (limit, left)
    operations.start()
    keep.save(1000), keep.save(1001), keep.wait()
    assert whole(folder) == [1000, 1001]
    assert sorted(path.name[:13] for path in folder.iterdir()) == [".writing"] + ["ckpt-00001000"] * 3 + ["ckpt-00001001"] * 3
    assert list((folder / ".writing").iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_any_operation(tmp_path, monkeypatch, number):
    """The error is one line that names the checkpoint's file and the reason. What was published is whole, and what the
    save wrote is gone; later the same save works. Mutation: the half-written files stay."""
    folder, checkpoints = tmp_path / "checkpoints", checkpoint._trackable(state(1.0))
    operations = Operations(monkeypatch, OSError(number, os.strerror(number)))
    checkpoint.publish(folder, 1, checkpoints)
    operations.start()
    checkpoint.publish(folder, 2, checkpoints)
    total = operations.calls
    for limit in range(total):
        operations.start(limit)
        with pytest.raises(UserError, match=rf"(ckpt-00000003\S*|writing) cannot be written: {os.strerror(number)}; .*same command"):
            checkpoint.publish(folder, 3, checkpoints)
        if limit < total - 1:  # the last one is the flush of a folder in which the new one is published
            assert whole(folder) == [1, 2] and len(list(folder.rglob("ckpt*"))) == 6, limit
    operations.start()
    checkpoint.publish(folder, 3, checkpoints)
    assert whole(folder) == [1, 2, 3]


def test_the_error_of_tensorflow_is_one_line(tmp_path, monkeypatch):
    """Its writer names a temporary file and itself."""
    def write(self, path):
        pathlib.Path(path + "_temp").mkdir()
        raise tf.errors.ResourceExhaustedError(None, None, "{{node}} /x/part.tempstate1; No space left on device [Op:SaveV2]")

    monkeypatch.setattr(tf.train.Checkpoint, "write", write)
    with pytest.raises(UserError) as caught:
        checkpoint.publish(tmp_path, 3, checkpoint._trackable(state(1.0)))
    assert str(caught.value).startswith(f"{tmp_path}/ckpt-00000003 cannot be written: No space left on device; make room, then")
    assert [path.name for path in tmp_path.rglob("*")] == [".writing"]


def test_a_folder_that_cannot_be_written_is_known_before_training(tmp_path):
    """Not at the first save."""
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="checkpoints.* cannot be written: (File exists|Not a directory)"):
        checkpoint.Checkpointer(tmp_path / "checkpoints", state(1.0), keep=1, protected=lambda old: set())


@pytest.mark.parametrize("group, name, value", [("model", "conv1/kernel", np.nan), ("model", "conv1/kernel", -np.inf),
                                                ("trainer", "loss_averages", np.inf), ("model", "half", np.nan)])
def test_what_is_not_finite_is_never_published(tmp_path, group, name, value):
    """The loop hears which variable, which step and which checkpoint is the last good one; exit code 3. Mutation: no look."""
    variables = state(1.0)
    variables["trainer"]["loss_averages"] = tf.Variable([1.0, 2.0])
    variables["model"]["half"] = tf.Variable(tf.ones([2, 2], tf.bfloat16))
    keep = checkpoint.Checkpointer(tmp_path, variables, keep=3, protected=lambda old: set())
    keep.save(10)
    bad = variables[group][name]
    values = bad.numpy()
    values.flat[-1] = value
    bad.assign(values)
    keep.save(20)
    with pytest.raises(checkpoint.NotFinite) as caught:
        keep.wait()
    assert str(caught.value) == (
        f"diverged at step 20: 1 of {values.size} values of {group}/{name} are not finite, so it is not saved. Checkpoint 10 is "
        "the last good one; lower --learning_rate, or give --clip_norm")
    assert isinstance(caught.value, UserError) and caught.value.exit_code == 3
    assert whole(tmp_path) == [10] and list((tmp_path / ".writing").iterdir()) == []


def test_a_first_save_that_is_not_finite(tmp_path):
    keep = checkpoint.Checkpointer(tmp_path, {"model": {"a": tf.Variable(float("nan"))}}, keep=1, protected=lambda old: set())
    keep.save(1)
    with pytest.raises(checkpoint.NotFinite, match="There is no checkpoint yet"):
        keep.save(2)


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


def test_a_damaged_one_in_the_middle_counts_for_nobody(tmp_path):
    """Also when its size is right, and though it was whole before. Mutation: only sizes are looked at."""
    keep = checkpoint.Checkpointer(tmp_path, state(1.0), keep=2, protected=lambda old: set())
    for step in (10, 20):
        keep.save(step)
    keep.wait()
    path = tmp_path / "ckpt-00000020.data-00000-of-00001"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    keep.save(30), keep.wait()
    assert manifest.published(tmp_path) == [10, 20, 30]
    keep.save(40), keep.wait()
    assert whole(tmp_path) == [30, 40]


def test_files_are_read_again_only_when_they_changed(tmp_path, monkeypatch):
    """Retention costs no more reading than the two files of a new checkpoint, once they are known."""
    read = []
    for owner in (checkpoint, manifest):
        monkeypatch.setattr(owner, "sha256", lambda path: read.append(path.name) or "0")
    monkeypatch.setattr(checkpoint, "damage", lambda folder, step: read.append(step) or "")
    first = checkpoint.Checkpointer(tmp_path, state(1.0), keep=2, protected=lambda old: set())
    for step in (10, 20, 30):
        first.save(step)
    first.wait()
    assert len(read) == 6 and all("ckpt" in name for name in read)
    again = checkpoint.Checkpointer(tmp_path, state(1.0), keep=2, protected=lambda old: set())
    read.clear()
    again.save(40), again.wait()
    assert read == ["ckpt-00000040.data-00000-of-00001", "ckpt-00000040.index", 30]
    os.utime(tmp_path / "ckpt-00000040.index")
    again.save(50), again.wait()
    assert read[3:] == ["ckpt-00000050.data-00000-of-00001", "ckpt-00000050.index", 40]


def test_what_was_set_aside_or_left_goes_with_its_step(tmp_path):
    """A damaged checkpoint set aside and the data of a save that was killed stay for a look, as long as a checkpoint of
    their step would. Mutation: only what is published is deleted."""
    keep = checkpoint.Checkpointer(tmp_path, state(1.0), keep=2, protected=lambda old: set())
    for step in (10, 20):
        keep.save(step)
    keep.wait()
    manifest.set_aside(tmp_path, 20)
    (tmp_path / "ckpt-00000015.index").write_bytes(b"of a save that was killed")
    (tmp_path / "ckpt-notes.txt").write_text("mine")
    keep.save(30), keep.wait()
    assert len(list(tmp_path.glob("ckpt-00000020.*.damaged"))) == 3 and (tmp_path / "ckpt-00000015.index").exists()
    keep.save(40), keep.wait()
    assert whole(tmp_path) == [30, 40]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[:12] not in ("ckpt-0000003", "ckpt-0000004")) == [
        ".writing", "ckpt-notes.txt"]


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
