"""One exact pass over a split: every example once, on any number of replicas and for any batch size.

    evaluation = Evaluation(strategy, network, task, source, augmentation)
    result = evaluation.run(weights)       # {"examples": 10000, "loss": ..., "precision_at_1": ..., ...}

The network is one of its own, so that training weights are never swapped out; weights go in by path. Everything is
(sum, count) until the division here.
"""
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from input_pipeline import pipeline, test_time
from trainer import reading

BATCH_SIZE = 256  # examples that are evaluated at once, at most, but for rounding up to a multiple of the replicas


def answer(model, images: tf.Tensor, views: str = "none") -> tf.Tensor:
    """What `model` makes of its inputs outside training: the mean over the `views` of them (see `test_time`)."""
    if views == "none":
        return model(images, training=False)
    return test_time.average(views, model(test_time.views(views, images), training=False))


class Evaluation:
    """A pass over `source`. network: a function that builds the Keras model, called in the strategy's scope. views: of
    the images, whose outputs are averaged."""

    def __init__(self, strategy: tf.distribute.Strategy, network: Callable, task, source, augmentation, *,
                 batch_size: int = BATCH_SIZE, views: str = "none"):
        self._strategy, self._task, self._source, self._augmentation = strategy, task, source, augmentation
        self._views = views
        replicas = strategy.num_replicas_in_sync
        # Two batches on their way at once, of half the size, keep the cores busy: one begins while the other one's sums are made.
        # Not on several replicas, where sums are messages that must keep their order.
        self._at_once = 2 if replicas == 1 else 1
        most = max(1, batch_size // self._at_once)
        # Steps of one size, so that the last has few rows to fill up.
        rows = -(-len(source) // -(-len(source) // most))
        self._batch_size = -(-rows // replicas) * replicas
        self._steps = -(-len(source) // self._batch_size)
        with strategy.scope():
            self.model = network()
        # Made at the first run and kept: TensorFlow keeps some 50 KB of every data set for good. The iterator too, which takes
        # as long as a small network's whole pass, but of what lies in memory alone: others read on beside the training.
        self._next_pass = self._sample_batch = None  # the former: a function that gives the iterator of the next pass
        with tf.device("cpu:0"):
            self.batches = tf.Variable(0, trainable=False, dtype=tf.int64)  # begun so far, for who looks from outside
        self.traces = 0  # how often Python traced the pass: once, whatever the last batch
        self._pass = tf.function(self._sum_up, autograph=False)

    def run_kinds(self, kinds: Mapping[str, Mapping]) -> dict[str, dict]:
        """The result of each kind of weights, as of `run`; the first kind's alone has pictures, which are what is shown."""
        first = next(iter(kinds))
        return {kind: self.run(weights, pictures=kind == first) for kind, weights in kinds.items()}

    def run(self, weights: Mapping[str, np.ndarray | tf.Tensor | tf.Variable], *, pictures: bool = True) -> dict:
        """Evaluates `weights`, one value for the path of each variable of the network.

        Returns examples, loss (mean over examples), the task's metrics; and "counts", the sum of the task's
        `count`, and "pictures", which TensorBoard shows.
        """
        for variable in self.model.variables:
            variable.value.assign(weights[variable.path])
        # Not kept where a pass failed: it would go on in the middle, and a cache leaves out what could not be read.
        next_pass, self._next_pass = self._next_pass or self._passes(), None
        with reading.named(self._source):
            names, sums, counts = self._pass(next_pass())
        self._next_pass = next_pass
        sums = dict(zip((name.decode() for name in names.numpy()), sums.numpy()))
        examples = sums.pop("examples")
        assert examples == len(self._source), (examples, len(self._source))
        return {"examples": int(examples), **{name: float(value / examples) for name, value in sums.items()},
                "counts": counts.numpy(),
                "pictures": self._task.pictures(counts.numpy(), self._samples()) if pictures else {}}

    def _passes(self) -> Callable:
        """A function that gives the iterator of the next pass: of what lies in memory always the same one, which has no end."""
        cached = pipeline.fits_in_memory(self._source, self._augmentation)

        def make(context):
            one = pipeline.evaluation(self._source, self._augmentation, batch_size=self._batch_size, cache=cached,
                                      **pipeline.share(context))
            return one.repeat() if cached else one

        dataset = pipeline.distribute(self._strategy, make)
        if not cached:
            return lambda: iter(dataset)
        endless = iter(dataset)
        return lambda: endless

    def _samples(self) -> dict[str, np.ndarray]:
        """The first examples as the task wants to show them: their batch, and what the network makes of it."""
        count = min(self._task.samples, len(self._source))
        if not count:
            return {}
        if self._sample_batch is None:
            self._sample_batch = self._first(count)
        outputs = tf.cast(answer(self.model, self._sample_batch["input"], self._views), tf.float32)
        return {name: value.numpy() for name, value in {**self._sample_batch, "outputs": outputs}.items()}

    def first_images(self, count: int = 3):
        """The first images as the network sees them, float32 [count, h, w, c]; None where there are none to see."""
        images = self._first(count)["input"].numpy()
        return images if images.ndim == 4 else None

    def _first(self, count: int) -> dict[str, tf.Tensor]:
        """The first batch of so many examples. UserError where one cannot be read."""
        with reading.named(self._source):
            return next(iter(pipeline.evaluation(
                self._source, self._augmentation, batch_size=count, replicas=1, local_replicas=1)))

    def _sum_up(self, iterator):
        """(names, sums, counts) over all batches: one loop inside the graph."""
        self.traces += 1
        names = []

        def replica(batch):
            outputs = answer(self.model, batch["input"], self._views)
            values = {"examples": tf.ones_like(batch["mask"]), "loss": self._task.evaluation_losses(outputs, batch),
                      **self._task.sums(outputs, batch)}
            names[:] = values
            # where, not times: a padded row may be anything, also NaN
            sums = [tf.reduce_sum(tf.where(batch["mask"] > 0, value, 0)) for value in values.values()]
            return tf.stack(sums), self._task.count(outputs, batch)

        def step(k, sums, counts):
            parts = self._strategy.run(replica, args=(next(iterator),))
            more = [tf.cast(self._strategy.reduce(tf.distribute.ReduceOp.SUM, part, axis=None), tf.float64)
                    for part in parts]
            self.batches.assign_add(1, read_value=False)
            return k + 1, sums + more[0], counts + more[1]

        width = 2 + len(self._task.metrics)
        _, sums, counts = tf.while_loop(
            lambda k, *_: k < self._steps, step,
            [0, tf.zeros([width], tf.float64), tf.zeros(self._task.count_shape, tf.float64)],
            parallel_iterations=self._at_once)
        return tf.constant(names), sums, counts
