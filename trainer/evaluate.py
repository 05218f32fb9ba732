"""One exact pass over a split: every example once, on any number of replicas and for any batch size.

    evaluation = Evaluation(strategy, network, task, source, augmentation)
    result = evaluation.run(weights)       # {"examples": 10000, "loss": ..., "precision_at_1": ..., ...}

The network is one of its own, so that training weights are never swapped out; weights go in by path. Everything is
(sum, count) until the division here.
"""
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from input_pipeline import pipeline

BATCH_SIZE = 256  # over all replicas, rounded up to a multiple of them


class Evaluation:
    """A pass over `source`. network: a function that builds the Keras model, called in the strategy's scope."""

    def __init__(self, strategy: tf.distribute.Strategy, network: Callable, task, source, augmentation, *,
                 batch_size: int = BATCH_SIZE):
        self._strategy, self._task, self._source, self._augmentation = strategy, task, source, augmentation
        replicas = strategy.num_replicas_in_sync
        self._batch_size = -(-batch_size // replicas) * replicas
        self._steps = -(-len(source) // self._batch_size)
        with strategy.scope():
            self.model = network()
        self.traces = 0  # how often Python traced the pass: once, whatever the last batch
        self._pass = tf.function(self._sum_up, autograph=False)

    def run(self, weights: Mapping[str, np.ndarray | tf.Tensor | tf.Variable]) -> dict:
        """Evaluates `weights`, one value for the path of each variable of the network.

        Returns examples, loss (mean over examples), the task's metrics, and "confusion" [classes, classes] int64.
        """
        for variable in self.model.variables:
            variable.value.assign(weights[variable.path])
        dataset = pipeline.distribute(self._strategy, lambda context: pipeline.evaluation(
            self._source, self._augmentation, batch_size=self._batch_size, **pipeline.share(context)))
        names, sums, confusion = self._pass(iter(dataset))
        sums = dict(zip((name.decode() for name in names.numpy()), sums.numpy()))
        examples = sums.pop("examples")
        assert examples == len(self._source), (examples, len(self._source))
        return {"examples": int(examples), **{name: float(value / examples) for name, value in sums.items()},
                "confusion": np.rint(confusion.numpy()).astype(np.int64)}

    def first_images(self, count: int = 3):
        """The first images as the network sees them, float32 [count, h, w, c]."""
        images = self._source.read(tf.range(count, dtype=tf.int64))["input"]
        return self._augmentation.evaluate(images).numpy()

    def _sum_up(self, iterator):
        """(names, sums, confusion) over all batches: one loop inside the graph."""
        self.traces += 1
        names = []

        def replica(batch):
            outputs = self.model(batch["input"], training=False)
            values = {"examples": tf.ones_like(batch["mask"]), "loss": self._task.evaluation_losses(outputs, batch),
                      **self._task.sums(outputs, batch)}
            names[:] = values
            # where, not times: a padded row may be anything, also NaN
            sums = [tf.reduce_sum(tf.where(batch["mask"] > 0, value, 0)) for value in values.values()]
            return tf.stack(sums), self._task.confusion(outputs, batch)

        def step(k, sums, confusion):
            parts = self._strategy.run(replica, args=(next(iterator),))
            more = [tf.cast(self._strategy.reduce(tf.distribute.ReduceOp.SUM, part, axis=None), tf.float64)
                    for part in parts]
            return k + 1, sums + more[0], confusion + more[1]

        width = 2 + len(self._task.metrics)
        _, sums, confusion = tf.while_loop(
            lambda k, *_: k < self._steps, step,
            [0, tf.zeros([width], tf.float64), tf.zeros([self._task.classes] * 2, tf.float64)])
        return tf.constant(names), sums, confusion
