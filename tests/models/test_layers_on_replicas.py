"""Two replicas that see different data work out what one process does with all of it: batch statistics,
masks, gradients.

Mutations that turn these red: statistics of one replica where all are asked for; a backward pass without its
all-reduce, or of fixed statistics; a mean not divided by the replicas; masks by replica instead of by global
row. The replicas run in a process of their own (this file as a program): collective keys are a process's.
"""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from models import layers, registry

ROOT = pathlib.Path(__file__).parents[2]
ROWS = 16  # of each replica
SUM = tf.distribute.ReduceOp.SUM


def normal(*shape, seed, mean=0.0, deviation=1.0):
    return np.random.default_rng(seed).normal(mean, deviation, shape).astype(np.float32)


# The second replica's data lie elsewhere, or local statistics would look like global ones.
IMAGES = np.concatenate([normal(ROWS, 8, 8, 6, seed=1), normal(ROWS, 8, 8, 6, seed=2, mean=3, deviation=2)])
NOISE = normal(*IMAGES.shape, seed=3)  # the gradient that arrives from above
LABELS = np.arange(2 * ROWS) % 10


def step_context(first_row):
    return layers.replica_step(seed=5, step=3, first_row=first_row)


def layer(**options):
    built = layers.BatchNormalization(**options)
    built.build(IMAGES.shape)
    for seed, variable in enumerate(built.variables):
        variable.assign(1.5 + normal(6, seed=seed) ** 2)
    return built


def network():
    keras.utils.set_random_seed(1)
    return registry.build("digits_cnn_regularized", input_shape=(8, 8, 6), classes=10)


def run_layer(layer, images, noise):
    """y, dx, the parts of dgamma and dbeta, new moving mean, new moving variance."""
    images = tf.convert_to_tensor(images)
    with step_context(0) as context, tf.GradientTape() as tape:
        tape.watch(images)
        y = layer(images, training=True)
        total = tf.reduce_sum(y * noise)
    weights = [variable.value for variable in layer.trainable_variables]
    return [y, *tape.gradient(total, [images, *weights]), *[value for _, value in context.updates]]


def run_network(network, images, labels, first_row):
    """The part of the mean loss over the global batch, and its gradients."""
    with step_context(first_row), tf.GradientTape() as tape:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, network(images, training=True))
        loss = tf.reduce_sum(losses) / len(LABELS)
    return [loss, *tape.gradient(loss, [variable.value for variable in network.trainable_variables])]


def difference(found, wanted):
    return float(np.max(np.abs(np.asarray(found, np.float64) - np.asarray(wanted, np.float64))))


def scale(values):
    return float(np.max(np.abs(values)))


def program():
    """Prints {what: largest difference between two replicas and one process}, as JSON."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    local, results = strategy.experimental_local_results, {}

    def part(value):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(value[context.replica_id_in_sync_group * ROWS :][:ROWS])
        )

    images, noise, labels = part(IMAGES), part(NOISE), part(LABELS)
    with strategy.scope():
        together, alone, mirrored = layer(), layer(synchronized=False), network()

    y, dx, *rest = strategy.run(tf.function(lambda *given: run_layer(together, *given)), (images, noise))
    wanted = run_layer(layer(), IMAGES, NOISE)
    results["y"] = difference(np.concatenate(local(y)), wanted[0])
    results["dx"] = difference(np.concatenate(local(dx)), wanted[1])
    for name, value, expected in zip(("dgamma", "dbeta"), rest[:2], wanted[2:4], strict=True):
        results[name] = difference(sum(local(value)), expected) / scale(expected)
    for name, value, expected in zip(("mean", "variance"), rest[2:], wanted[4:], strict=True):
        for replica in (0, 1):
            results[f"{name} on {replica}"] = difference(local(value)[replica], expected)

    found = strategy.run(tf.function(lambda *given: run_layer(alone, *given)), (images, noise))
    for replica in (0, 1):
        here = slice(replica * ROWS, (replica + 1) * ROWS)
        wanted = run_layer(layer(), IMAGES[here], NOISE[here])
        results[f"alone on {replica}"] = max(
            difference(local(a)[replica], b) / scale(b) for a, b in zip(found, wanted, strict=True)
        )

    def summed(images, labels):
        replica = tf.distribute.get_replica_context()
        first_row = replica.replica_id_in_sync_group * ROWS
        return replica.all_reduce(SUM, run_network(mirrored, images, labels, first_row))

    found = strategy.run(tf.function(summed), (images, labels))
    wanted = run_network(network(), IMAGES, LABELS, 0)
    pairs = zip(found, wanted, strict=True)
    results["network"] = max(difference(local(a)[0], b) / scale(b) for a, b in pairs)
    print(json.dumps(results))


@pytest.fixture(scope="module")
def differences():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


STATISTICS = ["mean on 0", "mean on 1", "variance on 0", "variance on 1"]


@pytest.mark.parametrize("what", ["y", "dx", "dgamma", "dbeta", *STATISTICS])
def test_synchronised_batch_normalisation_is_that_of_the_global_batch(differences, what):
    assert differences[what] < 1e-5


@pytest.mark.parametrize("replica", [0, 1])
def test_unsynchronised_batch_normalisation_is_that_of_the_replica(differences, replica):
    assert differences[f"alone on {replica}"] < 1e-5


def test_loss_and_gradients_of_a_network_with_dropout_are_those_of_one_replica(differences):
    assert differences["network"] < 1e-5


if __name__ == "__main__":
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    program()
