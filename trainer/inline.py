"""Evaluation inside the trainer, --eval_steps: on the training devices, with the ledger that a separate evaluator uses; of the
validation examples where the data set has such, since it chooses between checkpoints, else of the test examples.

    inline = InlineEvaluation(run, experiment, say=print)
    stop = inline.run(step)        # whether --early_stop_evals says that it is enough
"""
from trainer.experiment import Experiment, evaluation
from trainer.files import Held
from trainer.names import score
from trainer.report import Reporter
from trainer.resolve import Run
from trainer.watch import Ledger
from trainer.workers import Workers


class InlineEvaluation:
    """Evaluates the current weights, each kind of them. Every worker computes, the chief reports.

    say: takes a line for the user. traces: of the evaluation step, so far.
    """

    def __init__(self, run: Run, experiment: Experiment, *, say):
        self._run, self._experiment, self._say = run, experiment, say
        self._split = run.info.selection_split
        self._ledger = Ledger(run.config.model_dir, self._split, best=experiment.task.best)
        self._workers = Workers(experiment.strategy, run.plan)
        self._evaluation = self._reporter = None
        self._scores: dict[int, float] = {}  # of this process, by step: what is left to a separate evaluator comes later

    @property
    def traces(self) -> int:
        return self._evaluation.traces if self._evaluation else 0

    @property
    def batches(self) -> int:
        """How many batches were evaluated so far."""
        return int(self._evaluation.batches) if self._evaluation else 0

    def run(self, step: int) -> bool:
        """Evaluates and reports, unless that was done; whether the last --early_stop_evals brought nothing better."""
        # A separate evaluator may write to the ledger between two workers' looks: the chief looks for all.
        if self._workers.chief_says(lambda: step not in self._ledger.settled()):
            self._scores[step] = score(self._ledger.best_metric, self._evaluate(step)[self._ledger.best_metric])
        patience = self._run.config.early_stop_evals
        return patience > 0 and self._workers.chief_says(lambda: self._in_vain(step) >= patience)

    def _in_vain(self, step: int) -> int:
        """How many evaluations up to `step` came after the best one."""
        metric, interval = self._ledger.best_metric, self._run.config.eval_steps
        scores = dict(self._scores)
        # Also those of earlier processes; of each step, the first kind of weights.
        lines = [*self._ledger.left().items(), *((line["step"], line[metric]) for line in self._ledger.results())]
        for at, value in lines:
            if at <= step and at % interval == 0:
                scores.setdefault(at, score(metric, value))
        # A value that is not finite is never the best one.
        best = max((s for s in scores if scores[s] > float("-inf")), key=lambda s: (scores[s], -s), default=-1)
        return sum(s > best for s in scores)

    def _evaluate(self, step: int) -> dict:
        """The results of the first kind of weights; the chief reports those of all kinds."""
        experiment = self._experiment
        if self._evaluation is None:
            self._evaluation = evaluation(self._run.config, self._run.info, experiment.strategy, self._split)
        results = self._evaluation.run_kinds({kind: {path: value.read_value() for path, value in weights.items()}
                                              for kind, weights in experiment.weights().items()})
        if self._run.plan.is_chief:
            self._report(step, results)
        return next(iter(results.values()))

    def _report(self, step: int, results: dict) -> None:
        try:
            with self._ledger.lock(patience=0):
                if step not in self._ledger.settled():
                    self._reporter = self._reporter or Reporter(self._ledger, self._say)
                    self._reporter.report(step, results)
        except Held as error:
            self._ledger.leave(step, next(iter(results.values()))[self._ledger.best_metric])
            self._say(f"step {step} is left to the separate evaluator: {error}")
