"""The tutorial's recipe on the real CIFAR-10, as a user runs it: two devices, the evaluator, both kinds of weights."""
import pytest

import runs


@pytest.mark.slow
def test_the_tutorial_learns(tmp_path, cifar10):
    """400 steps bring a precision @ 1 that the raw weights of a broken network, or of mixed-up labels, cannot have."""
    run = runs.train(tmp_path, "--recipe=cifar10_tutorial", f"--data_dir={cifar10}", "--num_gpus=2", "--emulate",
                     "--train_steps=400", "--checkpoint_steps=0", "--summary_steps=200", "--histogram_steps=200",
                     timeout=900)
    assert run.lines[-1]["precision_at_1"] > 0.25 and run.lines[-1]["loss"] < run.lines[0]["loss"]
    done = runs.evaluate(tmp_path, "--run_once", timeout=600)
    lines = runs.read_lines(tmp_path / "eval" / "test" / "metrics.jsonl")
    assert {(line["step"], line["weights"], line["examples"]) for line in lines} == {
        (400, "ema", 10_000), (400, "raw", 10_000)}
    assert max(line["precision_at_1"] for line in lines) > 0.4, done.out
