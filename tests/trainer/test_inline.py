"""Evaluation inside the trainer: what a separate evaluator is doing is left to it, and nothing else is."""
import types

import pytest

from trainer import files, inline, watch
from trainer.config import UserError


@pytest.fixture
def evaluation(tmp_path):
    """An InlineEvaluation whose network is always right, and what it said."""
    said = []
    run = types.SimpleNamespace(
        config=types.SimpleNamespace(model_dir=str(tmp_path), eval_steps=10, early_stop_evals=0),
        info=types.SimpleNamespace(selection_split="test"), plan=types.SimpleNamespace(is_chief=True, workers=1))
    experiment = types.SimpleNamespace(task=types.SimpleNamespace(best="precision_at_1"), strategy=None, weights=lambda: {"raw": {}})
    made = inline.InlineEvaluation(run, experiment, say=said.append)
    made._evaluation = types.SimpleNamespace(run_kinds=lambda kinds: {
        kind: {"examples": 1, "loss": 0.0, "precision_at_1": 1.0, "counts": None, "pictures": {}} for kind in kinds})
    return made, said


def test_reports_once(tmp_path, evaluation):
    made, said = evaluation
    for _ in range(2):
        assert not made.run(10)
    assert [line["step"] for line in watch.Ledger(tmp_path, "test").results()] == [10] and len(said) == 1


def test_the_chief_looks_for_all_workers(tmp_path, evaluation, monkeypatch):
    """A separate evaluator settles the step between two workers' looks: both evaluate all the same, or neither would end.
    Mutation: every worker asks the ledger itself."""
    made, _ = evaluation
    watch.Ledger(tmp_path, "test", best="precision_at_1").record(10, {"raw": {"examples": 1, "precision_at_1": 1.0}})
    passes = []
    monkeypatch.setattr(made, "_evaluate", lambda step: passes.append(step) or {"precision_at_1": 1.0})
    for says in (True, False):
        monkeypatch.setattr(made._workers, "chief_says", lambda decide, says=says: says)
        assert not made.run(10)
    assert passes == [10]


def test_a_step_is_left_to_a_separate_evaluator_that_works(tmp_path, evaluation, monkeypatch):
    made, said = evaluation
    with watch.Ledger(tmp_path, "test").lock():
        made.run(10)
    assert watch.Ledger(tmp_path, "test").results() == []
    assert len(said) == 1 and said[0].startswith("step 10 is left to the separate evaluator: another evaluator works on ")


def test_a_disk_that_fails_is_nobodys_work(tmp_path, evaluation):
    """It ends the run as everywhere else. Mutation: every error of the user's is taken for another evaluator."""
    made, said = evaluation
    (tmp_path / "eval").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="eval.* cannot be (written|read): (Not a directory|File exists)") as caught:
        made.run(10)
    assert not isinstance(caught.value, files.Held) and said == []


def test_what_was_left_to_a_separate_evaluator_counts_at_once(tmp_path, evaluation, monkeypatch):
    """Early stopping must not hang on how far that one is: it has come to step 30, the best was 40. Mutation: a score is
    forgotten after its own evaluation."""
    made, _ = evaluation
    made._run.config.early_stop_evals = 3
    scores = {10: 0.90, 20: 0.85, 30: 0.86, 40: 0.95, 50: 0.89, 60: 0.88, 70: 0.87}
    monkeypatch.setattr(made, "_evaluate", lambda step: {"precision_at_1": scores[step]})
    ledger, stopped = watch.Ledger(tmp_path, "test", best="precision_at_1"), []
    for step in scores:
        if step == 50:
            for late in (10, 20, 30):
                ledger.record(late, {"raw": {"examples": 1, "precision_at_1": scores[late]}})
        stopped += [step] * made.run(step)
    assert stopped == [70]


def test_what_was_left_counts_after_a_kill_too(tmp_path, evaluation):
    """Law 2: or the run ends at another step. What comes again is forgotten. Mutations: kept in the process alone; kept beyond
    the checkpoint that the run goes on from."""
    made, _ = evaluation
    ledger = watch.Ledger(tmp_path, "test", best="precision_at_1")
    with ledger.lock():
        made.run(10)
        made.run(20)
    assert ledger.left() == {10: 1.0, 20: 1.0} and ledger.results() == []
    again = inline.InlineEvaluation(made._run, made._experiment, say=print)
    assert again._in_vain(20) == 1
    ledger.restart(10)
    assert ledger.left() == {10: 1.0} and again._in_vain(20) == 0


def test_a_value_that_is_not_finite_is_never_the_best(evaluation):
    """Mutation: a first one that is NaN stays the best for ever."""
    made, _ = evaluation
    made._scores = {10: float("nan"), 20: 0.5, 30: 0.6, 40: 0.4}
    assert [made._in_vain(step) for step in (40,)] == [1]
    made._scores = {10: float("nan"), 20: float("nan")}
    assert made._in_vain(20) == 2
