"""What is learned: the loss of each example and the sums that metrics are made of.

A metric is a pair (sum, count) until the very end, so that any split of the examples over batches, replicas and
processes gives the same number.

    task = task.Classification(head="logits", label_smoothing=0.1, classes=10)
    task.losses(outputs, batch)        # [b] float32
    task.sums(outputs, batch)          # {"precision_at_1": [b] float32, ...}, one value an example
    task.predictions(outputs)          # what an exported network gives
"""
import dataclasses

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification:
    """One of `classes` labels an example. head: whether the network gives logits or probabilities (softmax)."""

    classes: int
    head: str = "logits"
    label_smoothing: float = 0.0

    # What the training line and the evaluation line show, and what decides which checkpoint is best.
    loss_name = "cross_entropy"
    train_metrics = ("precision_at_1",)
    metrics = ("precision_at_1", "precision_at_5")
    best = "precision_at_1"
    # What an exported network takes and gives.
    input_name, output_name = "images", "probabilities"

    def losses(self, outputs: tf.Tensor, batch: dict) -> tf.Tensor:
        """Cross-entropy in nats of each example, [b] float32; outputs [b, classes].

        With label smoothing e the target is (1 - e) of the label and e / classes of every class (Szegedy et al. 2016).
        """
        log_probabilities = self._log_probabilities(outputs)
        picked = tf.gather(log_probabilities, batch["label"], batch_dims=1)
        if not self.label_smoothing:
            return -picked
        return -(1 - self.label_smoothing) * picked - self.label_smoothing * tf.reduce_mean(log_probabilities, 1)

    def sums(self, outputs: tf.Tensor, batch: dict) -> dict[str, tf.Tensor]:
        """1.0 where the label is the largest output (precision @ 1) or among the five largest (@ 5), [b] float32.

        As in the tutorial's in_top_k, but with ties counted against the network: a constant or NaN output earns nothing.
        """
        outputs = tf.cast(outputs, tf.float32)
        label = tf.gather(outputs, batch["label"], batch_dims=1)[:, None]
        not_below = tf.reduce_sum(tf.cast(~(outputs < label), tf.int32), 1)  # the label itself, its ties, and NaN
        return {"precision_at_1": tf.cast(not_below <= 1, tf.float32),
                "precision_at_5": tf.cast(not_below <= min(5, self.classes), tf.float32)}

    def evaluation_losses(self, outputs: tf.Tensor, batch: dict) -> tf.Tensor:
        """Cross-entropy against the true label, without smoothing, [b] float32."""
        return -tf.gather(self._log_probabilities(outputs), batch["label"], batch_dims=1)

    def confusion(self, outputs: tf.Tensor, batch: dict) -> tf.Tensor:
        """Counts [classes, classes] float32: rows are labels, columns predictions, padding left out."""
        return tf.math.confusion_matrix(batch["label"], tf.argmax(outputs, 1), self.classes, weights=batch["mask"],
                                        dtype=tf.float32)

    def predictions(self, outputs: tf.Tensor) -> tf.Tensor:
        """The probability of each class, [b, classes] float32."""
        outputs = tf.cast(outputs, tf.float32)
        return outputs if self.head == "softmax" else tf.nn.softmax(outputs)

    def answer(self, probabilities: np.ndarray, classes: tuple[str, ...]) -> dict:
        """One row of `predictions` for the user: the likeliest class by name, and the five likeliest."""
        top = [[classes[k], float(probabilities[k])] for k in np.argsort(-probabilities, kind="stable")[:5]]
        return {"class": top[0][0], "probability": top[0][1], "top": top}

    def _log_probabilities(self, outputs: tf.Tensor) -> tf.Tensor:
        outputs = tf.cast(outputs, tf.float32)
        if self.head == "softmax":
            return tf.math.log(tf.maximum(outputs, 1e-30))  # of probabilities; the bound keeps the gradient finite
        return tf.nn.log_softmax(outputs)
