"""The batches that this worker's replicas receive, as `tf.data` datasets and their distribution.

A global batch has `batch_size` rows; replica r of R receives rows r*b to (r+1)*b - 1, b = batch_size / R.
A worker's dataset yields the batches of its own replicas in turn: element k belongs to step
start_step + k // local_replicas and to its replica number k % local_replicas. What they hold depends on
(seed, step, row) alone, so a worker computes its own rows and no others, and nothing has to be saved.

    def make_dataset(input_context):
        return pipeline.training(source, augmentation, seed=1, batch_size=128, start_step=step,
                                 **pipeline.share(input_context))
    iterator = iter(pipeline.distribute(strategy, make_dataset))
    batch = next(iterator)
    # {"input": float32 [b,h,w,c], "label": int32 [b], "index": int64 [b], "row": int32 [b]}
"""

from collections.abc import Callable

import tensorflow as tf

from input_pipeline import order
from input_pipeline.augment import Augmentation
from input_pipeline.sources import Source

# Threads of the input, and steps that it works ahead. One thread and four steps hid the tutorial's whole
# input behind its training step on two cores; more threads take time from the step.
THREADS = 1
PREFETCH_STEPS = 4


def share(context: tf.distribute.InputContext) -> dict[str, int]:
    """`replicas`, `local_replicas` and `first_local_replica` of the worker that `context` describes."""
    local_replicas, rest = divmod(context.num_replicas_in_sync, context.num_input_pipelines)
    assert rest == 0, (context.num_replicas_in_sync, context.num_input_pipelines)
    return {"replicas": context.num_replicas_in_sync, "local_replicas": local_replicas,
            "first_local_replica": context.input_pipeline_id * local_replicas}


def training(source: Source, augmentation: Augmentation, *, seed: int, batch_size: int, start_step: int,
             replicas: int, local_replicas: int, first_local_replica: int = 0, threads: int = THREADS,
             prefetch_steps: int = PREFETCH_STEPS) -> tf.data.Dataset:
    """The endless training batches of this worker's replicas, from the batch numbered `start_step` (from 0).

    `batch_size` is the global one and a multiple of `replicas`. Elements: see the module; all shapes are
    static. `threads` compute them, up to `prefetch_steps` steps ahead.
    """
    rows = _rows(batch_size, replicas, local_replicas, first_local_replica)

    def batch(step: tf.Tensor) -> dict[str, tf.Tensor]:
        index = order.indices(step, seed=seed, batch_size=batch_size, examples=len(source))
        index = index[rows.start:rows.stop]
        row = tf.range(rows.start, rows.stop)
        examples = source.read(index)
        image = augmentation.train(examples["input"], seed=seed, step=step, rows=row, batch_size=batch_size)
        return {"input": image, "label": examples["label"], "index": index, "row": row}

    steps = tf.data.Dataset.counter(start_step)
    return _replica_batches(steps, batch, local_replicas, threads, prefetch_steps)


def evaluation(source: Source, augmentation: Augmentation, *, batch_size: int, replicas: int,
               local_replicas: int, first_local_replica: int = 0, threads: int = THREADS,
               prefetch_steps: int = PREFETCH_STEPS) -> tf.data.Dataset:
    """One pass over `source` in order, every example once over all replicas, with a mask.

    As `training`, and "mask" float32 [b], 0 for the rows that fill up the last batch (they repeat the last
    example). ceil(len(source) / batch_size) steps, on every worker alike.
    """
    rows = _rows(batch_size, replicas, local_replicas, first_local_replica)

    def batch(step: tf.Tensor) -> dict[str, tf.Tensor]:
        index, mask = order.sequential(step, batch_size=batch_size, examples=len(source))
        index, mask = index[rows.start:rows.stop], mask[rows.start:rows.stop]
        examples = source.read(index)
        return {"input": augmentation.evaluate(examples["input"]), "label": examples["label"], "index": index,
                "row": tf.range(rows.start, rows.stop), "mask": tf.cast(mask, tf.float32)}

    steps = tf.data.Dataset.range(-(-len(source) // batch_size))
    return _replica_batches(steps, batch, local_replicas, threads, prefetch_steps)


def distribute(strategy: tf.distribute.Strategy, make_dataset: Callable) -> tf.distribute.DistributedDataset:
    """Gives every replica of `strategy` its batches; `make_dataset(input_context)` makes a worker's dataset.

    Replica r of step s receives exactly rows r*b to (r+1)*b - 1 of that step's global batch.
    """
    return strategy.distribute_datasets_from_function(make_dataset)


def _rows(batch_size: int, replicas: int, local_replicas: int, first_local_replica: int) -> range:
    """This worker's rows of the global batch."""
    assert batch_size % replicas == 0, (batch_size, replicas)
    assert 0 <= first_local_replica <= replicas - local_replicas, (first_local_replica, replicas)
    rows = batch_size // replicas
    return range(first_local_replica * rows, (first_local_replica + local_replicas) * rows)


def _replica_batches(steps: tf.data.Dataset, batch: Callable, local_replicas: int, threads: int,
                     prefetch_steps: int) -> tf.data.Dataset:
    """Maps `steps` by `batch`, this worker's rows of a step, and cuts the rows into replicas' batches."""
    # AutoGraph would rewrite all that is called from here, which takes seconds and finds nothing to do.
    @tf.autograph.experimental.do_not_convert
    def parts(step: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: tensor if local_replicas == 1 else
                tf.reshape(tensor, [local_replicas, tensor.shape[0] // local_replicas, *tensor.shape[1:]])
                for name, tensor in batch(step).items()}

    dataset = steps.map(parts, num_parallel_calls=threads, deterministic=True)
    if local_replicas > 1:
        dataset = dataset.unbatch()
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    # Rewriting the graph gains nothing here and keeps a second copy of every array that the maps capture.
    options.experimental_optimization.apply_default_optimizations = False
    # The dataset already holds this worker's own batches only.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # A pool of its own: in TensorFlow's common pool the input and the training step starve each other.
    options.threading.private_threadpool_size = threads
    return dataset.prefetch(prefetch_steps * local_replicas).with_options(options)
