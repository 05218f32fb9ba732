"""What growth is measured by, inside a process. Each function prepares, and returns `measure(amount)`."""
import pathlib
import tempfile
import time

from trainer import quiet

quiet.import_tensorflow(errors=False)

import numpy as np
import tensorflow as tf

from input_pipeline import sources
from launch.benches import inputs, steps
from trainer import checkpoint

SIDE, LARGE = 2048, 1 << 26  # of a matrix; numbers of an array, 256 MB


def limit(name: str):
    """The machine's: multiply-adds x 2 a second of a matrix product in float32 or bfloat16; or bytes a second of memory."""
    if name == "memory":
        x, more = tf.Variable(tf.zeros([LARGE])), tf.ones([LARGE])
        run, work = tf.function(lambda: x.assign_add(more)[0], autograph=False), 3 * 4 * LARGE  # two read, one written
    else:
        a = tf.cast(tf.random.normal([SIDE, SIDE]), name)
        run, work = tf.function(lambda: tf.reduce_sum(tf.cast(tf.matmul(a, a), tf.float32)), autograph=False), 2 * SIDE**3
    run()

    def measure(amount: int) -> dict:
        return {"value": work / min(_seconds(run) for _ in range(amount))}

    return measure


def width(precision: str, filters: int):
    """Seconds of two 3x3 convolutions, forward and backward, on [128, 16, 16, filters]."""
    x = tf.cast(tf.random.normal([128, 16, 16, filters]), precision)
    kernels = [tf.cast(tf.random.normal([3, 3, filters, filters]) / filters, precision) for _ in range(2)]

    @tf.function(autograph=False)
    def run():
        with tf.GradientTape() as tape:
            tape.watch([x, *kernels])
            y = x
            for kernel in kernels:
                y = tf.nn.conv2d(y, kernel, 1, "SAME")
        return [tf.reduce_sum(tf.cast(g, tf.float32)) for g in tape.gradient(y, [x, *kernels], output_gradients=y)]

    run()

    def measure(amount: int) -> dict:
        return {"value": min(_seconds(run) for _ in range(amount))}

    return measure


def input_rate(threads: int):
    """Images a second of the tutorial's distortions."""
    random = np.random.default_rng(0)
    source = sources.Arrays(random.integers(0, 256, (10_000, 32, 32, 3), dtype=np.uint8),
                            random.integers(0, 10, 10_000), tuple("0123456789"))
    batches = inputs.ours(source, inputs.TUTORIAL, 128, threads)
    inputs.rate(batches, 10, 128)
    return lambda amount: {"value": inputs.rate(batches, amount, 128)}


def trace(blocks: list[int]):
    """Seconds to trace the step of a residual network with so many blocks, and the least memory that it needs."""
    def measure(amount: int) -> dict:
        run, built, batches = steps.prepared(
            recipe="cifar10_resnet18", dataset="synthetic", blocks=",".join(map(str, blocks)), global_batch_size="16",
            train_steps="1000")
        start = time.perf_counter()
        built.loop.trace(batches, observed=False)
        traced = time.perf_counter() - start
        steps.steps(built, batches, 1)
        held = sum(np.prod(v.shape) for group in built.state.variables().values() for v in group.values())
        gradients = sum(np.prod(v.shape) for v in built.model.trainable_variables)
        return {"value": traced, "least": float(4 * (held + gradients))}

    return measure


def save(megabytes: int):
    """Seconds from the call of a save to the published checkpoint."""
    return _saving(megabytes, whole=True)


def save_call(megabytes: int):
    """Seconds that the call of a save takes: what the loop waits."""
    return _saving(megabytes, whole=False)


def _saving(megabytes: int, *, whole: bool):
    count = 10
    variables = {f"v{k}": tf.Variable(tf.random.normal([megabytes * 250_000 // count])) for k in range(count)}
    folder = pathlib.Path(tempfile.mkdtemp())
    keeper = checkpoint.Checkpointer(folder, {"model": variables}, keep=1, protected=lambda old: ())
    step = 0

    def measure(amount: int) -> dict:
        nonlocal step
        step += 1
        start = time.perf_counter()
        keeper.save(step)
        called = time.perf_counter() - start
        keeper.wait()
        total = time.perf_counter() - start
        return {"value": total if whole else called}

    measure(1)
    return measure


def _seconds(run) -> float:
    start = time.perf_counter()
    found = run()
    for value in tf.nest.flatten(found):
        if isinstance(value, tf.Tensor):
            value.numpy()
    return time.perf_counter() - start
