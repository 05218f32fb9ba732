"""Law 2: kill -9 loses only time. Killed at drawn moments (imports, tracing, steps, saves, evaluation) and started again, the
same command ends bit for bit as an undisturbed run: every tensor, the metrics lines, the batch digests, the evaluations.

Mutations: the lines beyond the checkpoint are kept at a restart; a checkpoint without a manifest is loaded.
"""
import random
import subprocess
import time

import numpy as np
import pytest

import runs

STEPS = 400
FLAGS = (f"--train_steps={STEPS}", "--log_steps=1", "--deterministic", "--model=digits_cnn_regularized",
         "--summary_steps=40", "--histogram_steps=40", "--checkpoint_steps=10", "--keep_checkpoints=2", "--eval_steps=50",
         "--progress=none")
KILLS = 6


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return runs.train(tmp_path_factory.mktemp("whole"), *FLAGS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_again_and_again(tmp_path, undisturbed, seed):
    draw = random.Random(seed)
    kills = 0
    while kills < KILLS:
        process = subprocess.Popen(runs.command("trainer.main", f"--model_dir={tmp_path}", *FLAGS), cwd=runs.ROOT,
                                   env=runs.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:  # one in three in the imports or the first trace, the others later on
            out, err = process.communicate(timeout=draw.uniform(1, 5) if draw.random() < 0.33 else draw.uniform(5, 8))
            assert process.returncode == 0, err
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
    started = time.monotonic()
    again = runs.train(tmp_path, *FLAGS)
    assert kills >= 2, "the machine is too fast for these moments"
    print(f"{kills} kills, last part {time.monotonic() - started:.0f} s")

    assert runs.told(again) == runs.told(undisturbed)
    ours, theirs = again.tensors(STEPS), undisturbed.tensors(STEPS)
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if not np.array_equal(ours[name], theirs[name])] == []
    ledger = "eval/test/metrics.jsonl"
    assert runs.read_lines(tmp_path / ledger) == runs.read_lines(undisturbed.model_dir / ledger)
