"""Law 2 for a clean stop, and law 4's exit code: SIGTERM saves the current step, the same command goes on from there, and
with --deterministic nothing tells the two halves from one whole: variables, slots, averages, metrics lines, digests.

Mutations: the data starts again at batch 0; the moving averages, a slot or the loss averages are left out of the
checkpoint; the dropout's step is the process's own count.
"""
import signal
import subprocess
import time

import numpy as np

import runs

STEPS = 300
FLAGS = (f"--train_steps={STEPS}", "--log_steps=1", "--deterministic", "--model=digits_cnn_regularized",
         "--summary_steps=50", "--histogram_steps=50", "--checkpoint_steps=100", "--num_gpus=2", "--emulate")


def test_a_stopped_run_ends_as_an_undisturbed_one(tmp_path):
    whole = runs.train(tmp_path / "whole", *FLAGS)
    process = subprocess.Popen(
        runs.command("trainer.main", f"--model_dir={tmp_path / 'stopped'}", *FLAGS), cwd=runs.ROOT,
        env=runs.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "stopped" / "train" / "metrics.jsonl"
    runs.wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 120, process)
    process.send_signal(signal.SIGTERM)
    start = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert time.monotonic() - start < 25
    stopped = runs.Outcome(143, out, err, tmp_path / "stopped")
    step = stopped.published()[-1]
    assert 120 <= step < STEPS and step == stopped.lines[-1]["step"], (step, stopped.lines[-1])
    assert f"saved step {step}" in out

    again = runs.train(tmp_path / "stopped", *FLAGS)
    assert f"resumed from {tmp_path / 'stopped'}/checkpoints/ckpt-{step:08d}" in again.out

    assert runs.told(again) == runs.told(whole)
    assert [line["step"] for line in again.lines] == list(range(1, STEPS + 1))
    ours, theirs = again.tensors(STEPS), whole.tensors(STEPS)
    assert ours.keys() == theirs.keys()
    assert {name.split("/")[0] for name in theirs} == {"model", "ema", "optimizer", "trainer"}
    for name in theirs:
        assert np.array_equal(ours[name], theirs[name]), name


def test_what_lies_beyond_the_newest_checkpoint_is_told_once(tmp_path):
    """As a kill -9 leaves it between the line of a step and its checkpoint. Mutation: the lines stay."""
    flags = ("--train_steps=20", "--log_steps=1", "--checkpoint_steps=10", "--summary_steps=5", "--histogram_steps=0", "--deterministic")
    whole = runs.train(tmp_path, *flags)
    told = runs.told(whole)
    for path in [*(tmp_path / "checkpoints").glob("ckpt-00000020.*"), tmp_path / "DONE"]:
        path.unlink()
    assert "checkpoints/ckpt-00000010" in runs.train(tmp_path, *flags).out
    assert runs.told(whole) == told and len(told[0]) == 20


def test_fewer_devices_after_a_stop(tmp_path):
    """Stopped on 2 replicas, finished on 1: the same batches, the same losses within law 1's tolerance."""
    flags = ("--train_steps=30", "--log_steps=1", "--model=digits_cnn_regularized", "--precision=float32",
             "--optimizer=sgd", "--momentum=0.9", "--learning_rate=0.02", "--summary_steps=0", "--histogram_steps=0",
             "--checkpoint_steps=0")
    whole = runs.train(tmp_path / "whole", *flags, "--num_gpus=2", "--emulate")
    runs.train(tmp_path / "moved", *flags[1:], "--train_steps=15", "--decay_steps=30", "--num_gpus=2", "--emulate")
    moved = runs.train(tmp_path / "moved", "--train_steps=30", "--num_gpus=0", "--noemulate")
    assert [line["batch_digest"] for line in moved.lines] == [line["batch_digest"] for line in whole.lines]
    found = runs.worst_difference(moved, whole, 30)
    assert max(found["loss"], found["model"], found["ema"]) < 1e-5, found


def test_a_signal_in_the_imports_ends_at_once(tmp_path):
    """There is nothing to save yet: exit code 143 as soon as the handler is there, and no --model_dir is left."""
    process = subprocess.Popen(runs.command("trainer.main", f"--model_dir={tmp_path / 'm'}"), cwd=runs.ROOT,
                               env=runs.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    runs.wait_for(lambda: runs.catches(process.pid, signal.SIGTERM), process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=25)
    assert process.returncode == 143, (out, err)
    assert not (tmp_path / "m").exists()
