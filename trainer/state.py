"""Everything that a run carries from step to step, as one dictionary of variables: what a checkpoint holds.

    state = State(strategy, model, optimizer, losses=("cross_entropy", "total_loss"), ema=True)
    state.variables()       # {"model": {"conv1/kernel": variable}, "ema": ..., "optimizer": ..., "trainer": ...}
"""
import tensorflow as tf


class State:
    """model: Keras model. optimizer: built Keras optimizer. ema: moving averages of the trainable variables, in their
    order, [] where none are kept. step: completed steps, int64.

    loss_averages: the tutorial's moving averages (0.9) of each loss, [losses]. epoch_sums: sums and count of the
    running means of this epoch, [metrics + 1]. skipped, skipped_in_row: updates left out as not finite.
    loss_scale, good_steps: dynamic loss scaling of float16 (Micikevicius et al. 2018), 1 otherwise.
    """

    def __init__(self, strategy: tf.distribute.Strategy, model, optimizer, *, losses: int, metrics: int, ema: bool,
                 loss_scale: float):
        self.model, self.optimizer = model, optimizer
        with strategy.scope():
            # Only-first-replica: the copies are equal, so a read across replicas must not add them up.
            self.ema = [tf.Variable(v.value.read_value(), trainable=False, name=f"ema/{v.path}",
                                    aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
                        for v in model.trainable_variables] if ema else []
        with tf.device("cpu:0"):  # the loop's own book-keeping, one copy beside the loop
            self.step = tf.Variable(0, dtype=tf.int64, name="step")
            self.loss_averages = tf.Variable(tf.zeros([losses]), name="loss_averages")
            self.epoch_sums = tf.Variable(tf.zeros([metrics + 1], tf.float64), name="epoch_sums")
            self.skipped = tf.Variable(0, dtype=tf.int64, name="skipped")
            self.skipped_in_row = tf.Variable(0, dtype=tf.int64, name="skipped_in_row")
            self.loss_scale = tf.Variable(float(loss_scale), name="loss_scale")
            self.good_steps = tf.Variable(0, dtype=tf.int64, name="good_steps")

    def variables(self) -> dict[str, dict[str, tf.Variable]]:
        """Every variable by group and path; paths are the same in every process that builds the same network."""
        return {
            "model": {v.path: v.value for v in self.model.variables},
            "ema": {v.path: average for v, average in zip(self.model.trainable_variables, self.ema)},
            "optimizer": {v.path: getattr(v, "value", v) for v in self.optimizer.variables},
            "trainer": {v.name.split(":")[0]: v for v in (
                self.step, self.loss_averages, self.epoch_sums, self.skipped, self.skipped_in_row, self.loss_scale,
                self.good_steps)},
        }
