"""Law 9: one trace of the train step, one more of its form with summaries, one of the evaluation, whatever is due when.

Mutation: the number of steps of a call is a Python number instead of a tensor.
"""
import runs


def test_one_trace_each(tmp_path):
    """Calls of 1, 2, 3, 4, 5 and 6 steps, evaluations with a partial last batch, in one run."""
    run = runs.train(tmp_path, "--train_steps=47", "--log_steps=5", "--summary_steps=7", "--histogram_steps=11",
                     "--checkpoint_steps=13", "--eval_steps=23", "--steps_per_loop=6")
    assert "traces: step 1, step with summaries 1, evaluation 1" in run.out, run.out[-2000:]
    lines = runs.read_lines(tmp_path / "eval" / "test" / "metrics.jsonl")
    assert [(line["step"], line["weights"]) for line in lines] == [
        (step, kind) for step in (23, 46, 47) for kind in ("ema", "raw")]
    assert {line["examples"] for line in lines} == {360}
