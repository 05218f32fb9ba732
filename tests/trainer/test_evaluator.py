"""The evaluator's loop, without a network: one result or one recorded reason a step, whatever happens to its files, and what
it says while nothing comes. The command itself: tests/laws/test_law5_every_checkpoint.py.
"""
import dataclasses
import json
import os
import pathlib
import types

import pytest
import tensorflow as tf

from trainer import checkpoint, evaluator, files, manifest, restored, watch


def publish(model_dir, *steps):
    for step in steps:
        variables = {"model": {"conv1/kernel": tf.Variable([float(step)])}, "ema": {}}
        checkpoint.publish(model_dir / "checkpoints", step, checkpoint._trackable(variables))


def end(model_dir, step):
    (model_dir / "DONE").write_text(json.dumps({"step": step, "train_steps": 100, "why": "complete"}))


@pytest.fixture
def watcher(tmp_path, monkeypatch):
    """A Watcher whose evaluation tells the one weight of a checkpoint, and whose clock moves when it sleeps."""
    monkeypatch.setattr(evaluator.resolve, "read_recorded", lambda model_dir: {"train_steps": 100, "data_dir": ""})
    monkeypatch.setattr(watch, "read_recorded", lambda model_dir: {"train_steps": 100, "data_dir": ""})
    monkeypatch.setattr(evaluator, "check_data", lambda *_, **__: None)
    values = evaluator.define()
    values(["evaluator", f"--model_dir={tmp_path}", "--poll_secs=5"])
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    made = evaluator.Watcher(values, clock=lambda: now[0], sleep=sleep)

    def build():
        made.ledger = watch.Ledger(tmp_path, "test", best="precision_at_1")
        made.evaluation = types.SimpleNamespace(run_kinds=lambda kinds: {kind: {
            "examples": 1, "loss": 1.0, "precision_at_1": float(weights["conv1/kernel"][0]) / 100} for kind, weights in kinds.items()})
        made.reporter = types.SimpleNamespace(report=made.ledger.record)

    made.build, made.now = build, now
    return made


def told(model_dir) -> tuple[list[int], dict[int, str]]:
    """(the steps with a result, the recorded reasons)."""
    ledger = watch.Ledger(model_dir, "test")
    skipped = ledger.folder / "skipped.jsonl"
    reasons = [json.loads(line) for line in skipped.read_text().splitlines()] if skipped.exists() else []
    assert len({line["step"] for line in reasons}) == len(reasons)
    return [line["step"] for line in ledger.results()], {line["step"]: line["reason"] for line in reasons}


def test_late(tmp_path, watcher, capsys):
    """It starts when training is over: what is left is evaluated, in order, then it ends."""
    publish(tmp_path, 30, 10, 20)
    end(tmp_path, 30)
    assert watcher.watch() == 0
    assert told(tmp_path) == ([10, 20, 30], {})
    out = capsys.readouterr().out
    assert "training is done at step 30" in out and "best: step 30: precision @ 1 = 0.3000 (1 examples, raw weights)" in out


def test_it_announces_itself_before_it_can_evaluate(tmp_path, watcher, monkeypatch):
    """As soon as there is a run: a trainer keeps its first checkpoints for it while it still imports TensorFlow. Before there
    is one nothing is made. Mutation: the announcement comes with the network."""
    mark, looks = tmp_path / "eval" / "test" / "evaluator.json", []
    build = watcher.build
    monkeypatch.setattr(watcher, "build", lambda: (looks.append(mark.exists()), build())[1])
    recorded = iter([None, {"train_steps": 100, "data_dir": ""}])
    monkeypatch.setattr(evaluator.resolve, "read_recorded", lambda model_dir: next(recorded, {"train_steps": 100, "data_dir": ""}))

    def sleep(_):
        if not looks and not mark.exists():
            assert list(tmp_path.iterdir()) == []
        elif not looks:
            publish(tmp_path, 10)
            end(tmp_path, 10)

    monkeypatch.setattr(watcher, "sleep", sleep)
    assert watcher.watch() == 0
    assert looks == [True] and told(tmp_path) == ([10], {})


