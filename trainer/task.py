"""What is learned: the protocol of a task, and the tasks by name.

A network's entry in `models.registry` names its task. A metric is a pair (sum, count) until the very end, so that any
split of the examples over batches, replicas and processes gives the same number.

    what = task.build(config, info)        # the task of config.model
    what.losses(outputs, batch)            # [b] float32, in the train step
    what.sums(outputs, batch)              # {"precision_at_1": [b] float32, ...}, one value an example

To add one: a module with a class that keeps to `Task`, and its entry in `TASKS`.
"""
from typing import Protocol

import numpy as np
import tensorflow as tf

from input_pipeline import augment, datasets
from models import registry
from trainer.classification import Classification
from trainer.config import Config
from trainer.forecasting import Forecasting
from trainer.reconstruction import Reconstruction


class Task(Protocol):
    """What the step, the evaluation and the commands ask of a task. b: rows; batch: as the input pipeline gives it."""

    loss_name: str  # of the mean of `losses` in lines and summaries
    train_metrics: tuple[str, ...]  # of `sums`, shown as running means of the epoch
    metrics: tuple[str, ...]  # all of `sums`, in their order
    best: str  # the metric that makes a checkpoint the best one; `names.score` knows its direction by its last word
    input_name: str  # what an exported network takes
    output_name: str  # and gives
    output_shape: tuple[int, ...]  # of one row of `predictions`
    count_shape: tuple[int, ...]  # of `count`
    samples: int  # examples that `pictures` wants to see

    def losses(self, outputs: tf.Tensor, batch: dict) -> tf.Tensor:
        """What training makes small, [b] float32."""

    def evaluation_losses(self, outputs: tf.Tensor, batch: dict) -> tf.Tensor:
        """The loss that an evaluation tells, [b] float32."""

    def sums(self, outputs: tf.Tensor, batch: dict) -> dict[str, tf.Tensor]:
        """Each metric's value of each example, [b] float32."""

    def count(self, outputs: tf.Tensor, batch: dict) -> tf.Tensor:
        """What else an evaluation adds up over its batches, float32 of `count_shape`; padding left out."""

    def predictions(self, outputs: tf.Tensor) -> tf.Tensor:
        """What an exported network gives, float32 [b, *output_shape]."""

    def pictures(self, counts: np.ndarray, samples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What TensorBoard shows of an evaluation, by tag, uint8 [n, h, w, 1 or 3]. counts: the sum of `count`;
        samples: the batch of the first `samples` examples, with "outputs"."""

    def answer(self, prediction: np.ndarray, classes: tuple[str, ...]) -> dict:
        """One row of `predictions` for the user of `trainer.predict`."""


def _classification(config: Config, info: datasets.Info) -> Classification:
    return Classification(classes=config.classes, head=config.head, label_smoothing=config.label_smoothing)


def _reconstruction(config: Config, info: datasets.Info) -> Reconstruction:
    augmentation = augment.parse(config.augment)
    return Reconstruction(output_shape=augmentation.output_shape(info.input_shape), inverse=augmentation.inverse)


def _forecasting(config: Config, info: datasets.Info) -> Forecasting:
    return Forecasting(horizon=info.target_shape[0])


TASKS = {"classification": _classification, "reconstruction": _reconstruction, "forecasting": _forecasting}


def build(config: Config, info: datasets.Info) -> Task:
    """The task of `config.model` on this data set."""
    return TASKS[registry.check(config.model).task](config, info)
