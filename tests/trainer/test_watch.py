"""The ledger: one result or one recorded reason a step, the best, the lock, what retention must keep."""
import dataclasses
import json
import os
import subprocess
import sys

import pytest

from trainer import files, recipes, watch
from trainer.config import UserError


def result(value: float) -> dict:
    return {"examples": 10, "loss": 1.0, "precision_at_1": value}


def publish(folder, step):
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / f"ckpt-{step:08d}.json").write_text("{}")


def reasons(ledger) -> list[dict]:
    path = ledger.folder / "skipped.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def ledger(tmp_path):
    return watch.Ledger(tmp_path, "test", best="precision_at_1")


def test_pending_in_order_until_settled(ledger):
    assert ledger.pending([10, 20, 30]) == [10, 20, 30]
    assert ledger.record(20, {"ema": result(0.5), "raw": result(0.4)})
    ledger.skip(10, "damaged")
    assert ledger.pending([10, 20, 30]) == [30]
    assert [(line["step"], line["weights"]) for line in ledger.results()] == [(20, "ema"), (20, "raw")]


def test_a_step_is_settled_once(ledger):
    """Trainer and evaluator may both come to a step: the first one's word stands. Mutation: no look under the lock."""
    ledger.skip(10, "retired by the trainer")
    assert not ledger.record(10, {"raw": result(0.5)})
    ledger.skip(10, "not there")
    assert ledger.record(20, {"raw": result(0.5)})
    ledger.skip(20, "retired by the trainer")
    assert not ledger.record(20, {"raw": result(0.6)})
    assert reasons(ledger) == [{"step": 10, "reason": "retired by the trainer"}]
    assert ledger.results() == [{"step": 20, "weights": "raw", **result(0.5)}]


def test_look_and_write_are_under_the_lock(ledger, monkeypatch):
    """Nobody can settle the step in between. Mutation: a lock of each process's own."""
    held = []

    def watched(function):
        def wrapper(*arguments):
            held.append(files.held(ledger.folder / ".write"))
            return function(*arguments)
        return wrapper

    monkeypatch.setattr(watch.Ledger, "settled", watched(watch.Ledger.settled))
    monkeypatch.setattr(watch.JsonLines, "append", watched(watch.JsonLines.append))
    ledger.record(10, {"raw": result(0.5)})
    ledger.skip(20, "damaged")
    assert held == [True] * 4 and not files.held(ledger.folder / ".write")


def test_two_processes_write_at_one_time(tmp_path, ledger):
    """Of 1..100 one comes from below, one from above: every step is settled once. Mutation: no lock around look and write."""
    program = """
import sys
from trainer import watch
ledger = watch.Ledger(sys.argv[1], "test", best="precision_at_1")
print("ready", flush=True)
sys.stdin.readline()
for step in range(1, 101):
    if sys.argv[2] == "trainer":
        ledger.skip(101 - step, "retired")
    else:
        ledger.record(step, {"raw": {"examples": 1, "loss": 1.0, "precision_at_1": 0.5}})
"""
    processes = [subprocess.Popen([sys.executable, "-c", program, tmp_path, who], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True) for who in ("trainer", "evaluator")]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    for process in processes:
        process.stdin.close()
    for process in processes:
        assert process.wait(120) == 0
        process.stdout.close()
    settled = [line["step"] for line in ledger.results()] + [line["step"] for line in reasons(ledger)]
    assert sorted(settled) == list(range(1, 101))


def test_best_is_the_largest_and_of_equal_ones_the_earliest(ledger):
    for step, value in ((1, 0.5), (2, 0.7), (3, 0.7), (4, float("nan")), (5, 0.6)):
        ledger.record(step, {"raw": result(value)})
    assert ledger.best()["step"] == ledger.best_line()["step"] == 2


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"step": "2"}', "[" * 100_000, '{"step": 1, "precision_at_1": 9}'])
def test_a_lost_or_damaged_best_is_made_again_from_the_ledger(ledger, content):
    """At a trainer's start, at an evaluator's, and with the next result: a kill between ledger and best.json is mended."""
    for step, value in ((1, 0.5), (2, 0.7), (3, 0.6)):
        ledger.record(step, {"raw": result(value)})
    path = ledger.folder / "best.json"
    whole = path.read_text()
    for mend in (lambda: ledger.restart(3), ledger.write_best, lambda: ledger.record(4, {"raw": result(0.1)})):
        path.unlink() if content is None else path.write_text(content)
        mend()
        assert path.read_text() == whole


