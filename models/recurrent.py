"""Recurrent cells without the state of a random generator, which Keras's own keep for a dropout that is not
used.

The arithmetic, weights and defaults are those of Keras's `GRUCell` and `LSTMCell`.

    x = keras.layers.RNN(GRUCell(32), name="gru")(series)     # [b, steps, features] to [b, 32], the last state
"""

import keras
import tensorflow as tf


class GRUCell(keras.layers.Layer):
    """A gated recurrent unit (Cho et al. 2014), in the form with the reset gate after the product, as
    cuDNN's.

    z, r = sigmoid of their sums; h' = z h + (1 - z) tanh(x W + b + r * (h U + c)). `kernel` is [features, 3
    units], `recurrent_kernel` [units, 3 units], both in the order z, r, h; `bias` [2, 3 units] holds b, then
    c.
    """

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units

    def build(self, input_shape):
        _add_weights(self, input_shape, 3, (2, 3 * self.units), "zeros")

    def call(self, inputs, states, training=False):
        (hidden,) = states
        bias, recurrent_bias = tf.unstack(tf.convert_to_tensor(self.bias))
        x = tf.matmul(inputs, self.kernel) + bias
        y = tf.matmul(hidden, self.recurrent_kernel) + recurrent_bias
        x_update, x_reset, x_new = tf.split(x, 3, 1)
        y_update, y_reset, y_new = tf.split(y, 3, 1)
        update, reset = tf.sigmoid(x_update + y_update), tf.sigmoid(x_reset + y_reset)
        hidden = update * hidden + (1 - update) * tf.tanh(x_new + reset * y_new)
        return hidden, [hidden]


class LSTMCell(keras.layers.Layer):
    """A long short-term memory cell (Hochreiter and Schmidhuber 1997) with a forget gate, whose bias starts
    at 1.

    c' = f c + i tanh(.), h' = o tanh(c'). `kernel` is [features, 4 units], `recurrent_kernel` [units, 4
    units], `bias` [4 units], in the order i, f, c, o.
    """

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units, self.state_size, self.output_size = units, [units, units], units

    def build(self, input_shape):
        def forget_one(shape, dtype=None):
            del shape
            return tf.concat([tf.zeros(self.units), tf.ones(self.units), tf.zeros(2 * self.units)], 0)

        _add_weights(self, input_shape, 4, (4 * self.units,), forget_one)

    def call(self, inputs, states, training=False):
        hidden, carry = states
        sums = tf.matmul(inputs, self.kernel) + tf.matmul(hidden, self.recurrent_kernel) + self.bias
        enter, forget, new, leave = tf.split(sums, 4, 1)
        carry = tf.sigmoid(forget) * carry + tf.sigmoid(enter) * tf.tanh(new)
        hidden = tf.sigmoid(leave) * tf.tanh(carry)
        return hidden, [hidden, carry]


def _add_weights(cell, input_shape, gates, bias_shape, bias_initializer):
    columns = gates * cell.units
    cell.kernel = cell.add_weight(name="kernel", shape=(input_shape[-1], columns), initializer="glorot_uniform")
    cell.recurrent_kernel = cell.add_weight(
        name="recurrent_kernel", shape=(cell.units, columns), initializer="orthogonal")
    cell.bias = cell.add_weight(name="bias", shape=bias_shape, initializer=bias_initializer)
