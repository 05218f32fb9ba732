"""A convolution that computes its filters' gradient by matrix products where those are faster, and no more than is read.

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
    """See the module. [b, h, w, c] to [b, h', w', filters], as Keras's.

    even: the last row and column of an odd map, which a 2x2 pooling, VALID, would drop, are not computed. ValueError for another
    convolution than 3x3, stride 1, SAME.
    """

    def __init__(self, *args, even=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.even = even
        self._usual = (self.kernel_size, self.strides, self.dilation_rate) == ((3, 3), (1, 1), (1, 1)) and (
            self.padding, self.groups, self.data_format) == ("same", 1, "channels_last")
        if even and not self._usual:
            raise ValueError(f"even=True is for 3x3, stride 1, SAME; got {self.kernel_size}, {self.strides}, {self.padding!r}")

    def compute_output_shape(self, input_shape):
        batch, height, width, filters = super().compute_output_shape(input_shape)
        return batch, height - self._dropped(height), width - self._dropped(width), filters

    def _dropped(self, side):
        """The rows (columns) of a map with so many that are not computed."""
        return side % 2 if self.even and side > 1 else 0

    def get_config(self):
        return {**super().get_config(), "even": self.even}

    def convolution_op(self, inputs, kernel):
        if not self._usual:
            return super().convolution_op(inputs, kernel)
        dropped = [self._dropped(side) for side in inputs.shape[1:3]]
        kernel = tf.convert_to_tensor(kernel)
        if not self._small(inputs) or not _on_cpu():
            return _convolve(inputs, kernel, dropped)
        return _learns_by_products(_convolve(inputs, tf.stop_gradient(kernel), dropped), tf.stop_gradient(inputs), kernel)

    def _small(self, inputs):
        """Whether TensorFlow's own gradient is the slower one on a CPU."""
        return (inputs.dtype == tf.bfloat16 and all(side and side <= LARGEST_SIDE for side in inputs.shape[1:3])
                and min(inputs.shape[3], self.filters) >= FEWEST_CHANNELS)


def _on_cpu():
    """Whether the replicas of the strategy around this call are CPUs, logical ones too. False where there is no strategy."""
    return tf.distribute.has_strategy() and all(
        "device:CPU:" in device for device in tf.distribute.get_strategy().extended.worker_devices)


def _convolve(x, kernel, dropped):
    """x [b, h, w, c] with kernel [3, 3, c, d], stride 1, SAME, without the last `dropped` rows and columns."""
    if not any(dropped):
        return tf.nn.conv2d(x, kernel, 1, "SAME")
    # As explicit padding it would have no fast kernel for its gradients in bfloat16 (TensorFlow 2.21: 60 times as long).
    rows, columns = dropped
    return tf.nn.conv2d(tf.pad(x, [[0, 0], [1, 1 - rows], [1, 1 - columns], [0, 0]]), kernel, 1, "VALID")


@tf.custom_gradient
def _learns_by_products(y, x, kernel):
    """y, the convolution of x with the kernel, which so gets its gradient."""
    return tf.identity(y), lambda dy: (dy, None, by_products(x, dy))


def by_products(x, dy):
    """The gradient [3, 3, c, d] of the filters, stride 1, SAME, from x [b, h, w, c] and dy [b, h or h - 1, w or w - 1, d].

    Its part [i, j] is the sum over all positions p inside both maps of x[p + (i - 1, j - 1)]^T dy[p].
    """
    x, dy = tf.transpose(x, [1, 0, 2, 3]), tf.transpose(dy, [1, 0, 2, 3])  # rows first: a shift of rows copies nothing
    columns = [_overlap(x, dy, shift, axis=2) for shift in (-1, 0, 1)]
    return tf.stack([tf.stack([_product(*_overlap(*pair, shift, axis=0)) for pair in columns]) for shift in (-1, 0, 1)])


def _overlap(x, dy, shift, axis):
    """The slices of both along an axis where x, shifted, and dy have a position."""
    first = max(-shift, 0)
    length = min(dy.shape[axis], x.shape[axis] - shift) - first
    return _span(x, first + shift, length, axis), _span(dy, first, length, axis)


def _span(x, first, length, axis):
    return tf.slice(x, [first if k == axis else 0 for k in range(4)], [length if k == axis else -1 for k in range(4)])


def _product(x, dy):
    """[..., c] and [..., d] to [c, d], summed over all else."""
    return tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), tf.reshape(dy, [-1, dy.shape[-1]]), transpose_a=True)
