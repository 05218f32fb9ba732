"""An evaluation again and again: nothing is made a second time. Its numbers: tests/laws/test_law5_every_example.py."""
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import augment, pipeline, sources
from trainer.classification import Classification
from trainer.config import UserError
from trainer.evaluate import Evaluation


def network(side: int, channels: int):
    """One dense layer with three logits, for square images."""
    def build():
        image = keras.Input((side, side, channels))
        return keras.Model(image, keras.layers.Dense(3, name="logits")(keras.layers.Flatten()(image)))

    return build


class WithSamples(Classification):
    """Shows two examples."""

    samples = 2

    def pictures(self, counts, samples):
        return {"images": samples["outputs"]}


def test_data_sets_are_made_once(monkeypatch):
    """TensorFlow keeps some of each for good. Mutation: a data set for every run."""
    made, evaluation = [], pipeline.evaluation
    monkeypatch.setattr(pipeline, "evaluation", lambda *arguments, **options: made.append(1) or evaluation(*arguments, **options))

    images = np.random.default_rng(0).random([9, 2, 2, 1], np.float32)
    source = sources.Arrays(images, np.arange(9, dtype=np.int32) % 3, ("a", "b", "c"))
    over = Evaluation(tf.distribute.OneDeviceStrategy("/cpu:0"), network(2, 1), WithSamples(classes=3), source,
                      augment.parse("normalize:0:1"), batch_size=4)
    results = [over.run({variable.path: np.full(variable.shape, value, np.float32) for variable in over.model.variables})
               for value in (0.1, 0.2, 0.1)]
    assert len(made) == 2 and over.traces == 1
    assert results[0]["loss"] == results[2]["loss"]
    assert np.array_equal(results[0]["pictures"]["images"], results[2]["pictures"]["images"])
    assert not np.array_equal(results[0]["pictures"]["images"], results[1]["pictures"]["images"])


def test_two_batches_are_on_their_way_at_once():
    """On one device: the network waits in each for another one. Mutations: one at a time; a confusion matrix that asserts
    something, which the next batch waits for."""
    both = threading.Barrier(2, timeout=20)

    class Meeting(keras.layers.Layer):
        def call(self, values):
            met = tf.numpy_function(lambda _: np.float32(0 * both.wait()), [values], tf.float32, stateful=False)
            return values + tf.ensure_shape(met, [])

    def meeting():
        image = keras.Input((2, 2, 1))
        return keras.Model(image, keras.layers.Dense(3)(Meeting()(keras.layers.Flatten()(image))))

    source = sources.Arrays(np.zeros([8, 2, 2, 1], np.uint8), np.arange(8, dtype=np.int32) % 3, ("a", "b", "c"))
    over = Evaluation(tf.distribute.OneDeviceStrategy("/cpu:0"), meeting, Classification(classes=3), source,
                      augment.parse("normalize:0:1"), batch_size=4)
    result = over.run({variable.path: np.zeros(variable.shape, np.float32) for variable in over.model.variables})
    assert result["examples"] == 8 and result["counts"].sum() == 8


@pytest.mark.parametrize("cached_bytes", [0, 1 << 20])
def test_a_pass_after_one_that_could_not_be_read_begins_at_the_first_example(tmp_path, monkeypatch, cached_bytes):
    """All passes share an iterator. Mutations: also after a failed one, which leaves it in the middle; a new iterator over
    the same cache, which has the others' batches alone."""
    monkeypatch.setattr(pipeline, "CACHED_BYTES", cached_bytes)
    pictures = [tf.io.encode_png(tf.fill([2, 2, 3], tf.constant(20 * k, tf.uint8))).numpy() for k in range(9)]
    for k, picture in enumerate(pictures):
        (tmp_path / f"{k}.png").write_bytes(picture)
    source = sources.Files(str(tmp_path), np.array([b"%d.png" % k for k in range(9)]), np.arange(9, dtype=np.int32) % 3,
                           ("a", "b", "c"), image_size=2)
    over = Evaluation(tf.distribute.OneDeviceStrategy("/cpu:0"), network(2, 3), Classification(classes=3), source,
                      augment.parse("normalize:0:255"), batch_size=2)
    random = np.random.default_rng(0)
    weights = {variable.path: random.random(variable.shape, np.float32) for variable in over.model.variables}
    (tmp_path / "4.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="4.png"):
        over.run(weights)
    with pytest.raises(UserError, match="4.png"):
        over.first_images(5)
    (tmp_path / "4.png").write_bytes(pictures[4])
    first, second = over.run(weights), over.run(weights)
    images = np.stack([np.full(12, 20 * k / 255, np.float32) for k in range(9)])
    kernel, bias = (weights[variable.path] for variable in over.model.variables)
    logits = images @ kernel + bias
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(9), np.arange(9) % 3]
    for result in first, second:
        assert result["examples"] == 9 and result["loss"] == pytest.approx(losses.mean(), rel=1e-5)