def test_retired_between_the_look_and_the_reading(tmp_path, watcher, monkeypatch):
    """The manifest goes, or a data file in the middle of the reading, or the trainer has recorded it: one reason each."""
    publish(tmp_path, 10, 20, 30, 40, 50)
    end(tmp_path, 50)
    damage, weights = manifest.damage, restored.weights

    def retire_before(folder, step):
        if step == 10:
            manifest.delete(folder, 10)
        return damage(folder, step)

    def retire_amid(folder, step):
        if step == 20:  # as the trainer does: with a reason, then manifest and data
            watcher.ledger.skip(20, "retired by the trainer: more than 20 checkpoints waited")
            manifest.delete(folder, 20)
        if step == 30:
            (folder / "ckpt-00000030.data-00000-of-00001").unlink()
        return weights(folder, step)

    monkeypatch.setattr(manifest, "damage", retire_before)
    monkeypatch.setattr(restored, "weights", retire_amid)
    assert watcher.watch() == 0
    results, reasons = told(tmp_path)
    assert results == [40, 50]
    assert reasons == {10: "retired by the trainer before it was evaluated",
                       20: "retired by the trainer: more than 20 checkpoints waited",
                       30: "ckpt-00000030.data-00000-of-00001 cannot be read (No such file or directory)"}


def test_given_up_while_it_was_evaluated(tmp_path, watcher, capsys):
    """The trainer's word came first: no second one."""
    publish(tmp_path, 10)
    end(tmp_path, 10)
    watcher.build()
    run = watcher.evaluation.run_kinds
    watcher.evaluation.run_kinds = lambda kinds: watcher.ledger.skip(10, "retired") or run(kinds)
    assert watcher.watch() == 0
    assert told(tmp_path) == ([], {10: "retired"})
    assert "step 10 is left out" in capsys.readouterr().out


def test_damaged_ones_leave_a_reason_and_the_others_are_evaluated(tmp_path, watcher):
    publish(tmp_path, 10, 20, 30)
    end(tmp_path, 30)
    path = tmp_path / "checkpoints" / "ckpt-00000020.data-00000-of-00001"
    path.write_bytes(bytes(path.stat().st_size))
    (tmp_path / "checkpoints" / "ckpt-00000010.json").write_text("[" * 100_000)
    assert watcher.watch() == 0
    results, reasons = told(tmp_path)
    assert results == [30]
    assert "sha256" in reasons[20] and "nested" in reasons[10]


@pytest.fixture
def waiting(watcher, monkeypatch):
    """A function: the times at which the watcher said that nothing comes, within so many seconds, and what."""
    def said(seconds):
        lines = []
        monkeypatch.setattr("builtins.print", lambda text, **_: "nothing has come" in text and lines.append(
            (watcher.now[0], text)))
        watcher.flags.timeout_secs = seconds
        assert watcher.watch() == 0
        monkeypatch.undo()
        return lines
    return said


def test_a_dead_trainer_is_soon_said(tmp_path, watcher, waiting):
    """After a minute, and again every ten: no trainer runs, and how old the last checkpoint is. Mutation: only after ten."""
    publish(tmp_path, 10)
    os.utime(tmp_path / "checkpoints" / "ckpt-00000010.json", (1, 1))
    lines = waiting(1500)
    assert [time for time, _ in lines] == [60, 660, 1260]
    assert lines[0][1].startswith("evaluator: nothing has come for 1 min, and training is not done: no trainer runs in "
                                  f"{tmp_path}; the last checkpoint, step 10, is ")
    assert lines[0][1].endswith(" h old")


def test_a_trainer_that_has_not_come(tmp_path, waiting):
    (time, line), *_ = waiting(100)
    assert time == 60 and f"no trainer runs in {tmp_path}; there is no checkpoint" in line


def test_a_living_trainer_has_ten_minutes(tmp_path, waiting):
    """It may just be slow."""
    with files.exclusive(tmp_path / "train" / ".lock", "another trainer"):
        lines = waiting(1300)
    assert [time for time, _ in lines] == [600, 1200]
    assert f"a trainer runs in {tmp_path}; there is no checkpoint" in lines[0][1]


