"""What is measured inside a process with the trainer's own step. Each function prepares, and returns `measure(amount)`.

Options are those of a Config, as text: bare(recipe="digits", precision="float32"). All on made-up or embedded data, one batch
of which stays in memory.
"""
import dataclasses
import os
import pathlib
import statistics
import sys
import tempfile
import time

from trainer import config as config_lib
from trainer import quiet, resolve

quiet.import_tensorflow(errors=False)

import tensorflow as tf

from trainer import checkpoint, distribution, experiment, stopwatch, telling
from trainer.writers import Console

NOWHERE = os.path.join(tempfile.gettempdir(), "lockstep-bench-none")  # a --model_dir that is never made


def constant(strategy, batch):
    """An iterator that gives the same batch again and again: the step is then traced as for any other."""
    parts = [strategy.experimental_local_results(value) for value in batch.values()]
    stacked = {name: tf.stack(part) for name, part in zip(batch, parts)}
    return iter(strategy.distribute_datasets_from_function(
        lambda context: tf.data.Dataset.from_tensor_slices(stacked).cache().repeat()))


def prepared(**options: str):
    """(the run, the experiment on its devices, one batch of its data for ever)."""
    given = {name: config_lib.rule(name).parse(text) for name, text in options.items()}
    # At a rate of 0: a batch seen again and again is soon known by heart, and arithmetic with tiny gradients is slow.
    run = resolve.resolve({"model_dir": NOWHERE, "train_steps": 10_000_000, "learning_rate": 0.0, **given})
    built = experiment.Experiment(run, distribution.build(run.config, run.plan))
    return run, built, constant(built.strategy, next(built.batches(0)))


def steps(built, batches, count: int) -> float:
    """Seconds of so many steps in one call."""
    start = time.perf_counter()
    built.loop.run(batches, int(built.state.step) + count)["losses"].numpy()
    return time.perf_counter() - start


def bare(**options: str):
    """Examples a second of the compiled step on a constant batch: no input, no lines, no summaries, no checkpoints."""
    run, built, batches = prepared(**options)
    steps(built, batches, 3)
    return lambda amount: {"value": amount * run.config.global_batch_size / steps(built, batches, amount)}


def summaries(**options: str):
    """A step with every summary due, written, over a plain step: the ratio of their seconds; amount: plain steps."""
    run, built, batches = prepared(**options, summary_steps="1", histogram_steps="1")
    folder = _folder(run)
    tell = telling.Telling(folder, built, Console("none", sys.stderr), stopwatch.Stopwatch(), start=0)

    def observed() -> float:
        start = time.perf_counter()
        metrics = built.loop.observe(batches)
        metrics["losses"] = metrics["losses"].numpy()
        tell.summaries(int(built.state.step), metrics)
        return time.perf_counter() - start

    steps(built, batches, 3), observed(), observed()

    def measure(amount: int) -> dict:
        plain = steps(built, batches, amount) / amount
        full = statistics.median(observed() for _ in range(3))
        return {"value": full / plain, "ours": full, "other": plain}

    return measure


def saving(**options: str):
    """Steps that a save in mid-training costs the loop: the longer time of the next steps, in steps; amount: how many."""
    run, built, batches = prepared(**options)
    folder = _folder(run)
    keeper = checkpoint.Checkpointer(pathlib.Path(folder.config.model_dir, "checkpoints"), built.state.variables(), keep=2,
                                     protected=lambda old: ())
    steps(built, batches, 3)

    def measure(amount: int) -> dict:
        plain = steps(built, batches, amount)
        start = time.perf_counter()
        keeper.save(int(built.state.step))
        called = time.perf_counter() - start
        saved = called + steps(built, batches, amount)
        keeper.wait()
        plain = (plain + steps(built, batches, amount)) / 2
        return {"value": (saved - plain) / (plain / amount), "ours": saved, "other": plain, "call": called}

    measure(3)
    return measure


def evaluation(**options: str):
    """Images a second of an evaluation of all test images over those of the bare forward pass; amount: passes."""
    from trainer import evaluate
    run, built, _ = prepared(**options)
    evaluated = experiment.evaluation(run.config, run.info, built.strategy, "test")
    weights = {path: value.read_value() for path, value in built.state.variables()["model"].items()}
    examples = run.info.test_examples
    shape = evaluated.first_images(1).shape[1:]
    images = tf.random.normal([evaluate.BATCH_SIZE, *shape])

    @tf.function(autograph=False)
    def forward(count):
        def body(k, total):
            outputs = tf.cast(evaluated.model(images, training=False), tf.float32)
            return k + 1, total + tf.reduce_sum(outputs)

        return tf.while_loop(lambda k, _: k < count, body, [0, tf.zeros([])])[1]

    count = -(-examples // evaluate.BATCH_SIZE)
    evaluated.run(weights), forward(tf.constant(2)).numpy()

    def measure(amount: int) -> dict:
        start = time.perf_counter()
        for _ in range(amount):
            evaluated.run(weights)
        middle = time.perf_counter()
        forward(tf.constant(count * amount)).numpy()
        ours = amount * examples / (middle - start)
        other = amount * count * evaluate.BATCH_SIZE / (time.perf_counter() - middle)
        return {"value": ours / other, "ours": ours, "other": other}

    return measure


def collectives(**options: str):
    """Collective operations of a train step on two replicas, those of batch normalisation left out; and one a dtype."""
    def measure(amount: int) -> dict:
        return {"value": count_collectives(**options), "other": 1}

    return measure


def count_collectives(*, replicas: int = 2, **options: str) -> float:
    """All-reduces a replica in the traced step, whose gradients are all float32."""
    given = {name: config_lib.rule(name).parse(text) for name, text in options.items()}
    run = resolve.resolve({"model_dir": NOWHERE, "num_gpus": replicas, "emulate": True, **given})
    distribution.build(run.config, run.plan)
    # TensorFlow's own all-reduce, which is an operation; ours for emulated devices is a sum in memory.
    built = experiment.Experiment(run, tf.distribute.MirroredStrategy([f"/cpu:{k}" for k in range(replicas)]))
    graph = built.loop.trace(built.batches(0), observed=False).as_graph_def()
    nodes = [node.op for node in graph.node] + [node.op for f in graph.library.function for node in f.node_def]
    return sum(op.startswith("CollectiveReduce") for op in nodes) / replicas


def _folder(run):
    """The run with a folder of its own to write to."""
    return dataclasses.replace(run, config=dataclasses.replace(run.config, model_dir=tempfile.mkdtemp()))