@pytest.mark.parametrize("content", ["{", '{"step": "2"}'])
def test_a_damaged_best_is_said_and_the_ledger_tells_which_it_is(tmp_path, ledger, content):
    for step, value in ((1, 0.5), (2, 0.7)):
        ledger.record(step, {"raw": result(value)})
    (ledger.folder / "best.json").write_text(content)
    with pytest.raises(ValueError, match="Expecting property name|no step"):
        ledger.best()
    assert watch.protected(tmp_path, [1, 2, 3], best="precision_at_1") == {2}


def test_the_best_stays_also_where_a_kill_came_before_best_json(tmp_path, ledger):
    """The line is there: nobody waits for it any more. Mutation: best.json alone says which it is."""
    ledger.announce()
    ledger.record(1, {"raw": result(0.5)})
    publish(tmp_path, 2)
    ledger._metrics.append({"step": 2, "weights": "raw", **result(0.9)})
    assert watch.protected(tmp_path, [1, 2], best="precision_at_1") == {2}


FOREIGN = ['{"step": 3}', '{"step": 3, "weights": "raw", "loss": 1.0, "precision_at_1": 0.5}', '{"step": 3, "weights": "raw", "examples": 10, "loss": 1.0}', "{}", "[]", "", "\\x00",
           '{"step": 3, "weights": "best", "precision_at_1": 0.5}', '{"step": 3, "weights": "raw", "precision_at_1": "high"}',
           '{"step": 3, "weights": ["raw"], "precision_at_1": 1}', '{"step": "3", "weights": "raw", "precision_at_1": 1}',
           "[" * 5000, '{"step": 3, "weights": "raw", "precision_at_1": null}', '{"step": 3, "weights": "raw", "precision_at_1": tr']


@pytest.mark.parametrize("line", FOREIGN)
def test_a_damaged_line_of_the_ledger_is_named(ledger, line):
    """File, line and a fix, whoever reads it, and nothing is written over it."""
    ledger.record(1, {"raw": result(0.5)})
    path = ledger.folder / "metrics.jsonl"
    with open(path, "a") as file:
        file.write(line + "\n")
    before = path.read_bytes()
    for use in (ledger.results, ledger.settled, ledger.best_line, lambda: ledger.restart(9),
                lambda: ledger.record(4, {"raw": result(0.1)})):
        with pytest.raises(UserError, match=r"eval/test/metrics\.jsonl, line 2: .* remove this line"):
            use()
    assert path.read_bytes() == before


def test_a_torn_last_line_is_no_result(ledger):
    """What a kill left of a write: the step is evaluated again, and its lines are whole."""
    ledger.record(1, {"raw": result(0.5)})
    path = ledger.folder / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"step": 2, "weights": "raw", "examp')
    assert ledger.pending([1, 2]) == [2]
    ledger.record(2, {"raw": result(0.6)})
    assert [line["step"] for line in ledger.results()] == [1, 2] and path.read_text().endswith("}\n")


def test_reasons_beyond_the_step_that_a_trainer_goes_on_from_are_void(ledger):
    """These steps come again, and are evaluated then; results stay. Mutation: the reasons are kept."""
    for step in (10, 30):
        ledger.record(step, {"raw": result(0.5)})
    for step in (20, 40):
        ledger.skip(step, "damaged")
    ledger.restart(30)
    assert ledger.pending([10, 20, 30, 40]) == [40]
    ledger.restart(20)
    assert ledger.pending([10, 20, 30, 40]) == [40]


