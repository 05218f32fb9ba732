"""Law 3: a damaged checkpoint is never loaded, and never fatal while a whole one is left.

Mutations: the manifest's digests are not compared; the newest prefix is taken without a manifest; all damaged is taken for
nothing published.
"""
import json
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


def test_the_best_and_the_newest_damaged_with_one_kept(tmp_path, whole):
    """--keep_checkpoints=1 beside an evaluator: the newest and the best are damaged, the run goes on from what waited."""
    folder = tmp_path / "m"
    (folder / "eval" / "test").mkdir(parents=True)
    (folder / "eval" / "test" / "evaluator.json").write_text("{}\n")  # so that what is not evaluated stays
    runs.train(folder, *FLAGS[:-1], "--keep_checkpoints=1")
    runs.evaluate(folder, "--run_once")
    best = json.loads((folder / "eval" / "test" / "best.json").read_text())["step"]
    for step in {best, 40}:
        flip(folder / "checkpoints" / f"ckpt-{step:08d}.index")
    again = runs.train(folder, *FLAGS[:-1], "--keep_checkpoints=1")
    start = max({10, 20, 30} - {best})
    assert f"ckpt-{start:08d}" in again.out and "checkpoint 40 is damaged: ckpt-00000040.index was changed" in again.err
    ours, theirs = again.tensors(40), whole.tensors(40)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    set_aside = sorted((folder / "checkpoints").glob("ckpt-*.damaged"))
    assert [path.name for path in set_aside if "-00000040." in path.name] == [
        f"ckpt-00000040.{ending}.damaged" for ending in ("data-00000-of-00001", "index", "json")]
    runs.evaluate(folder, "--run_once")
    assert json.loads((folder / "eval" / "test" / "best.json").read_text())["step"] == best


def test_damaged_files_beside_the_checkpoints(tmp_path, whole):
    """What can be made again is made again, and said; a line that is none is named, with code 2; never a traceback."""
    folder = tmp_path / "m"
    shutil.copytree(whole.model_dir, folder)
    runs.evaluate(folder, "--run_once")
    split = folder / "eval" / "test"
    best = (split / "best.json").read_text()
    (folder / "DONE").write_text("[" * 100_000)
    (folder / "train" / ".lock").write_bytes(b"\xff" * 1000)
    (split / "best.json").write_text("{")
    (split / "evaluator.json").write_bytes(b"\0")
    (split / ".lock").write_bytes(b"\xff" * 1000)
    for path in (folder / "train" / "metrics.jsonl", split / "metrics.jsonl", split / "skipped.jsonl"):
        with open(path, "ab") as file:
            file.write(b'{"step": 9, "lo')  # torn
    again = runs.train(folder, "--train_steps=50")
    assert "DONE is damaged (it is nested without end), and taken for absent" in again.err and "resumed from" in again.out
    assert [line["step"] for line in again.lines] == list(range(1, 51))
    assert (split / "best.json").read_text() == best and json.loads((folder / "DONE").read_text())["step"] == 50
    (split / "best.json").write_text("[]")
    runs.evaluate(folder, "--run_once")
    lines = runs.read_lines(split / "metrics.jsonl")
    assert [line["step"] for line in lines] == [20, 20, 30, 30, 40, 40, 50, 50]
    assert json.loads((split / "best.json").read_text())["precision_at_1"] == max(line["precision_at_1"] for line in lines)

    for path, command in ((split / "metrics.jsonl", "trainer"), (split / "metrics.jsonl", "evaluator"),
                          (folder / "train" / "metrics.jsonl", "trainer")):
        kept = path.read_bytes()
        path.write_bytes(kept.replace(b'{"step": 20,', b'{"stop": 20,', 1))
        ended = runs.train(folder, "--train_steps=60", code=2) if command == "trainer" else runs.evaluate(
            folder, "--run_once", code=2)
        said = ended.err.strip().splitlines()
        assert len(said) == 1 and said[0].startswith(f"{command}: {path}, line ") and "remove this line" in said[0], ended.err
        path.write_bytes(kept)


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
