"""An evaluation again and again: nothing is made a second time. Its numbers: tests/laws/test_law5_every_example.py."""
import keras
import numpy as np
import tensorflow as tf

from input_pipeline import augment, pipeline, sources
from trainer.classification import Classification
from trainer.evaluate import Evaluation


class WithSamples(Classification):
    """Shows two examples."""

    samples = 2

    def pictures(self, counts, samples):
        return {"images": samples["outputs"]}


def test_data_sets_are_made_once(monkeypatch):
    """TensorFlow keeps some of each for good. Mutation: a data set for every run."""
    made, evaluation = [], pipeline.evaluation
    monkeypatch.setattr(pipeline, "evaluation", lambda *arguments, **options: made.append(1) or evaluation(*arguments, **options))

    def network():
        image = keras.Input((2, 2, 1))
        return keras.Model(image, keras.layers.Dense(3, name="logits")(keras.layers.Flatten()(image)))

    images = np.random.default_rng(0).random([9, 2, 2, 1], np.float32)
    source = sources.Arrays(images, np.arange(9, dtype=np.int32) % 3, ("a", "b", "c"))
    over = Evaluation(tf.distribute.OneDeviceStrategy("/cpu:0"), network, WithSamples(classes=3), source,
                      augment.parse("normalize:0:1"), batch_size=4)
    results = [over.run({variable.path: np.full(variable.shape, value, np.float32) for variable in over.model.variables})
               for value in (0.1, 0.2, 0.1)]
    assert len(made) == 2 and over.traces == 1
    assert results[0]["loss"] == results[2]["loss"]
    assert np.array_equal(results[0]["pictures"]["images"], results[2]["pictures"]["images"])
    assert not np.array_equal(results[0]["pictures"]["images"], results[1]["pictures"]["images"])
