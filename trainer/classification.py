"""One of several labels an example: cross-entropy, precision @ 1 and @ 5, the confusion matrix.

    task = Classification(head="logits", label_smoothing=0.1, classes=10)
    task.losses(outputs, batch)        # [b] float32
    task.sums(outputs, batch)          # {"precision_at_1": [b] float32, ...}, one value an example
    task.predictions(outputs)          # [b, 10] probabilities
"""
import dataclasses

import numpy as np
import tensorflow as tf

MATRIX_CLASSES = 2000  # the most of which a confusion matrix is made,
MATRIX_PIXELS = 1024  # and about how wide it is shown


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
    samples = 0  # the confusion matrix needs none
    # What an exported network takes and gives.
    input_name, output_name = "images", "probabilities"

    @property
    def count_shape(self) -> tuple[int, ...]:
        """Shape of `count`: () where there are too many classes for a matrix."""
        return (self.classes, self.classes) if self.classes <= MATRIX_CLASSES else ()

    @property
    def output_shape(self) -> tuple[int]:
        """Shape of one row of `predictions`."""
        return (self.classes,)

    def losses(self, outputs: tf.Tensor, batch: dict) -> tf.Tensor:
        """Cross-entropy in nats of each example, [b] float32; outputs [b, classes].

        With label smoothing e the target is (1 - e) of the label and e / classes of every class (Szegedy et al. 2016).
        Of a mixed image (mixup, cutmix) the label's part of the target is "share" of its own label and the rest of
        "other_label".
        """
        log_probabilities = self._log_probabilities(outputs)
        picked = tf.gather(log_probabilities, batch["label"], batch_dims=1)
        if "share" in batch:
            other = tf.gather(log_probabilities, batch["other_label"], batch_dims=1)
            picked = batch["share"] * picked + (1 - batch["share"]) * other
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

    def count(self, outputs: tf.Tensor, batch: dict) -> tf.Tensor:
        """The confusion matrix, float32 of `count_shape`: rows are labels, columns predictions, padding left out."""
        if not self.count_shape:
            return tf.constant(0.0)
        # Not tf.math.confusion_matrix: its assertions would keep the next batch waiting for this one.
        places = tf.stack([batch["label"], tf.argmax(outputs, 1, tf.int32)], 1)
        return tf.scatter_nd(places, batch["mask"], self.count_shape)

    def predictions(self, outputs: tf.Tensor) -> tf.Tensor:
        """The probability of each class, [b, classes] float32."""
        outputs = tf.cast(outputs, tf.float32)
        return outputs if self.head == "softmax" else tf.nn.softmax(outputs)

    def pictures(self, counts: np.ndarray, samples: dict) -> dict[str, np.ndarray]:
        """What TensorBoard shows of an evaluation, uint8 [1, h, w, 1]: the confusion matrix, dark is frequent."""
        if not counts.shape:
            return {}
        shade = (255 - 255 * counts / np.maximum(counts.sum(1, keepdims=True), 1)).astype(np.uint8)
        side = max(1, min(16, MATRIX_PIXELS // self.classes))  # of a cell
        return {"confusion_matrix": shade.repeat(side, 0).repeat(side, 1)[None, ..., None]}

    def answer(self, probabilities: np.ndarray, classes: tuple[str, ...]) -> dict:
        """One row of `predictions` for the user: the likeliest class by name, and the five likeliest."""
        top = [[classes[k], float(probabilities[k])] for k in np.argsort(-probabilities, kind="stable")[:5]]
        return {"class": top[0][0], "probability": top[0][1], "top": top}

    def _log_probabilities(self, outputs: tf.Tensor) -> tf.Tensor:
        outputs = tf.cast(outputs, tf.float32)
        if self.head == "softmax":
            return tf.math.log(tf.maximum(outputs, 1e-30))  # of probabilities; the bound keeps the gradient finite
        return tf.nn.log_softmax(outputs)
