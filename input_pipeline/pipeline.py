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

A series has "target" instead of "label". Where the augmentation mixes examples, a training batch also has
"other_label", int32 [b], and "share", float32 [b], that of the example's own label; where it corrupts them,
"target", the clean images.

Examples that take time, as files that are to be decoded do (`sources.SlowSource`), are decoded one by one in many
threads. Their order is that of the rows all the same. Where one cannot be read, the iterator raises one of
READ_ERRORS at the step that needs it, and `unreadable` says which one it is and why.
"""

import math
import os
from collections.abc import Callable, Iterable

import tensorflow as tf

from input_pipeline import order
from input_pipeline.augment import Augmentation
from input_pipeline.sources import SlowSource, Source

# Threads of the input, and steps that it works ahead. One thread and four steps hid the tutorial's whole
# input behind its training step on two cores; more threads take time from the step.
THREADS = 1
# Threads for each core where examples are files: they wait for disks. Of 4 GiB of photos in shards, not yet in memory, two
# cores decoded 0.8 of what they did in memory with one thread each, 0.96 with four. No more than 64 in all: workers may
# share a machine.
SLOW_THREADS, MOST_SLOW_THREADS = 4, 64
PREFETCH_STEPS = 4
CACHED_BYTES = 1 << 28  # of an evaluation's input, up to which it is kept from one pass to the next
# What `next` raises where an example cannot be read: damaged, gone, or not to be opened.
READ_ERRORS = (tf.errors.InvalidArgumentError, tf.errors.DataLossError, tf.errors.NotFoundError,
               tf.errors.PermissionDeniedError, tf.errors.FailedPreconditionError)


def share(context: tf.distribute.InputContext) -> dict[str, int]:
    """`replicas`, `local_replicas` and `first_local_replica` of the worker that `context` describes."""
    local_replicas, rest = divmod(context.num_replicas_in_sync, context.num_input_pipelines)
    assert rest == 0, (context.num_replicas_in_sync, context.num_input_pipelines)
    return {"replicas": context.num_replicas_in_sync, "local_replicas": local_replicas,
            "first_local_replica": context.input_pipeline_id * local_replicas}


def training(source: Source, augmentation: Augmentation, *, seed: int, batch_size: int, start_step: int,
             replicas: int, local_replicas: int, first_local_replica: int = 0, threads: int | None = None,
             prefetch_steps: int = PREFETCH_STEPS) -> tf.data.Dataset:
    """The endless training batches of this worker's replicas, from the batch numbered `start_step` (from 0).

    `batch_size` is the global one and a multiple of `replicas`. Elements: see the module; all shapes are
    static. `threads` compute them, up to `prefetch_steps` steps ahead; None: THREADS, or for a SlowSource SLOW_THREADS
    for each core of this machine, up to MOST_SLOW_THREADS, and at least one for each core.
    """
    rows = _rows(batch_size, replicas, local_replicas, first_local_replica)
    if augmentation.mixes and len(rows) % 2:
        raise ValueError(f"{len(rows)} rows of the batch of {batch_size} on this worker cannot be mixed in pairs; "
                         "their number must be even")

    def wanted(step: tf.Tensor) -> dict[str, tf.Tensor]:
        index = order.indices(step, seed=seed, batch_size=batch_size, examples=len(source))
        return {"index": index[rows.start:rows.stop], "row": tf.range(rows.start, rows.stop)}

    def augmented(step: tf.Tensor, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        epoch = order.positions(step, batch_size)[rows.start:rows.stop] // len(source)
        return augmentation.train_batch(batch["input"], seed=seed, step=step, rows=batch["row"],
                                        batch_size=batch_size, index=batch["index"], epoch=epoch)

    steps = tf.data.Dataset.range(start_step, tf.int64.max)
    return _replica_batches(source, steps, wanted, augmented, local_replicas, threads, prefetch_steps)


def evaluation(source: Source, augmentation: Augmentation, *, batch_size: int, replicas: int,
               local_replicas: int, first_local_replica: int = 0, threads: int | None = None,
               prefetch_steps: int = PREFETCH_STEPS, cache: bool = False) -> tf.data.Dataset:
    """One pass over `source` in order, every example once over all replicas, with a mask.

    As `training`, and "mask" float32 [b], 0 for the rows that fill up the last batch (they repeat the last
    example). ceil(len(source) / batch_size) steps, on every worker alike. cache: whether a further pass over
    the same dataset takes its input from memory, if it `fits_in_memory`.
    """
    rows = _rows(batch_size, replicas, local_replicas, first_local_replica)

    def wanted(step: tf.Tensor) -> dict[str, tf.Tensor]:
        index, mask = order.sequential(step, batch_size=batch_size, examples=len(source))
        return {"index": index[rows.start:rows.stop], "row": tf.range(rows.start, rows.stop),
                "mask": tf.cast(mask[rows.start:rows.stop], tf.float32)}

    def augmented(step: tf.Tensor, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return augmentation.evaluate_batch(batch["input"], batch["index"])

    steps = tf.data.Dataset.range(-(-len(source) // batch_size))
    return _replica_batches(source, steps, wanted, augmented, local_replicas, threads, prefetch_steps,
                            cache=cache and fits_in_memory(source, augmentation))


def fits_in_memory(source: Source, augmentation: Augmentation) -> bool:
    """Whether what an evaluation of `source` takes in is no more than CACHED_BYTES."""
    values = math.prod(augmentation.output_shape(source.input_shape)) * (2 if augmentation.corrupts else 1)
    return 4 * values * len(source) <= CACHED_BYTES


def unreadable(source: Source, *, seed: int = 0, batch_size: int = 0, step: int | None = None) -> str | None:
    """What stopped the batches of `source`, as "path: why"; None where all of it can be read now.

    Looks at the global training batch that `seed`, `batch_size` and `step` (from 0) give; without `step` at the whole
    source, in its order.
    """
    if not isinstance(source, SlowSource):
        return None
    indices: Iterable[int] = range(len(source))
    if step is not None:
        indices = order.indices(step, seed=seed, batch_size=batch_size, examples=len(source)).numpy().tolist()
    found = source.find_broken(indices)
    return found and ": ".join(found)


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


def _replica_batches(source: Source, steps: tf.data.Dataset, wanted: Callable, augmented: Callable,
                     local_replicas: int, threads: int | None, prefetch_steps: int, cache: bool = False) -> tf.data.Dataset:
    """For each of `steps` this worker's rows, cut into replicas' batches.

    `wanted(step)`: the batch without its examples, "index" int64 [n] and what travels along. `augmented(step, batch)`:
    what of the whole batch is new then, "input" and more. cache: a second pass computes nothing.
    """
    slow = isinstance(source, SlowSource)
    if threads is None:
        cores = len(os.sched_getaffinity(0))
        threads = max(cores, min(SLOW_THREADS * cores, MOST_SLOW_THREADS)) if slow else THREADS

    # AutoGraph would rewrite all that is called from here, which takes seconds and finds nothing to do.
    @tf.autograph.experimental.do_not_convert
    def parts(step: tf.Tensor, examples: dict[str, tf.Tensor] | None = None) -> dict[str, tf.Tensor]:
        batch = wanted(step)
        batch |= source.read(batch["index"]) if examples is None else examples
        batch |= augmented(step, batch)
        if "partner" in batch:
            batch["other_label"] = tf.gather(batch["label"], batch.pop("partner"))
        return {name: tensor if local_replicas == 1 else
                tf.reshape(tensor, [local_replicas, tensor.shape[0] // local_replicas, *tensor.shape[1:]])
                for name, tensor in batch.items()}

    if slow:
        steps = tf.data.Dataset.zip(steps, _decoded(source, steps, wanted, threads))
    # Distorting whole batches takes memory, so no more of them at once than are kept ready.
    parallel = min(prefetch_steps, max(1, threads // 2)) if slow else threads
    dataset = steps.map(parts, num_parallel_calls=parallel, deterministic=True)
    if local_replicas > 1:
        dataset = dataset.unbatch()
    if cache:
        dataset = dataset.cache()
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


def _decoded(source: SlowSource, steps: tf.data.Dataset, wanted: Callable, threads: int) -> tf.data.Dataset:
    """The examples of this worker's rows of `steps`, as `source.read` gives them, decoded by `threads` threads."""
    @tf.autograph.experimental.do_not_convert
    def fetched(step: tf.Tensor) -> dict[str, tf.Tensor]:
        return source.fetch(wanted(step)["index"])

    @tf.autograph.experimental.do_not_convert
    def decoded(one: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return source.decode_one(one)

    # One batch ahead at both ends: or decoding would stop while a batch is fetched, or distorted.
    rows = steps.map(fetched, num_parallel_calls=1, deterministic=True).prefetch(1)
    count = rows.element_spec["label"].shape[0]
    examples = rows.unbatch().map(decoded, num_parallel_calls=threads, deterministic=True)
    return examples.batch(count, drop_remainder=True).prefetch(1)
