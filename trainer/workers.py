"""What several workers tell each other inside TensorFlow: numbers of all of them, and what the chief decides for all.

    workers.meet(strategy, run, watchdog)                     # all are there, sums are right, all want the same run
    workers.agree(strategy, plan, start_step, model_dir=...)
    workers = Workers(strategy, plan)
    rows = workers.gather([port, 7])                          # int64 [workers, 2], the same on every worker
    if workers.chief_says(lambda: step not in ledger.settled()): ...

Whatever a worker does with the others must not hang on what it sees by itself, in a file say: they would wait for each other.
Every worker makes these calls in the same order. With one worker nothing is sent.
"""
import platform
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from trainer.config import TRANSIENT, UserError
from trainer.devices import Plan
from trainer.resolve import Run
from trainer.watchdog import Watchdog

# What a worker may have of its own: places, and how it uses its machine.
LOCAL = (*TRANSIENT, "data_dir", "model_dir", "init_from", "pretrained_weights", "num_gpus", "intra_op_threads",
         "inter_op_threads")


def meet(strategy: tf.distribute.Strategy, run: Run, watchdog: Watchdog) -> None:
    """The start of several workers: tries the all-reduce, connects their watchdogs, compares what they are about to do.

    UserError, on every worker: a wrong sum, or another configuration, data set or installation on one of them.
    """
    plan = run.plan
    if plan.workers == 1:
        return
    port, token = watchdog.listen(facts(run))
    rows = Workers(strategy, plan).gather([plan.worker + 1, port, *token])
    if rows[:, 0].tolist() != list(range(1, plan.workers + 1)):
        raise UserError(f"--all_reduce={run.config.all_reduce} sums wrongly: of the numbers 1 to {plan.workers}, one from each "
                        f"worker, {rows[:, 0].tolist()} came; try another --all_reduce")
    watchdog.join(int(rows[0, 1]), rows[0, 2:].tolist())


def facts(run: Run) -> dict[str, str]:
    """What must be the same on all workers, by a name that a message can use."""
    options = {f"--{name}": str(value) for name, value in vars(run.config).items() if name not in LOCAL}
    versions = {"Python": ".".join(platform.python_version_tuple()[:2]), "TensorFlow": tf.__version__,
                "Keras": keras.__version__, "NumPy": np.__version__}
    data = {"examples": str(run.info.examples), "examples of shape": str(run.info.input_shape)}
    return {**options, **versions, **data, "replicas": str(run.plan.replicas)}


def agree(strategy: tf.distribute.Strategy, plan: Plan, start: int, *, model_dir: str) -> None:
    """UserError, on every worker, unless all of them start from the same step: they see the same checkpoints."""
    steps = Workers(strategy, plan).gather([start])[:, 0]
    for worker in np.flatnonzero(steps != steps[0])[:1]:
        raise UserError(f"--model_dir={model_dir}: worker {worker} would start from step {steps[worker]}, worker 0 from step "
                        f"{steps[0]}; it must be one folder for all workers, on a file system that they share")


class Workers:
    """The workers of a strategy that `plan` describes."""

    def __init__(self, strategy: tf.distribute.Strategy | None, plan: Plan):
        self._strategy, self._plan = strategy, plan
        self._total = tf.function(self._sum, autograph=False)

    def gather(self, row: Sequence[int]) -> np.ndarray:
        """The rows of all workers, int64 [workers, len(row)], by one all-reduce. Numbers below 2^31."""
        table = np.zeros([self._plan.workers, len(row)], np.int32)
        table[self._plan.worker] = row
        if self._plan.workers == 1:
            return table.astype(np.int64)
        return self._total(tf.constant(table)).numpy().astype(np.int64)

    def chief_says(self, decide: Callable[[], bool]) -> bool:
        """What `decide`, which only the chief calls, returns there, on every worker."""
        if self._plan.workers == 1:
            return bool(decide())
        return bool(self.gather([bool(decide()) if self._plan.is_chief else False])[0, 0])

    def _sum(self, table):
        local = self._strategy.num_replicas_in_sync // self._plan.workers

        def replica(table):
            context = tf.distribute.get_replica_context()
            speaks = tf.cast(context.replica_id_in_sync_group % local == 0, tf.int32)  # of several GPUs one
            return context.all_reduce(tf.distribute.ReduceOp.SUM, table * speaks)

        return self._strategy.experimental_local_results(self._strategy.run(replica, args=(table,)))[0]
