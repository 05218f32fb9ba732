"""The gradients of a micro-batch on one replica: plainly, compiled by XLA, and of the weights whose stage it is.

    compute = compiled(micro_batch)                                      # or micro_batch itself
    compute = staged(compute, Stages(500, head, every), trainable)       # before step 500 the head learns alone
    gradients, loss, sums, updates, extras = compute(forward, task, weights, config, batch, step, scale, updates=[])
"""
import dataclasses

import tensorflow as tf

from models import layers


def micro_batch(forward, task, weights, config, batch, step, scale, updates):
    """(gradients, sum of losses, sums of metrics, updates, extras) of one micro-batch; `updates` goes on from before."""
    with layers.replica_step(seed=config.seed, step=step, first_row=batch["row"][0], updates=list(updates)) as context:
        with tf.GradientTape() as tape:
            outputs, extras = forward(batch["input"])
            losses = task.losses(outputs, batch)
            # Over the global batch, so that the sum over replicas and micro-batches is the mean.
            objective = tf.reduce_sum(losses) / config.global_batch_size * scale
        found = tape.gradient(objective, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    sums = task.sums(outputs, batch)
    metric_sums = tf.stack([tf.reduce_sum(sums[name]) for name in task.train_metrics])
    return found, tf.reduce_sum(losses), metric_sums, context.updates, extras


def compiled(micro_batch):
    """`micro_batch` compiled by XLA: only this part, since neither variables nor collectives of several CPU devices
    may be inside."""
    def call(forward, task, weights, config, batch, step, scale, updates):
        targets = []

        @tf.function(jit_compile=True, autograph=False)
        def program(batch, step, scale, values):
            pending = [(variable, value) for (variable, _), value in zip(updates, values)]
            found, loss, sums, after, extras = micro_batch(forward, task, weights, config, batch, step, scale, pending)
            targets[:] = [variable for variable, _ in after]
            return found, loss, sums, [value for _, value in after], extras

        found, loss, sums, values, extras = program(batch, step, scale, [value for _, value in updates])
        return found, loss, sums, list(zip(targets, values)), extras

    return call


@dataclasses.dataclass(frozen=True)
class Stages:
    """Before the step `boundary` the variables `before` learn, from then on `after`: the others' gradients are 0."""

    boundary: int
    before: list
    after: list

    def numbers(self, trainable: list) -> list[list[int]]:
        """The places of `before` and of `after` in `trainable`."""
        return [[k for k, v in enumerate(trainable) if any(v is one for one in some)] for some in (self.before, self.after)]


def staged(micro_batch, stages: Stages, trainable: list):
    """`micro_batch` in which those weights learn whose stage it is, without a backward pass for the others."""
    before, after = stages.numbers(trainable)

    def call(forward, task, weights, config, batch, step, scale, updates):
        targets = []

        def learning(numbers):
            found, loss, sums, pending, extras = micro_batch(
                forward, task, [weights[k] for k in numbers], config, batch, step, scale, updates)
            targets[:] = [variable for variable, _ in pending]
            found = dict(zip(numbers, found))
            return ([found.get(k, tf.zeros_like(weight)) for k, weight in enumerate(weights)], loss, sums,
                    [value for _, value in pending], extras)

        found, loss, sums, values, extras = tf.cond(step < stages.boundary, lambda: learning(before), lambda: learning(after))
        return found, loss, sums, list(zip(targets, values)), extras

    return call


def zeroed(micro_batch, stages: Stages, trainable: list):
    """The same numbers, with a backward pass for all."""
    before, after = stages.numbers(trainable)

    def call(forward, task, weights, config, batch, step, scale, updates):
        found, *rest = micro_batch(forward, task, weights, config, batch, step, scale, updates)
        learns = [tf.where(step < stages.boundary, k in before, k in after) for k in range(len(weights))]
        return [tf.where(now, gradient, 0.0) for now, gradient in zip(learns, found)], *rest

    return call
