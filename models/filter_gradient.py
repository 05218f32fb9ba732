"""A convolution that computes its filters' gradient by matrix products where those are faster.

    x = Conv2D(512, 3, padding="same", name="conv5")(x)     # keras.layers.Conv2D, the same numbers to rounding

oneDNN's kernels for that gradient in bfloat16 transpose their inputs again for every block of channels, which small maps do not
pay for. At batch 128 on 2 cores with AVX512_BF16 the products took, in place of TensorFlow's 56 ms for 8x8x256, 29; of 56 for
4x4x512, 22; of 33 for 2x2x512, 6. At 15x15 and in float32 they gain nothing.
"""
import keras
import tensorflow as tf

LARGEST_SIDE = 8  # of a map whose gradient is taken by products
FEWEST_CHANNELS = 32  # on either side


class Conv2D(keras.layers.Conv2D):
    """See the module. [b, h, w, c] to [b, h', w', filters], as Keras's."""

    def convolution_op(self, inputs, kernel):
        if not self._by_products(inputs):
            return super().convolution_op(inputs, kernel)
        return _convolve(inputs, tf.convert_to_tensor(kernel))

    def _by_products(self, inputs):
        """Whether TensorFlow's own gradient is the slower one: 3x3, stride 1, SAME, a small map, bfloat16, on a CPU."""
        return (
            isinstance(inputs, tf.Tensor) and inputs.dtype == tf.bfloat16
            and (self.kernel_size, self.strides, self.dilation_rate) == ((3, 3), (1, 1), (1, 1))
            and (self.padding, self.groups, self.data_format) == ("same", 1, "channels_last")
            and all(side and side <= LARGEST_SIDE for side in inputs.shape[1:3])
            and min(inputs.shape[3], self.filters) >= FEWEST_CHANNELS and _on_cpu())


def _on_cpu():
    """Whether the replicas of the strategy around this call are CPUs, logical ones too. False where there is no strategy."""
    return tf.distribute.has_strategy() and all(
        "device:CPU:" in device for device in tf.distribute.get_strategy().extended.worker_devices)


@tf.custom_gradient
def _convolve(x, kernel):
    """x [b, h, w, c] with kernel [3, 3, c, filters], stride 1, SAME."""

    def gradient(dy):
        return (tf.nn.conv2d_transpose(dy, kernel, tf.shape(x), 1, "SAME"), by_products(x, dy))

    return tf.nn.conv2d(x, kernel, 1, "SAME"), gradient


def by_products(x, dy):
    """The gradient [3, 3, c, d] of the filters of a SAME convolution, stride 1, from x [b, h, w, c] and dy [b, h, w, d].

    Its part [i, j] is the sum over all positions p inside both maps of x[p + (i - 1, j - 1)]^T dy[p].
    """
    x, dy = tf.transpose(x, [1, 0, 2, 3]), tf.transpose(dy, [1, 0, 2, 3])  # rows first: a shift of rows copies nothing
    columns = [_overlap(x, dy, shift, axis=2) for shift in (-1, 0, 1)]
    return tf.stack([tf.stack([_product(*_overlap(*pair, shift, axis=0)) for pair in columns]) for shift in (-1, 0, 1)])


def _overlap(x, dy, shift, axis):
    """The slices of both along an axis where x, shifted, and dy have a position."""
    length = x.shape[axis]
    return _span(x, max(shift, 0), length - abs(shift), axis), _span(dy, max(-shift, 0), length - abs(shift), axis)


def _span(x, first, length, axis):
    begin, size = [0] * 4, [-1] * 4
    begin[axis], size[axis] = first, length
    return tf.slice(x, begin, size)


def _product(x, dy):
    """[..., c] and [..., d] to [c, d], summed over all else."""
    return tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), tf.reshape(dy, [-1, dy.shape[-1]]), transpose_a=True)
