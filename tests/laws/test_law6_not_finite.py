"""Law 6, from outside: what is not finite is left out on all replicas alike, counted and shown; a run that diverges stops with
code 3, says where, and every checkpoint that it leaves is finite.

The update itself, on one and two replicas, is held to the law in tests/trainer/test_step.py.
"""
import re
import subprocess

import numpy as np

import runs

DIVERGED = r"diverged at step (\d+): loss = (\S+), largest gradient (\S+), (not finite|of norm \S+); more than --max_skipped_steps=3 "


def poisoned(model_dir, index: str, *flags: str, code: int = 0) -> runs.Outcome:
    """The trainer with a NaN in an example; see poisoning.py."""
    done = subprocess.run(
        runs.command("tests.laws.poisoning", index, "--", f"--model_dir={model_dir}", *flags),
        cwd=runs.ROOT, capture_output=True, text=True, timeout=300, env=runs.environment())
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return runs.Outcome(done.returncode, done.stdout, done.stderr, model_dir)


def assert_finite(run: runs.Outcome) -> None:
    """Every checkpoint, and there is one."""
    assert run.published()
    for step in run.published():
        for name, value in run.tensors(step).items():
            assert value.dtype.kind != "f" or np.isfinite(value).all(), (step, name)


def test_a_diverging_run_stops_with_code_3(tmp_path):
    """Mutation: an update that is not finite is applied."""
    run = runs.train(tmp_path, "--optimizer=sgd", "--lr_schedule=constant", "--learning_rate=1e20", "--train_steps=60",
                     "--log_steps=1", "--checkpoint_steps=1", "--keep_checkpoints=9", "--max_skipped_steps=3",
                     "--summary_steps=0", "--histogram_steps=0", code=3)
    step, loss, variable, _ = re.search(DIVERGED, run.err).groups()
    assert "--learning_rate" in run.err and f"model/{variable.replace('/', '.S')}" in run.tensors(run.published()[-1])
    last = run.lines[-1]
    assert last["skipped_steps"] == 4 and last["step"] == int(step)
    assert loss == f"{float(last['loss']):g}"
    assert run.published()[-1] < last["step"]
    assert_finite(run)
    assert not (tmp_path / "DONE").exists()


def test_a_nan_in_every_batch_names_what_is_not_finite(tmp_path):
    run = poisoned(tmp_path, "all", "--train_steps=60", "--max_skipped_steps=3", "--summary_steps=0", "--histogram_steps=0",
                   "--checkpoint_steps=1", code=3)
    assert re.search(DIVERGED, run.err).groups() == ("4", "nan", "conv1/kernel", "not finite")
    assert run.published() == [1, 2, 3]  # nothing moved in them
    assert_finite(run)


def test_one_bad_example_is_skipped_by_all_replicas_alike(tmp_path):
    """The example is on one replica only, and the steps are skipped that a single device skips.

    Mutation: every replica leaves out of the sum what is not finite of its own.
    """
    flags = ("--train_steps=30", "--log_steps=1", "--model=digits_cnn_regularized", "--precision=float32", "--optimizer=sgd",
             "--momentum=0.9", "--learning_rate=0.02", "--summary_steps=5", "--histogram_steps=0", "--checkpoint_steps=10")
    alone, two = (poisoned(tmp_path / str(n), "7", *flags, *more)
                  for n, more in ((1, ()), (2, ("--num_gpus=2", "--emulate"))))
    skipped = [line["skipped_steps"] for line in alone.lines]
    assert [line["skipped_steps"] for line in two.lines] == skipped
    assert skipped[0] == 0 and skipped[-1] >= 1 and sorted(set(skipped)) == list(range(skipped[-1] + 1))
    bad = [line["step"] for line in two.lines if line["loss"] == "nan"]
    assert bad == [k + 1 for k in range(30) if skipped[k] > (skipped[k - 1] if k else 0)]
    shown = runs.scalars(two.model_dir / "train")["skipped_steps"]
    assert shown == [(step, skipped[step - 1]) for step in range(5, 31, 5)]
    assert f"{skipped[-1]} skipped as not finite" in two.out
    assert_finite(two)
    good = [k for k in range(30) if k + 1 not in bad]
    pairs = [(alone.lines[k]["loss"], two.lines[k]["loss"]) for k in good]
    assert max(abs(a - b) / a for a, b in pairs) < 1e-5
    ours, theirs = two.tensors(30), alone.tensors(30)
    for group in ("model", "ema", "optimizer"):
        names = [name for name in theirs if name.startswith(group) and theirs[name].dtype.kind == "f"]
        distance = np.sqrt(sum(np.sum(np.square(ours[n] - theirs[n], dtype=np.float64)) for n in names))
        assert distance < 1e-5 * np.sqrt(sum(np.sum(np.square(theirs[n], dtype=np.float64)) for n in names)), group


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    """Large and finite gradients, a rate that overflows: the first update makes the weights infinite. The save says so with code 3, names
    step and variable, and nothing is published. Mutation: the values are not looked at."""
    run = runs.train(tmp_path, "--optimizer=sgd", "--lr_schedule=constant", "--learning_rate=3e38", "--train_steps=60",
                     "--log_steps=1", "--checkpoint_steps=1", "--max_skipped_steps=50", "--summary_steps=0",
                     "--histogram_steps=0", "--augment=normalize:0:0.001", code=3)
    lines = run.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("trainer: diverged at step 1: "), run.err
    assert " values of model/" in lines[0] and "--learning_rate" in lines[0] and "no checkpoint yet" in lines[0]
    assert run.published() == [] and not (tmp_path / "DONE").exists()