def test_retention_waits_for_a_separate_evaluator_within_bounds(tmp_path, monkeypatch, ledger):
    """Mutation: protect only the best; protect without a bound."""
    for step in range(1, 6):
        publish(tmp_path, step)
    assert watch.protected(tmp_path, [1, 2, 3], best="precision_at_1") == set()  # nobody evaluates
    ledger.record(1, {"raw": result(0.9)})
    assert watch.protected(tmp_path, [1, 2, 3], best="precision_at_1") == {1}  # inline evaluation: the best only
    ledger.announce()
    assert watch.protected(tmp_path, [1, 2, 3], best="precision_at_1") == {1, 2, 3}
    monkeypatch.setattr(watch, "KEEP_UNEVALUATED", 2)
    assert watch.protected(tmp_path, [1, 2, 3, 4], best="precision_at_1") == {1, 2, 4}
    old = tmp_path / "checkpoints" / "ckpt-00000002.json"
    os.utime(old, (1, 1))
    assert watch.protected(tmp_path, [1, 2, 4], best="precision_at_1") == {1, 4}
    assert [entry["step"] for entry in reasons(ledger)] == [3, 2]
    assert "more than 2 checkpoints waited" in reasons(ledger)[0]["reason"] and "hours" in reasons(ledger)[1]["reason"]
    assert ledger.pending([1, 2, 3, 4]) == [4]


def test_a_slow_evaluator_keeps_what_it_is_busy_with(tmp_path, monkeypatch, ledger):
    """Three checkpoints come while one is evaluated: the oldest, which it is busy with, is there until it has a result.
    Mutation: the oldest go first, so that every result comes too late."""
    monkeypatch.setattr(watch, "KEEP_UNEVALUATED", 4)
    ledger.folder.mkdir(parents=True)
    ledger.announce()
    there = []
    for step in range(1, 61):
        publish(tmp_path, step)
        there = sorted({*watch.protected(tmp_path, there, best="precision_at_1"), step})
        assert len(there) <= 6  # four that wait, the newest, the best
        if step % 3 == 0:
            assert ledger.record(ledger.pending(there)[0], {"raw": result(0.5)})
    assert len(ledger.results()) == 20
    assert sorted([line["step"] for line in ledger.results() + reasons(ledger)] + ledger.pending(there)) == list(range(1, 61))


def test_a_file_among_the_splits_is_none(tmp_path, ledger):
    ledger.record(1, {"raw": result(0.5)})
    (tmp_path / "eval" / "notes.txt").write_text("mine")
    assert watch.protected(tmp_path, [1, 2], best="precision_at_1") == {1}


@pytest.fixture
def complete(tmp_path):
    """A run of 100 steps that is done."""
    config = dataclasses.asdict(recipes.digits()) | {"train_steps": 100, "decay_steps": [100], "classes": 10,
                                                     "precision": "float32", "model_dir": "then"}

    def record(steps):
        (tmp_path / "config.json").write_text(json.dumps({"config": config | {"train_steps": steps}}))

    record(100)
    (tmp_path / "DONE").write_text(json.dumps({"step": 100, "train_steps": 100, "why": "complete"}))
    return record


def test_done_is_for_the_configuration_recorded_now(tmp_path, complete):
    assert watch.done(tmp_path)["step"] == 100
    complete(200)
    assert watch.done(tmp_path) is None  # it was prolonged and is not done
    (tmp_path / "DONE").unlink()
    assert watch.done(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "100", '{"step": 100}', "[" * 100_000, " " * 2_000_000,
                                     '{"step": "100", "train_steps": 100, "why": "complete"}',
                                     '{"step": 100, "train_steps": 100, "why": null}'])
def test_a_damaged_done_counts_as_none_and_is_said(tmp_path, complete, content):
    (tmp_path / "DONE").write_text(content)
    said = []
    assert watch.done(tmp_path) is None and watch.done(tmp_path, said.append) is None
    assert len(said) == 1 and said[0].startswith(f"{tmp_path}/DONE is damaged (") and "taken for absent" in said[0]
