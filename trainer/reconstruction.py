"""Images that go through a narrow place and come back: autoencoders, mean squared error.

The target is the image as the augmentation made it, before any corruption ("target" in the batch, where there is one).

    task = Reconstruction(output_shape=(28, 28, 1), inverse=lambda images: images * 128 + 128)
"""
import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

SIDE = 64  # pixels: the least height of an image that is shown


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """output_shape: (h, w, c) of an image. inverse: from the network's units to the data set's raw ones."""

    output_shape: tuple[int, int, int]
    inverse: Callable[[tf.Tensor], tf.Tensor]

    loss_name = "mean_squared_error"
    train_metrics = metrics = ("mse",)
    best = "mse"
    input_name = output_name = "images"
    count_shape = ()
    samples = 8

    def losses(self, outputs: tf.Tensor, batch: dict) -> tf.Tensor:
        """The mean squared difference of each image's numbers, [b] float32, in the network's units."""
        target = tf.cast(batch.get("target", batch["input"]), tf.float32)
        difference = tf.cast(outputs, tf.float32) - target
        return tf.reduce_mean(tf.square(difference), [1, 2, 3])

    evaluation_losses = losses

    def sums(self, outputs: tf.Tensor, batch: dict) -> dict[str, tf.Tensor]:
        """The mean squared difference of each image's numbers."""
        return {"mse": self.losses(outputs, batch)}

    def count(self, outputs: tf.Tensor, batch: dict) -> tf.Tensor:
        """Nothing."""
        return tf.zeros([])

    def predictions(self, outputs: tf.Tensor) -> tf.Tensor:
        """The restored images in the data set's raw units, [b, h, w, c] float32."""
        return self.inverse(tf.cast(outputs, tf.float32))

    def pictures(self, counts: np.ndarray, samples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the network got, what it gave and what was wanted: three rows in one picture, its images at least SIDE high."""
        target = samples.get("target", samples["input"])
        low, high = float(target.min()), float(target.max())
        rows = [np.concatenate(list(samples.get(name, target)), axis=1) for name in ("input", "outputs", "target")]
        scaled = 255 * (np.clip(np.concatenate(rows), low, high) - low) / max(high - low, 1e-12)
        shown = scaled[..., :3 if scaled.shape[-1] >= 3 else 1].astype(np.uint8)
        times = -(-SIDE // target.shape[1])
        return {"restored": shown.repeat(times, 0).repeat(times, 1)[None]}

    def answer(self, prediction: np.ndarray, classes: tuple[str, ...]) -> dict:
        """The restored image, nested lists [h][w][c]."""
        return {"image": prediction.tolist()}
