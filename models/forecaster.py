"""Recurrent networks that forecast a series with a yearly period, monthly values in its own units.

    model = build(input_shape=(36, 1), outputs=12, cell="gru")     # the past [b, 36, 1] to the next months [b, 12]
    naive(past, 12)                                                # the forecast to beat, [b, 12]

The network holds its own normalisation. It starts from the naive forecast, last year's month plus the last year's
growth, and learns what that misses: as long as its last layers are zero, as they are at first, its output is the
naive forecast. What it sees is how far every month was from its own naive forecast, in units of the series' usual step
from month to month, so that neither level nor unit of the series matters. All of it is float32 under every dtype
policy: bfloat16 has 420 and 422 ppm, and nothing between.
"""

import keras
import tensorflow as tf

from models import recurrent

YEAR = 12  # months
UNITS = 8


def naive(series, outputs):
    """The past [b, past, 1], past at least 24, to the next `outputs` months [b, outputs]: last year's month plus the
    last year's growth.

    The growth is the mean of the last 12 months less that of the 12 before, added once for every year ahead.
    """
    year, growth = series[:, -YEAR:, 0], _growth(series)
    return tf.stack([year[:, month % YEAR] + growth[:, 0] * (1 + month // YEAR) for month in range(outputs)], 1)


class NaiveForecast(keras.layers.Layer):
    """`naive` as a layer."""

    def __init__(self, outputs, **kwargs):
        super().__init__(**kwargs)
        self.outputs = outputs

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.outputs)

    def call(self, inputs):
        return naive(inputs, self.outputs)


class Surprise(keras.layers.Layer):
    """The past [b, past, 1] to what was surprising in it, [b, past - 12, 1], and to its unit, [b, 1].

    Of every month but the first 12: its step from a year before, less the last year's growth, divided by the unit,
    the root mean square of the steps from month to month.
    """

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[1] - YEAR, 1), (input_shape[0], 1)

    def call(self, inputs):
        values = inputs[:, :, 0]
        unit = tf.sqrt(tf.reduce_mean(tf.square(values[:, 1:] - values[:, :-1]), 1, keepdims=True))
        unit = tf.maximum(unit, 1e-6)  # not 0: a constant series
        return ((values[:, YEAR:] - values[:, :-YEAR] - _growth(inputs)) / unit)[:, :, None], unit


def build(*, input_shape, outputs, cell):
    """The forecaster with a "gru" or an "lstm" cell; input_shape (past, 1), at least two years of past.

    Beside the recurrent part of eight units there is a linear one, which sees the same: of Mauna Loa's 587 training
    windows (they overlap: some fifty years) a network of 32 units that also sees level and steps from month to month
    learns the noise, and is worse than the naive forecast after a few hundred steps.
    """
    if len(input_shape) != 2 or input_shape[1] != 1 or input_shape[0] < 2 * YEAR:
        raise ValueError(f"a forecaster was given examples of shape {tuple(input_shape)}, must be (past, 1) with at "
                         f"least {2 * YEAR} months of past: the last year's growth needs the year before; give longer "
                         "windows")
    cells = {"gru": recurrent.GRUCell, "lstm": recurrent.LSTMCell}
    series = keras.Input(input_shape, dtype="float32", name="series")
    seen, unit = Surprise(dtype="float32", name="surprise")(series)
    # As a loop inside the graph: unrolled, a step takes as long, and the first one ten times as long.
    x = keras.layers.RNN(cells[cell](UNITS, dtype="float32", name="cell"), dtype="float32", name=cell)(seen)
    x = keras.layers.Dense(outputs, kernel_initializer="zeros", dtype="float32", name="residual")(x)
    flat = keras.layers.Flatten(dtype="float32", name="flat")(seen)
    linear = keras.layers.Dense(outputs, use_bias=False, kernel_initializer="zeros", dtype="float32", name="linear")(flat)
    x = keras.layers.Add(dtype="float32", name="learned")([x, linear])
    x = keras.layers.Multiply(dtype="float32", name="in_units")([x, unit])
    expected = NaiveForecast(outputs, dtype="float32", name="naive")(series)
    forecast = keras.layers.Add(dtype="float32", name="forecast")([expected, x])
    return keras.Model(series, forecast, name=f"forecaster_{cell}")


def _growth(series):
    """[b, past, 1] to [b, 1]: the mean of the last year less that of the year before."""
    last, before = series[:, -YEAR:, 0], series[:, -2 * YEAR:-YEAR, 0]
    return tf.reduce_mean(last, 1, keepdims=True) - tf.reduce_mean(before, 1, keepdims=True)
