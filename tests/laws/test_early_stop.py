"""Early stopping from outside: a run that brings nothing better ends, is done for the patience that it was given, and goes on
with another.

Mutations: any patience takes DONE for the end; DONE stays while the run goes on.
"""
import json
import signal
import subprocess

import runs

# Nothing is learnt, so that no evaluation is better than the first.
FLAGS = ("--learning_rate=1e-30", "--weight_decay=0", "--train_steps=2000", "--eval_steps=10", "--log_steps=10", "--summary_steps=0",
         "--histogram_steps=0", "--checkpoint_steps=200")


def test_another_patience_goes_on(tmp_path):
    first = runs.train(tmp_path, *FLAGS, "--early_stop_evals=2")
    assert "done: step 30 (early stop)" in first.out
    done = json.loads((tmp_path / "DONE").read_text())
    assert done == {"step": 30, "train_steps": 2000, "eval_steps": 10, "early_stop_evals": 2, "why": "early stop"}
    assert f"nothing to do: {tmp_path} is done at step 30 (early stop)" in runs.train(tmp_path, *FLAGS, "--early_stop_evals=2").out
    again = runs.train(tmp_path, *FLAGS, "--early_stop_evals=4")
    assert "resumed from" in again.out and "done: step 50 (early stop)" in again.out
    assert json.loads((tmp_path / "DONE").read_text())["step"] == 50


def test_done_is_gone_while_a_run_goes_on(tmp_path):
    """Or an evaluator that starts then would take it for the end."""
    runs.train(tmp_path, *FLAGS, "--early_stop_evals=1")
    assert (tmp_path / "DONE").exists()
    process = subprocess.Popen(runs.command("trainer.main", f"--model_dir={tmp_path}", *FLAGS, "--early_stop_evals=0"),
                               cwd=runs.ROOT, env=runs.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "train" / "metrics.jsonl"
    runs.wait_for(lambda: metrics.read_text().count("\n") >= 3, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143 and not (tmp_path / "DONE").exists()
