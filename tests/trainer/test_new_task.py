"""A task that is added: a module (here this one) and an entry in `task.TASKS`, with a network that names it. Nothing else."""
import dataclasses

import keras
import tensorflow as tf

from input_pipeline import datasets
from models import registry
from trainer import devices, experiment, names, recipes, task
from trainer.resolve import Run


class Brightness:
    """How bright an image is on average; outputs [b, 1]."""

    loss_name = "squared_error"
    train_metrics = metrics = ("brightness_error",)
    best = "brightness_error"
    input_name, output_name = "image", "brightness"
    output_shape = (1,)
    count_shape = ()
    samples = 0

    def losses(self, outputs, batch):
        return tf.square(outputs[:, 0] - tf.reduce_mean(batch["input"], [1, 2, 3]))

    evaluation_losses = losses

    def sums(self, outputs, batch):
        return {"brightness_error": tf.sqrt(self.losses(outputs, batch))}

    def count(self, outputs, batch):
        return tf.zeros([])

    def predictions(self, outputs):
        return outputs

    def pictures(self, counts, samples):
        return {}

    def answer(self, prediction, classes):
        return {"brightness": float(prediction[0])}


def network(*, input_shape):
    image = keras.Input(input_shape)
    return keras.Model(image, keras.layers.Dense(1, name="brightness")(keras.layers.Flatten()(image)))


def test_a_new_task_touches_two_files(monkeypatch):
    """It learns, and its best checkpoint is the one of least error. Mutations: an unknown task is refused somewhere else; more
    of its error is better."""
    entry = registry.Network(builder=f"{__name__}:network", summary="", task="brightness")
    monkeypatch.setitem(registry.NETWORKS, "brightness", entry)
    monkeypatch.setitem(task.TASKS, "brightness", lambda config, info: Brightness())
    config = dataclasses.replace(
        recipes.digits(), model="brightness", model_dir="/nonexistent", classes=10, precision="float32", train_steps=60,
        train_epochs=0.0, decay_steps=(60,), global_batch_size=16, learning_rate=0.01, lr_schedule="constant",
        weight_decay=0.0, label_smoothing=0.0, augment="normalize:0:16")
    info = datasets.describe("digits")
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    plan = devices.Plan(strategy="one_device", kind="CPU", replicas=1)
    made = experiment.Experiment(Run(config=config, info=info, plan=plan, recorded=None), strategy)
    over = experiment.evaluation(config, info, strategy, "test")
    before = over.run(made.weights()["raw"])
    made.loop.run(made.batches(0), 60)
    found = over.run(made.weights()["raw"])
    assert found["brightness_error"] < 0.5 * before["brightness_error"]
    assert found["loss"] >= found["brightness_error"] ** 2  # the mean square is not below the squared mean
    assert names.score(made.task.best, found["brightness_error"]) > names.score(made.task.best, before["brightness_error"])
