"""Histograms of an observed step: each tag has the values that are its own, whichever thread counted them."""
import types

import keras
import numpy as np
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainer import summaries
from trainer.events import Events


def test_every_histogram_is_of_its_own_values(tmp_path):
    """Mutation: tables in the order in which threads end; the sparsity of the layer before."""
    rng = np.random.default_rng(0)
    sizes = [200_000, 3, 70_000, 1, 500]
    activations = [tf.cast(rng.normal(10 * k, 1, size), tf.bfloat16 if k % 2 else tf.float32) for k, size in enumerate(sizes)]
    activations[3] = tf.zeros([4])
    variables = [keras.Variable(rng.normal(-10 * k, 1, [k, 7]), name=f"kernel{k}") for k in (1, 2, 3)]
    gradients = [tf.constant(rng.normal(1000 * k, 1, [k, 7]), tf.float32) for k in (1, 2, 3)]
    metrics = {"extras": {"images": tf.zeros([1, 2, 2, 3])} | {f"layer{k}/activations": value for k, value in enumerate(activations)},
               "gradients": gradients}
    summaries.histograms(Events(tmp_path), 5, metrics, types.SimpleNamespace(trainable_variables=variables))

    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0})
    events.Reload()
    expected = {f"layer{k}/activations": value for k, value in enumerate(activations)}
    expected |= {variable.path: variable.value for variable in variables}
    expected |= {f"{variable.path}/gradients": gradient for variable, gradient in zip(variables, gradients)}
    sparsities = {f"layer{k}/sparsity": float(k == 3) for k in range(5)}
    assert set(events.Tags()["tensors"]) == {*expected, *sparsities}
    for tag, values in expected.items():
        values = np.asarray(tf.cast(values, tf.float32))
        (event,) = events.Tensors(tag)
        table = tf.make_ndarray(event.tensor_proto)
        assert event.step == 5 and table[:, 2].sum() == values.size, tag
        assert (table[0, 0], table[-1, 1]) == (values.min(), values.max()), tag
    assert {tag: tf.make_ndarray(events.Tensors(tag)[0].tensor_proto) for tag in sparsities} == sparsities
