"""One optimizer update: loss, micro-batches, ONE all-reduce, weight decay, clipping, the update, moving averages.

Two passes over the replicas. `gradients` computes what the step would do and changes nothing; `apply` does it, and the
loop leaves it out where the sums over all replicas are not finite. In between everything is known on every replica alike.

    step = step_lib.build(strategy, state, task, config, schedule=schedule, rate=Rate(), decayed=kernels, stages=None,
                          examples=50_000, stop=stop)
    metrics = step(batch, forward)         # inside a tf.function; forward(images) -> (outputs, extras)
"""
import dataclasses
from collections.abc import Callable

import tensorflow as tf

from trainer import backward, optimizers
from trainer.config import Config
from trainer.state import State

PLACES = ("other", "data", "computing", "reducing", "updating")  # of a process, in the order of a step
SCALE_GROWTH_STEPS = 2000  # good steps before float16's loss scale doubles, as in Keras's and NVIDIA's loss scaling
INDEX_BASE = 1 << 20  # an example's index travels as two numbers below 2^20 and 2^24, exact in float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """The built step. __call__(batch, forward) makes one update and returns its metrics, a dict of tensors:

    losses [losses] float32 (the task's, a weight decay term a kernel, the total), gradient_squares [trainable variables]
    (squared norms), gradient_norm, ok, stop, rate (scalars), indices [global batch] int64; and what `forward` gave
    beside the outputs: extras of the first replica, gradients.

    place: where in a step this process is, an index of PLACES, for who looks from outside.
    writing: whether a step is being written. Everything that a step writes, it writes from True to False, `state.step`
    last; so whoever reads the state beside the loop sees whether it stood still.
    """

    loss_names: tuple[str, ...]
    batch_size: int
    variables: int
    place: tf.Variable
    writing: tf.Variable
    run: Callable

    def __call__(self, batch: dict, forward: Callable) -> dict:
        return self.run(batch, forward)


def loss_names(config: Config, task, decayed: list) -> tuple[str, ...]:
    """The names of the losses in the order of `metrics["losses"]`."""
    terms = [f"{kernel.path.rsplit('/', 1)[0]}/weight_loss" for kernel in decayed] if _decay_in_loss(config) else []
    return (task.loss_name, *terms, "total_loss")


def _decay_in_loss(config: Config) -> bool:
    return config.weight_decay > 0 and not optimizers.decoupled(config.optimizer)


def build(strategy: tf.distribute.Strategy, state: State, task, config: Config, *, schedule: Callable, rate: "Rate",
          decayed: list, stages: backward.Stages | None, examples: int, stop: tf.Variable) -> Step:
    """The train step of `state`. schedule: completed steps -> learning rate. decayed: the kernels with weight decay.
    stages: which variables learn when, if not all at all times. examples: in the training set, for the running means
    of an epoch. stop: a boolean variable that asks every worker to end after this step."""
    trainable = state.model.trainable_variables
    names = loss_names(config, task, decayed)
    # By identity: == compares the values of variables.
    decay_terms = [k for kernel in decayed for k, v in enumerate(trainable) if v is kernel] if _decay_in_loss(config) \
        else []
    replicas = strategy.num_replicas_in_sync
    several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)  # one process's place tells of the others'
    local_statistics = replicas > 1 and not config.sync_batch_norm
    rows = config.global_batch_size // replicas // config.grad_accum_steps

    def local_gradients(batch, step, scale, forward):
        """On one replica: gradients and sums over its micro-batches, one after the other."""
        compute = backward.compiled(backward.micro_batch) if config.xla else backward.micro_batch
        if stages:
            # In a branch of the graph there may be no sums over replicas, as synchronised statistics are.
            staged = backward.staged if replicas == 1 or config.freeze or local_statistics else backward.zeroed
            compute = staged(compute, stages, trainable)
        total, updates, extras, loss_sum, metric_sums = None, [], (), 0.0, 0.0
        for k in range(config.grad_accum_steps):
            # Each micro-batch waits for the one before, or they would all be in memory at once.
            with tf.control_dependencies(total or []):
                part = {name: tf.identity(value[k * rows:(k + 1) * rows]) for name, value in batch.items()}
            found, loss, sums, updates, extras = compute(
                forward, task, [v.value for v in trainable], config, part, step, scale, updates)
            total = found if total is None else [a + b for a, b in zip(total, found)]
            loss_sum, metric_sums = loss_sum + loss, metric_sums + sums
        return total, loss_sum, metric_sums, updates, extras

    def gradients(batch, step, scale, stopping, forward):
        """On one replica: the global gradient, clipped, and the batch statistics, with nothing written yet."""
        total, loss_sum, metric_sums, updates, extras = local_gradients(batch, step, scale, forward)
        written[:] = [variable for variable, _ in updates]
        high_low = tf.stack([batch["index"] // INDEX_BASE, batch["index"] % INDEX_BASE], 1)
        travelled = tf.scatter_nd(batch["row"][:, None], tf.cast(high_low, tf.float32), [config.global_batch_size, 2])
        statistics = [value for _, value in updates] if local_statistics else []
        # One message for everything: gradients, sums of loss and metrics, the indices of the examples, the wish to end.
        parts = [*total, loss_sum, metric_sums, travelled, tf.cast(stopping, tf.float32), *statistics]
        if several:
            with tf.control_dependencies(parts), tf.control_dependencies([at(place, "reducing")]):
                parts = [tf.identity(part) for part in parts]
        parts = _all_reduce(parts)
        total, rest = parts[:len(total)], parts[len(total):]
        loss_sum, metric_sums, travelled, stop_sum = rest[:4]
        if config.precision == "float16":
            total = [gradient / scale for gradient in total]
        if local_statistics:
            updates = [(variable, value / replicas)
                       for (variable, _), value in zip(updates, rest[4:])]
        # Weight decay terms are the same on every replica: added after the sum, they count once.
        terms = [config.weight_decay * tf.nn.l2_loss(trainable[k].value) for k in decay_terms]
        for k in decay_terms:
            total[k] += config.weight_decay * trainable[k].value
        loss = loss_sum / config.global_batch_size
        losses = tf.stack([loss, *terms, tf.add_n([loss, *terms])])
        squares = 2 * tf.stack([tf.nn.l2_loss(gradient) for gradient in total])
        norm = tf.sqrt(tf.reduce_sum(squares))
        if config.clip_norm:
            factor = tf.minimum(1.0, config.clip_norm / tf.maximum(norm, 1e-30))
            total = [gradient * factor for gradient in total]
        indices = tf.cast(travelled[:, 0], tf.int64) * INDEX_BASE + tf.cast(travelled[:, 1], tf.int64)
        metrics = {"losses": losses, "gradient_squares": squares, "gradient_norm": norm, "metric_sums": metric_sums,
                   "indices": indices, "stop": stop_sum > 0,
                   "ok": tf.math.is_finite(norm) & tf.math.is_finite(losses[-1])}
        return total, [value for _, value in updates], metrics, extras

    written = []  # the variables that the forward pass wants to write, known once it is traced
    with tf.device("cpu:0"):
        writing = tf.Variable(False, trainable=False, name="writing")
        place = tf.Variable(0, trainable=False, dtype=tf.int64, name="place")

    def apply(total, updates, learning_rate, step, decay):
        """On one replica: the update, the moving averages of the weights, the batch statistics."""
        rate.value, rate.step = learning_rate, step
        state.optimizer.apply(total, trainable)
        pairs = [(average, weight.value, decay) for average, weight in zip(state.ema, trainable)]
        pairs += [(variable.value, value, None) for variable, value in zip(written, updates)]
        tf.distribute.get_replica_context().merge_call(_assign_all, args=(pairs,))

    def run(batch, forward):
        """One step, across replicas."""
        step = state.step.read_value()
        with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
            stopping = stop.read_value()  # the wish of now, however long the data took
        total, updates, metrics, extras = strategy.run(
            lambda batch, step, scale, stopping: gradients(batch, step, scale, stopping, forward),
            args=(batch, step, state.loss_scale.read_value(), stopping))
        metrics = {name: strategy.experimental_local_results(value)[0] for name, value in metrics.items()}
        metrics["rate"] = schedule(step)
        count = tf.cast(step + 1, tf.float32)
        decay = tf.minimum(tf.constant(config.ema_decay), (1 + count) / (10 + count))

        def update():
            strategy.run(apply, args=(total, updates, metrics["rate"], step, decay))
            return True

        # From here on the step is written: nothing before every replica has its gradients, the number of the step last.
        with tf.control_dependencies([metrics["ok"]]), tf.control_dependencies(
                [writing.assign(True, read_value=False), at(place, "updating")]):
            metrics["ok"] = tf.identity(metrics["ok"])
        updated = tf.cond(metrics["ok"], update, lambda: False)
        with tf.control_dependencies([updated, *_account(state, metrics, config, examples)]):
            counted = state.step.assign_add(1, read_value=False)
        with tf.control_dependencies([counted]):
            writing.assign(False)
        metrics["extras"] = tf.nest.map_structure(lambda x: strategy.experimental_local_results(x)[0], extras)
        metrics["gradients"] = [strategy.experimental_local_results(gradient)[0] for gradient in total]
        return metrics

    return Step(loss_names=names, batch_size=config.global_batch_size, variables=len(trainable), place=place, writing=writing,
                run=run)


def at(place: tf.Variable, name: str) -> tf.Operation:
    """In the graph: from here on the process is at this one of PLACES."""
    return place.assign(PLACES.index(name), read_value=False)


class Rate:
    """The learning rate of the update that is being traced, and the steps before it: what the optimizer asks for."""

    value = step = None

    def __call__(self):
        return self.value if self.value is not None else tf.constant(0.0)


def _assign_all(strategy, triples):
    """Across replicas: every replica's own copy of a variable moves towards its value (decay) or takes it (None)."""
    for variable, value, decay in triples:
        if decay is None:
            strategy.extended.update(variable, lambda v, new: v.assign(new), args=(value,), group=False)
        else:
            strategy.extended.update(
                variable, lambda v, new, decay: v.assign_sub((1 - decay) * (v - new)), args=(value, decay), group=False)


def _all_reduce(parts: list[tf.Tensor]) -> list[tf.Tensor]:
    """The sums over replicas of float32 tensors, as one message: flattened, joined, summed, cut apart again."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return parts
    shapes = [part.shape for part in parts]
    joined = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.concat([tf.reshape(part, [-1]) for part in parts], 0))
    pieces = tf.split(joined, [shape.num_elements() for shape in shapes])
    return [tf.reshape(piece, shape) for piece, shape in zip(pieces, shapes)]


def _account(state: State, metrics: dict, config: Config, examples: int) -> list[tf.Operation]:
    """Writes the book-keeping of a step: averages of the losses, running means of the epoch, skipped steps, float16's loss
    scale. Returns the writes."""
    ok, step = metrics["ok"], state.step.read_value()
    start = step * config.global_batch_size
    new_epoch = (step == 0) | (start // examples != (start - config.global_batch_size) // examples)
    sums = tf.concat([metrics["metric_sums"], [float(config.global_batch_size)]], 0)
    before = tf.where(new_epoch, tf.zeros_like(state.epoch_sums), state.epoch_sums)
    # The averages start from the first value that is not skipped (as the tutorial's from the first), and keep out NaN.
    average = tf.where(step == state.skipped, metrics["losses"], 0.9 * state.loss_averages + 0.1 * metrics["losses"])
    skip = in_row = tf.cast(~ok, tf.int64)
    values = [(state.epoch_sums, before + tf.where(ok, tf.cast(sums, tf.float64), 0)),
              (state.loss_averages, tf.where(ok, average, state.loss_averages)),
              (state.skipped, state.skipped + skip)]
    if config.precision == "float16":
        good = tf.where(ok, state.good_steps + 1, 0)
        grow = good >= SCALE_GROWTH_STEPS
        scale = tf.where(ok, tf.where(grow, state.loss_scale * 2, state.loss_scale), state.loss_scale / 2)
        # A skip that only finds the right scale is no divergence.
        in_row = tf.where(state.loss_scale > 1, tf.constant(0, tf.int64), skip)
        values += [(state.loss_scale, tf.maximum(scale, 1.0)),
                   (state.good_steps, tf.where(grow, tf.constant(0, tf.int64), good))]
    values.append((state.skipped_in_row, tf.where(ok, tf.constant(0, tf.int64), state.skipped_in_row + in_row)))
    return [variable.assign(value, read_value=False) for variable, value in values]
