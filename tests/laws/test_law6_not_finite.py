"""Law 6, from outside: a run that diverges stops with code 3, says where, and every checkpoint that it leaves is finite.

The update itself, on one and two replicas, is held to the law in tests/trainer/test_step.py.
"""
import numpy as np

import runs


def test_a_diverging_run_stops_with_code_3(tmp_path):
    """Mutation: an update that is not finite is applied."""
    run = runs.train(tmp_path, "--optimizer=sgd", "--lr_schedule=constant", "--learning_rate=1e20", "--train_steps=60",
                     "--log_steps=1", "--checkpoint_steps=1", "--keep_checkpoints=9", "--max_skipped_steps=3",
                     "--summary_steps=0", "--histogram_steps=0", code=3)
    assert "diverged at step" in run.err and "--max_skipped_steps=3" in run.err and "--learning_rate" in run.err
    last = run.lines[-1]
    assert last["skipped_steps"] == 4 and f"diverged at step {last['step']}" in run.err
    published = run.published()
    assert published and published[-1] < last["step"]
    for step in published:
        for name, value in run.tensors(step).items():
            assert value.dtype.kind != "f" or np.isfinite(value).all(), (step, name)
    assert not (tmp_path / "DONE").exists()
