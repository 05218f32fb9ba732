"""Law 5: the separate evaluator evaluates every published checkpoint exactly once, in order, also those published while it
was away or killed, and stops by itself after DONE. A trainer keeps what it has not evaluated.

Mutations: only the newest checkpoint is evaluated; the ledger is not read at start; DONE is looked at after the folder.
"""
import json
import random
import subprocess

import pytest

import runs

FLAGS = ("--train_steps=240", "--log_steps=20", "--summary_steps=0", "--histogram_steps=0", "--checkpoint_steps=20",
         "--keep_checkpoints=1")


def evaluator(model_dir, *flags):
    return subprocess.Popen(runs.command("trainer.evaluator", f"--model_dir={model_dir}", "--poll_secs=0.05", *flags),
                            cwd=runs.ROOT, env=runs.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True)


def test_once_in_order_also_after_a_kill(tmp_path):
    """It starts before the trainer, is killed with -9 after its first results, and comes back when training is over."""
    ledger = tmp_path / "eval" / "test" / "metrics.jsonl"
    first = evaluator(tmp_path)
    runs.wait_for(lambda: (tmp_path / "eval").exists() or first.stdout.readable(), first)
    assert "ends when training is done" in first.stdout.readline()
    # A first part of the run, so that the evaluator has announced itself before checkpoints are retired.
    runs.train(tmp_path, *FLAGS[1:], "--train_steps=20", "--decay_steps=240")
    runs.wait_for(ledger.exists, first)
    first.kill()
    first.communicate()
    runs.train(tmp_path, "--train_steps=240")
    assert (tmp_path / "DONE").exists()
    second = evaluator(tmp_path)
    out, err = second.communicate(timeout=240)
    assert second.returncode == 0, err
    assert "training is done at step 240" in out
    lines = runs.read_lines(ledger)
    assert [(line["step"], line["weights"]) for line in lines] == [
        (step, kind) for step in range(20, 241, 20) for kind in ("ema", "raw")]
    assert not (tmp_path / "eval" / "test" / "skipped.jsonl").exists()
    best = json.loads((tmp_path / "eval" / "test" / "best.json").read_text())
    assert best["precision_at_1"] == max(line["precision_at_1"] for line in lines)
    before = ledger.read_bytes()
    again = runs.evaluate(tmp_path, "--run_once")
    assert ledger.read_bytes() == before and "best: step" in again.out


@pytest.mark.slow
def test_killed_again_and_again_beside_a_trainer(tmp_path):
    """kill -9 at drawn moments, in the imports, in an evaluation, between two, while checkpoints come and go: at the end every
    step that was ever published has one result or one reason, in order, and no line is torn. Mutation: a result is written
    line by line."""
    ledger, announced = tmp_path / "eval" / "test" / "metrics.jsonl", tmp_path / "eval" / "test" / "evaluator.json"
    draw = random.Random(0)
    runs.train(tmp_path, *FLAGS[1:], "--train_steps=20", "--decay_steps=600")
    (tmp_path / "DONE").unlink()  # so that the first one stays
    first = evaluator(tmp_path)
    runs.wait_for(announced.exists, first)
    trainer = subprocess.Popen(runs.command("trainer.main", f"--model_dir={tmp_path}", "--train_steps=600", "--progress=none"),
                               cwd=runs.ROOT, env=runs.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    kills, process = 0, first
    while kills < 5:
        try:
            process.communicate(timeout=draw.uniform(0.5, 9))
            break  # the trainer was done long ago
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            process = evaluator(tmp_path)
    out, err = process.communicate(timeout=300)
    _, trainer_err = trainer.communicate(timeout=300)
    assert process.returncode == 0 and trainer.returncode == 0, (err, trainer_err)
    assert kills >= 2 and "training is done at step 600" in out
    lines = [(line["step"], line["weights"]) for line in runs.read_lines(ledger)]
    skipped = tmp_path / "eval" / "test" / "skipped.jsonl"
    reasons = [line["step"] for line in runs.read_lines(skipped)] if skipped.exists() else []
    evaluated = [step for step, kind in lines if kind == "ema"]
    assert lines == [(step, kind) for step in evaluated for kind in ("ema", "raw")] and evaluated == sorted(evaluated)
    assert sorted(evaluated + reasons) == list(range(20, 601, 20))
    best = json.loads((ledger.parent / "best.json").read_text())
    assert best["precision_at_1"] == max(line["precision_at_1"] for line in runs.read_lines(ledger))
    assert best["step"] in runs.Outcome(0, "", "", tmp_path).published()


def test_a_second_evaluator_refuses_and_a_damaged_checkpoint_leaves_a_reason(tmp_path):
    runs.train(tmp_path, *FLAGS[1:-1], "--train_steps=60")
    (tmp_path / "checkpoints" / "ckpt-00000040.index").write_bytes(b"")
    (tmp_path / "DONE").unlink()  # so that the first one stays
    first = evaluator(tmp_path)
    ledger = tmp_path / "eval" / "test" / "metrics.jsonl"
    runs.wait_for(lambda: ledger.exists() and len(runs.read_lines(ledger)) == 4, first)
    refused = runs.evaluate(tmp_path, "--run_once", code=2)
    assert f"another evaluator works on {tmp_path}/eval/test (process {first.pid} on " in refused.err
    assert len(refused.err.strip().splitlines()) == 1
    first.terminate()
    out, _ = first.communicate(timeout=60)
    assert first.returncode == 143
    assert [line["step"] for line in runs.read_lines(ledger)] == [20, 20, 60, 60]
    reasons = runs.read_lines(tmp_path / "eval" / "test" / "skipped.jsonl")
    assert [entry["step"] for entry in reasons] == [40] and "ckpt-00000040.index has 0 bytes" in reasons[0]["reason"]
    assert "step 40 is left out" in out


def test_inline_and_separate_evaluation_share_the_ledger(tmp_path):
    """What the trainer evaluated, the evaluator does not evaluate again; both give the same numbers."""
    runs.train(tmp_path, *FLAGS[1:-1], "--train_steps=40", "--eval_steps=40", "--precision=float32")
    ledger = tmp_path / "eval" / "test" / "metrics.jsonl"
    inline = runs.read_lines(ledger)
    assert [line["step"] for line in inline] == [40, 40]
    runs.evaluate(tmp_path, "--run_once")
    lines = runs.read_lines(ledger)
    assert [line["step"] for line in lines] == [40, 40, 20, 20]
    ledger.unlink()
    runs.evaluate(tmp_path, "--run_once")
    separate = [line for line in runs.read_lines(ledger) if line["step"] == 40]
    for a, b in zip(inline, separate):
        assert a["precision_at_1"] == b["precision_at_1"] and abs(a["loss"] - b["loss"]) < 1e-6 * b["loss"]