def test_a_damaged_done_is_said_once(tmp_path, watcher, capsys):
    (tmp_path / "DONE").write_text("{")
    watcher.flags.timeout_secs = 100
    assert watcher.watch() == 0
    assert capsys.readouterr().err.count("DONE is damaged") == 1


def test_a_damaged_ledger_ends_it_with_its_line(tmp_path, watcher):
    publish(tmp_path, 10)
    (tmp_path / "eval" / "test").mkdir(parents=True)
    path = pathlib.Path(tmp_path, "eval", "test", "metrics.jsonl")
    path.write_text('{"step": 1}\n')
    with pytest.raises(watch.UserError, match="metrics.jsonl, line 1: it is not an evaluation's"):
        watcher.watch()


def test_a_whole_one_that_cannot_be_read_just_now_is_not_given_up(tmp_path, watcher, monkeypatch):
    """This machine's disk or memory failed, or the service: the evaluator ends, and the same command finds it pending. Mutation:
    every error is a reason to leave it out."""
    publish(tmp_path, 10)
    end(tmp_path, 10)
    weights = restored.weights
    for error in (OSError(28, "No space left on device"), MemoryError(), files.Unreachable("gs://b/m", "read", OSError("away"))):
        def fail(folder, step, error=error):
            raise error

        monkeypatch.setattr(restored, "weights", fail)
        with pytest.raises(watch.UserError, match="cannot be read"):
            watcher.watch()
        assert told(tmp_path) == ([], {})
    monkeypatch.setattr(restored, "weights", weights)
    assert watcher.watch() == 0 and told(tmp_path) == ([10], {})


def test_a_trainer_that_goes_on_beyond_done_is_waited_for(tmp_path, watcher, monkeypatch):
    """As long as it has not come to deleting DONE. Mutation: DONE alone ends it."""
    publish(tmp_path, 10)
    end(tmp_path, 10)
    trains = files.exclusive(tmp_path / "train" / ".lock", "another trainer")
    trains.__enter__()

    def sleep(_):
        publish(tmp_path, 20)
        end(tmp_path, 20)
        trains.__exit__(None, None, None)

    monkeypatch.setattr(watcher, "sleep", sleep)
    assert watcher.watch() == 0 and told(tmp_path) == ([10, 20], {})


def test_a_split_that_is_not_there_is_said_before_anything_waits_for_it(tmp_path, watcher):
    """The trainer would keep its checkpoints for this evaluator. Mutation: found at the first checkpoint."""
    watcher.flags(["evaluator", f"--model_dir={tmp_path}", "--split=validation", "--timeout_secs=10"])
    with pytest.raises(watch.UserError, match="split='validation': must be one of train, test, those that digits has"):
        watcher.watch()
    assert not (tmp_path / "eval").exists()


def test_without_test_examples_it_takes_those_for_validation(tmp_path, watcher, monkeypatch, capsys):
    """Unless --split asks for them. Mutation: always the test split, which ends every launcher's evaluator."""
    info = dataclasses.replace(evaluator.datasets.facts("digits"), splits=("train", "validation"))
    monkeypatch.setattr(evaluator.datasets, "describe", lambda *arguments, **options: info)
    assert watcher.data[1] is info and watcher.flags.split == "validation"
    assert capsys.readouterr().out == "evaluator: the data has no test examples: split validation\n"
    values = evaluator.define()
    values(["evaluator", f"--model_dir={tmp_path}", "--split=test"])
    with pytest.raises(watch.UserError, match="split='test': must be one of train, validation"):
        evaluator.Watcher(values).data


def test_a_shells_tilde_is_the_trainers_folder(tmp_path, monkeypatch, capsys):
    """bash leaves that of --model_dir=~/x alone. Mutation: a folder called ~ is watched for ever."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    assert evaluator.main(["evaluator", "--model_dir=~/run", "--run_once"]) == 2
    assert f"--model_dir={tmp_path}/run has no config.json" in capsys.readouterr().err
