"""Recurrent networks that forecast a series with a yearly period, monthly values in its own units.

    model = build(input_shape=(48, 1), outputs=12, cell="gru")     # the past [b, 48, 1] to the next months [b, 12]

The network holds its own normalisation. It starts from the naive forecast, last year's month plus the last
year's growth, and learns what that misses: as long as the last layer is zero, as it is at first, its output
is the naive forecast. What the recurrent part sees are differences in units of the series' usual step from
month to month, so that neither level nor unit of the series matters. All of it is float32 under every dtype
policy: bfloat16 has 420 and 422 ppm, and nothing between.
"""

import keras
import tensorflow as tf

from models import layers, recurrent

YEAR = 12  # months
UNITS, DROPOUT = 8, 0.5


class NaiveForecast(keras.layers.Layer):
    """The past [b, past, 1] to the next `outputs` months [b, outputs]: last year's month plus the last year's
    growth.

    The growth is the mean of the last 12 months less that of the 12 before, added once for every year ahead.
    """

    def __init__(self, outputs, **kwargs):
        super().__init__(**kwargs)
        self.outputs = outputs

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.outputs)

    def call(self, inputs):
        year, growth = inputs[:, -YEAR:, 0], _growth(inputs)
        ahead = [year[:, month % YEAR] + growth[:, 0] * (1 + month // YEAR) for month in range(self.outputs)]
        return tf.stack(ahead, 1)


class Differences(keras.layers.Layer):
    """The past [b, past, 1] to what the recurrent part sees of it, [b, past - 12, 4], and to its unit, [b,
    1].

    Of every month but the first 12: the step from the month before, the step from a year before less the last
    year's growth, the value less the mean of the last year, and that growth; all divided by the unit, the
    root mean square of the steps from month to month.
    """

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[1] - YEAR, 4), (input_shape[0], 1)

    def call(self, inputs):
        growth, values = _growth(inputs), inputs[:, YEAR:, 0]
        steps = inputs[:, 1:, 0] - inputs[:, :-1, 0]
        unit = tf.maximum(tf.sqrt(tf.reduce_mean(tf.square(steps), 1, keepdims=True)), 1e-6)  # not 0: a constant series
        level = tf.reduce_mean(inputs[:, -YEAR:, 0], 1, keepdims=True)
        seen = (steps[:, YEAR - 1:], values - inputs[:, :-YEAR, 0] - growth, values - level,
                tf.broadcast_to(growth, tf.shape(values)))
        return tf.stack(seen, 2) / unit[:, :, None], unit


def build(*, input_shape, outputs, cell):
    """The forecaster with a "gru" or an "lstm" cell; input_shape (past, 1), at least two years of past.

    Eight units, half of them dropped in training: of Mauna Loa's 587 training windows (they overlap: some
    fifty years) 32 units without dropout learn the noise, and are worse than the naive forecast after a few
    hundred steps.
    """
    if len(input_shape) != 2 or input_shape[1] != 1 or input_shape[0] < 2 * YEAR:
        raise ValueError(f"a forecaster was given examples of shape {tuple(input_shape)}, must be (past, 1) with at "
                         f"least {2 * YEAR} months of past: the last year's growth needs the year before; give longer "
                         "windows")
    cells = {"gru": recurrent.GRUCell, "lstm": recurrent.LSTMCell}
    series = keras.Input(input_shape, dtype="float32", name="series")
    seen, unit = Differences(dtype="float32", name="differences")(series)
    # As a loop inside the graph: unrolled, a step takes as long, and the first one ten times as long.
    x = keras.layers.RNN(cells[cell](UNITS, dtype="float32", name="cell"), dtype="float32", name=cell)(seen)
    x = layers.Dropout(DROPOUT, dtype="float32", name="dropout")(x)
    x = keras.layers.Dense(outputs, kernel_initializer="zeros", dtype="float32", name="residual")(x)
    x = keras.layers.Multiply(dtype="float32", name="in_units")([x, unit])
    naive = NaiveForecast(outputs, dtype="float32", name="naive")(series)
    forecast = keras.layers.Add(dtype="float32", name="forecast")([naive, x])
    return keras.Model(series, forecast, name=f"forecaster_{cell}")


def _growth(series):
    """[b, past, 1] to [b, 1]: the mean of the last year less that of the year before."""
    last, before = series[:, -YEAR:, 0], series[:, -2 * YEAR:-YEAR, 0]
    return tf.reduce_mean(last, 1, keepdims=True) - tf.reduce_mean(before, 1, keepdims=True)
