"""The ledger: one result or one recorded reason a step, the best, the lock, what retention must keep."""
import json
import os
import subprocess
import sys

import pytest

from trainer import watch
from trainer.config import UserError
from trainer.watch import Ledger


def result(value: float) -> dict:
    return {"examples": 10, "loss": 1.0, "precision_at_1": value}


def publish(folder, step):
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / f"ckpt-{step:08d}.json").write_text("{}")


def test_pending_in_order_until_settled(tmp_path):
    ledger = Ledger(tmp_path, "test")
    assert ledger.pending([10, 20, 30]) == [10, 20, 30]
    ledger.record(20, {"ema": result(0.5), "raw": result(0.4)})
    ledger.skip(10, "damaged")
    assert ledger.pending([10, 20, 30]) == [30]
    assert [(line["step"], line["weights"]) for line in ledger.results()] == [(20, "ema"), (20, "raw")]


def test_best_is_the_largest_and_of_equal_ones_the_earliest(tmp_path):
    ledger = Ledger(tmp_path, "test")
    for step, value in ((1, 0.5), (2, 0.7), (3, 0.7), (4, float("nan")), (5, 0.6)):
        ledger.record(step, {"raw": result(value)})
    assert ledger.best()["step"] == 2


def test_lock_is_held_by_the_living_only(tmp_path):
    program = ("import sys; from trainer.watch import Ledger\n"
               "with Ledger(sys.argv[1], 'test').lock():\n print('held', flush=True); sys.stdin.read()")
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True, cwd=os.getcwd())
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"process {holder.pid}"):
        with Ledger(tmp_path, "test").lock():
            pass
    with Ledger(tmp_path, "train").lock():
        pass  # another split
    holder.kill()
    holder.wait()
    with Ledger(tmp_path, "test").lock():
        pass


def test_retention_waits_for_a_separate_evaluator_within_bounds(tmp_path, monkeypatch):
    """Mutation: protect only the best; protect without a bound."""
    for step in range(1, 6):
        publish(tmp_path, step)
    assert watch.protected(tmp_path, [1, 2, 3]) == set()  # nobody evaluates
    ledger = Ledger(tmp_path, "test")
    ledger.record(1, {"raw": result(0.9)})
    assert watch.protected(tmp_path, [1, 2, 3]) == {1}  # inline evaluation: the best only
    ledger.announce()
    assert watch.protected(tmp_path, [1, 2, 3]) == {1, 2, 3}
    monkeypatch.setattr(watch, "KEEP_UNEVALUATED", 2)
    assert watch.protected(tmp_path, [1, 2, 3, 4]) == {1, 3, 4}
    old = tmp_path / "checkpoints" / "ckpt-00000003.json"
    os.utime(old, (1, 1))
    assert watch.protected(tmp_path, [1, 3, 4]) == {1, 4}
    reasons = [json.loads(line) for line in (ledger.folder / "skipped.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in reasons] == [2, 3] and "waited" in reasons[0]["reason"]
    assert ledger.pending([1, 2, 3, 4]) == [4]


def test_done_is_for_the_configuration_recorded_now(tmp_path):
    assert watch.done(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps({"config": {"train_steps": 100}}))
    (tmp_path / "DONE").write_text(json.dumps({"step": 100, "train_steps": 100, "why": "complete"}))
    assert watch.done(tmp_path)["step"] == 100
    (tmp_path / "config.json").write_text(json.dumps({"config": {"train_steps": 200}}))
    assert watch.done(tmp_path) is None  # it was prolonged and is not done
