"""Law 1 across processes: 2 and 4 of them give the run of one process with 2 devices.

Everything that may differ is on, as in tests/laws/test_law1_same_run.py. Mutations: every worker takes the rows of
worker 0; gradients are not summed over workers; batch statistics of a worker's own, in training or in the evaluation.
"""
import pytest

import gangs
import runs

STEPS = 30
FLAGS = (f"--train_steps={STEPS}", "--log_steps=1", "--global_batch_size=64", "--precision=float32", "--clip_norm=1",
         "--ema_decay=0.9", "--label_smoothing=0.1", "--weight_decay=0.001", "--summary_steps=0", "--histogram_steps=0",
         "--checkpoint_steps=0", f"--eval_steps={STEPS}", "--model=digits_cnn_regularized", "--optimizer=adamw",
         "--learning_rate=0.002")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """One process, two devices."""
    return runs.train(tmp_path_factory.mktemp("one"), *FLAGS, "--num_gpus=2", "--emulate")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
def test_same_batches_losses_and_weights(tmp_path, reference, workers):
    run = gangs.train(tmp_path / "m", *FLAGS, workers=workers)
    assert f"strategy multi_worker: {workers} replicas" in run.out
    assert [line["batch_digest"] for line in run.lines] == [line["batch_digest"] for line in reference.lines]
    assert len({line["batch_digest"] for line in run.lines}) == STEPS
    found = runs.worst_difference(run, reference, STEPS)
    print(f"{workers} processes: {found}")
    assert found["loss"] < 1e-5 and found["model"] < 1e-5 and found["ema"] < 1e-5, found
    assert [line["precision_at_1"] for line in run.lines] == [line["precision_at_1"] for line in reference.lines]
    # Each worker evaluates its share of the examples, by the batch statistics that it has itself.
    ours, theirs = (runs.read_lines(one.model_dir / "eval" / "test" / "metrics.jsonl") for one in (run, reference))
    assert len(theirs) == 2 and [(line["weights"], line["examples"], line["precision_at_1"]) for line in ours] == [
        (line["weights"], line["examples"], line["precision_at_1"]) for line in theirs]
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in theirs], rel=1e-5)
