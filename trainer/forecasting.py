"""The next values of a series: mean absolute error, beside that of the naive forecast.

Inputs [b, past, 1] and targets [b, horizon] are in the series' own units, and so are the network's outputs: what
normalisation it needs is inside it.

    task = Forecasting(horizon=12)
"""
import dataclasses

import numpy as np
import tensorflow as tf

from models.forecaster import naive


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forecasting:
    """horizon: steps ahead."""

    horizon: int

    loss_name = "mean_absolute_error"
    train_metrics = ("mae",)
    metrics = ("mae", "mae_naive")
    best = "mae"
    input_name, output_name = "series", "forecast"
    count_shape = ()
    samples = 1

    @property
    def output_shape(self) -> tuple[int]:
        """Shape of one row of `predictions`."""
        return (self.horizon,)

    def losses(self, outputs: tf.Tensor, batch: dict) -> tf.Tensor:
        """The mean absolute error over the steps ahead, [b] float32."""
        return tf.reduce_mean(tf.abs(tf.cast(outputs, tf.float32) - batch["target"]), 1)

    evaluation_losses = losses

    def sums(self, outputs: tf.Tensor, batch: dict) -> dict[str, tf.Tensor]:
        """The mean absolute errors of the network and of the naive forecast (`models.forecaster.naive`), [b]
        float32."""
        expected = naive(tf.cast(batch["input"], tf.float32), self.horizon)
        return {"mae": self.losses(outputs, batch), "mae_naive": self.losses(expected, batch)}

    def count(self, outputs: tf.Tensor, batch: dict) -> tf.Tensor:
        """Nothing."""
        return tf.zeros([])

    def predictions(self, outputs: tf.Tensor) -> tf.Tensor:
        """The forecasts, [b, horizon] float32."""
        return tf.cast(outputs, tf.float32)

    def pictures(self, counts: np.ndarray, samples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A plot of the first example: the past, what came, the forecast and the naive one."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        past, target = samples["input"][0, :, 0], samples["target"][0]
        figure = Figure(figsize=(8, 4), dpi=80, layout="constrained")
        canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
        ahead = np.arange(1, self.horizon + 1)
        expected = naive(tf.constant(samples["input"][:1]), self.horizon)[0].numpy()
        axes.plot(np.arange(1 - len(past), 1), past, color="black", label="past")
        axes.plot(ahead, target, color="black", linestyle=":", label="what came")
        axes.plot(ahead, expected, color="tab:orange", label="naive forecast")
        axes.plot(ahead, samples["outputs"][0], color="tab:blue", label="forecast")
        axes.set(xlabel="steps from the last known value", ylabel="value")
        axes.legend()
        canvas.draw()
        return {"forecast": np.asarray(canvas.buffer_rgba())[None, ..., :3]}

    def answer(self, prediction: np.ndarray, classes: tuple[str, ...]) -> dict:
        """The forecast, one number a step ahead."""
        return {"forecast": [float(value) for value in prediction]}
