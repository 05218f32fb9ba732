"""Every family learns on two replicas what it learns on one: in a loop inside the graph, mirrored and central
storage.

Mutations that turn these red: Keras's own batch normalisation or dropout in a network; a variable that
central storage cannot assign. Each strategy has a process of its own (this file as a program): collective
keys are a process's.

After two steps of gradient descent on the same 16 rows, what moved (weights, batch statistics) is compared in
its norm. A rounding error at a ReLU's kink or a maximum's tie is another gradient, and deep networks whose
last maps are a pixel or four enlarge it: there inputs changed by 1e-7 move one process's result as far as two
replicas do (GoogLeNet 6e-3 and 5e-3, MobileNetV2 6e-3 and 1e-2, after one step). These are compared after one
step, to 0.03: that finds a layer that fails on replicas, and the small networks, made of the same parts, find a
small error.
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
ROWS, RATE = 16, 0.01
SUM = tf.distribute.ReduceOp.SUM
# Network: shape of an example, options. Few blocks: the code is the same.
NETWORKS = {
    "alexnet_small": ((32, 32, 3), {}),
    "resnet18": ((16, 16, 3), {"blocks": (1, 1)}),
    "densenet40": ((16, 16, 3), {"blocks": (2, 2)}),
    "forecaster_gru": ((30, 1), {}),
    "forecaster_lstm": ((30, 1), {}),
}
MORE = {
    "googlenet_small": ((32, 32, 3), {}),
    "applications/MobileNetV2": ((64, 64, 3), {}),
    "applications/EfficientNetB0": ((64, 64, 3), {}),
}


def train(strategy, replicas, name, **more):
    """{variable's path: how far it moved} in the steps of this network on all ROWS rows."""
    shape, options = {**NETWORKS, **MORE}[name]
    random = np.random.default_rng(0)
    inputs = random.normal(size=(ROWS, *shape)).astype(np.float32)
    if name.startswith("applications"):
        inputs = 128 + 60 * inputs
    targets = random.normal(size=(ROWS, 5)).astype(np.float32)
    part = ROWS // replicas
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = registry.build(name, input_shape=shape, classes=5, outputs=5, **options, **more)
    trainable, written = model.trainable_variables, []
    first = {v.path: v.numpy() for v in model.variables}
    data = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(context.replica_id_in_sync_group * part))

    def gradients(first_row, step):
        with layers.replica_step(seed=5, step=step, first_row=first_row) as context, tf.GradientTape() as tape:
            outputs = model(tf.slice(inputs, [first_row] + [0] * len(shape), [part, *shape]), training=True)
            loss = tf.reduce_sum(tf.square(outputs - tf.slice(targets, [first_row, 0], [part, 5]))) / ROWS
        found = tape.gradient(loss, [v.value for v in trainable])
        replica = tf.distribute.get_replica_context()
        written[:] = [v for v, _ in context.updates]
        return replica.all_reduce(SUM, found), [value for _, value in context.updates]

    def assign(strategy, moves, updates):
        for variable, move in zip(trainable, moves, strict=True):
            strategy.extended.update(variable.value, lambda v, g: v.assign_sub(RATE * g), args=(move,), group=False)
        for variable, value in zip(written, updates, strict=True):
            strategy.extended.update(variable.value, lambda v, new: v.assign(new), args=(value,), group=False)

    def apply(moves, updates):
        tf.distribute.get_replica_context().merge_call(assign, args=(moves, updates))

    @tf.function(autograph=False)
    def loop():
        def body(step):
            moves, updates = strategy.run(gradients, args=(data, step))
            strategy.run(apply, args=(moves, updates))
            return (step + 1,)

        steps = 2 if name in NETWORKS else 1
        tf.while_loop(lambda step: step < steps, body, [tf.constant(0, tf.int64)], parallel_iterations=1)

    loop()
    return {v.path: v.numpy() - first[v.path] for v in model.variables}


def difference(found, wanted):
    """Of all variables together, relative, in their norm."""
    norm = sum(np.square(np.float64(value)).sum() for value in wanted.values())
    return float(np.sqrt(sum(np.square(np.float64(found[path]) - wanted[path]).sum() for path in wanted) / norm))


def program(kind, names):
    """Prints {network: difference of what moved between two replicas and one process}, as JSON. kind "local":
    without synchronised batch normalisation."""
    more = {"sync_batch_norm": False} if kind == "local" else {}
    devices = ["CPU:0", "CPU:1"]
    strategy = tf.distribute.MirroredStrategy(devices) if kind != "central_storage" \
        else tf.distribute.experimental.CentralStorageStrategy(devices, "CPU:0")
    results = {}
    for name in names:
        results[name] = difference(train(strategy, 2, name, **more), train(tf.distribute.get_strategy(), 1, name))
    print(json.dumps(results))


def differences(kind, names):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, __file__, kind, *names], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mirrored", "central_storage"])
def test_two_replicas_learn_what_one_does(kind):
    found = differences(kind, NETWORKS)
    assert found.keys() == NETWORKS.keys() and max(found.values()) < 1e-4, found


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_two_replicas_learn_what_one_does_of_large_networks(name):
    assert differences("mirrored", [name])[name] < 0.03


@pytest.mark.slow
def test_statistics_of_each_replica_would_show():
    found = differences("local", ["resnet18", "densenet40"])
    assert min(found.values()) > 0.01, found


if __name__ == "__main__":
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    program(sys.argv[1], sys.argv[2:])
