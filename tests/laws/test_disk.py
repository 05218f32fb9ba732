"""Laws 2 and 3 on a disk that is full or read-only: one line with the file, the reason and a fix, code 2; nothing published
is touched, no line is torn; with room again the same command ends bit for bit as an undisturbed run.

Mutations: the half-written checkpoint stays; a line that did not fit stays in part; the error is not the user's.
"""
import numpy as np
import pytest
import tensorflow as tf

import disks
import runs
from trainer import checkpoint, manifest
from trainer.config import UserError

FIRST = ("--train_steps=20", "--log_steps=1", "--deterministic", "--summary_steps=10", "--histogram_steps=0",
         "--checkpoint_steps=10", "--keep_checkpoints=2")
THEN = ("--train_steps=40", *FIRST[1:])
KILOBYTES = 8192


@pytest.fixture
def disk(tmp_path):
    (tmp_path / "disk").mkdir()
    with disks.small(tmp_path / "disk", kilobytes=KILOBYTES) as disk:
        yield disk


def one_line(outcome, command="trainer") -> str:
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"{command}: "), outcome.err
    return lines[0]


@pytest.mark.slow
def test_full(disk, tmp_path):
    """Full from the start on, in a line, in mid-save, in an evaluation. Each time it is said, and nothing is lost."""
    folder = disk.path / "m"
    metrics, checkpoints = folder / "train" / "metrics.jsonl", folder / "checkpoints"

    def published():
        return {path: path.read_bytes() for path in checkpoints.glob("ckpt*")}

    runs.train(folder, *FIRST)
    before = published()

    def fails(leave, *flags) -> str:
        disk.fill(leave=leave)
        line = one_line(runs.train(folder, *flags, code=2))
        disk.make_room()
        assert "cannot be written: No space left on device; make room, then give the same command again" in line
        assert published() == before and list((checkpoints / ".writing").iterdir()) == []
        steps = [record["step"] for record in runs.read_lines(metrics)]
        assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 20
        return line

    assert str(folder) in fails(0, *THEN)
    room = 20_000  # for some lines
    assert "metrics.jsonl cannot" in fails(room, "--train_steps=900", *FIRST[1:3], "--checkpoint_steps=0", "--summary_steps=0")
    room = 400_000  # for a part of a checkpoint, and the lines and events before it
    assert room < len(before[checkpoints / "ckpt-00000020.data-00000-of-00001"])
    assert "ckpt-00000030 cannot" in fails(room, *THEN)

    disk.fill(leave=4096)  # the evaluator's lock
    line = one_line(runs.evaluate(folder, "--run_once", code=2), "evaluator")
    assert f"{folder}/eval/test/" in line and "No space left on device; make room" in line
    disk.make_room()
    runs.evaluate(folder, "--run_once")
    assert [record["step"] for record in runs.read_lines(folder / "eval" / "test" / "metrics.jsonl")] == [10, 10, 20, 20]

    again = runs.train(folder, *THEN)
    assert "ckpt-00000020" in again.out
    runs.train(tmp_path / "whole", *FIRST)
    whole = runs.train(tmp_path / "whole", *THEN)
    assert runs.told(again) == runs.told(whole)
    ours, theirs = again.tensors(40), whole.tensors(40)
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if not np.array_equal(ours[name], theirs[name])] == []


def test_read_only(disk):
    """Known before training, and before TensorFlow is imported where all is read-only; nothing is left there."""
    folder = disk.path / "m"
    runs.train(folder, *FIRST)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    disk.mount("-o remount,ro", disk.folder)
    line = one_line(runs.train(folder, *THEN, code=2))
    assert line.startswith(f"trainer: --model_dir={folder} must be a folder that can be written")
    line = one_line(runs.evaluate(folder, "--run_once", code=2), "evaluator")
    assert "cannot be written: Read-only file system; make it writable" in line
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("part", ["checkpoints", "train"])
def test_a_part_that_is_read_only(disk, part):
    """A mount for the checkpoints alone, say: it is known before the first step."""
    folder = disk.path / "m"
    runs.train(folder, *FIRST)
    lines = (folder / "train" / "metrics.jsonl").read_bytes()
    inside = disk.folder / "m" / part
    disk.mount("--bind", inside, inside)
    disk.mount("-o remount,ro,bind", inside)
    line = one_line(runs.train(folder, *THEN, code=2))
    assert f"{folder}/{part}/" in line and "cannot be written: Read-only file system; make it writable" in line
    assert (folder / "train" / "metrics.jsonl").read_bytes() == lines


def test_every_amount_of_room(disk):
    """Page by page: the new checkpoint is published and whole, or absent, and takes no room; the one before is whole."""
    variables = {"model": {"kernel": tf.Variable(tf.random.stateless_normal([64, 128], [1, 2]))}}
    folder = disk.path / "checkpoints"
    trackable = checkpoint._trackable(variables)
    checkpoint.publish(folder, 1, trackable)
    need = sum(path.stat().st_size for path in folder.glob("ckpt*"))
    failed = 0
    for step, leave in enumerate(range(0, need + 9 * 4096, 4096), start=2):
        disk.fill(leave=leave)
        try:
            checkpoint.publish(folder, step, trackable)
        except UserError as error:
            assert "No space left on device" in str(error)
            failed += 1
            assert manifest.published(folder) == [1] and len(list(folder.rglob("ckpt*"))) == 3
            assert disk.free >= leave
        else:
            assert manifest.damage(folder, step) == ""
            manifest.delete(folder, step)
        assert manifest.damage(folder, 1) == ""
        disk.make_room()
    assert 5 < failed < step - 2
