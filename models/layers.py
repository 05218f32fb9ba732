"""Layers that Keras lacks, or that must give the same numbers on any number of replicas.

Dropout draws its mask from (seed, step, layer name, global row), never from the replica. Batch normalisation
takes its statistics over all replicas, and hands the new moving statistics to the trainer instead of writing
them, so that a step whose gradient is not finite leaves no trace. Both learn where they are from
`replica_step`:

    with replica_step(seed=1, step=step, first_row=first_row) as context:
        outputs = model(images, training=True)
    for variable, value in context.updates: ...      # the trainer assigns them, if the step is finite

Outside training no context is needed. All sizes but the batch are static, as XLA and TPUs ask.
"""

import contextlib
import dataclasses
import hashlib
import math
import threading

import keras
import numpy as np
import tensorflow as tf

from models import batch_statistics

_PHILOX = 1  # tf.random.Algorithm.PHILOX: a counter-based generator, four 32-bit words a count
_local = threading.local()  # not a global: replicas are traced in threads that take turns at every merge_call


@dataclasses.dataclass
class ReplicaStep:
    """Which part of which step this replica works on, and what its forward pass wants to write."""

    seed: int
    step: tf.Tensor  # scalar: completed steps
    first_row: tf.Tensor  # scalar: row of the global batch that is this replica's (or micro-batch's) first
    updates: list  # of (keras.Variable, new value), at most one entry a variable, in the order of the layers

    def latest(self, variable):
        """The value of `variable` after the updates so far."""
        return next((value for known, value in self.updates if known is variable), variable.value)

    def update(self, variable, value):
        """Ask for `variable` to become `value`, in place of an earlier request."""
        for position, (known, _) in enumerate(self.updates):
            if known is variable:
                self.updates[position] = (variable, value)
                return
        self.updates.append((variable, value))


@contextlib.contextmanager
def replica_step(*, seed, step, first_row, updates=None):
    """Surround one replica's forward pass in training; yields a `ReplicaStep`.

    seed: int, of the run. step, first_row: integer scalars (tensors or ints), see `ReplicaStep`. Enter it
    inside the function given to `strategy.run`: only the thread that entered it sees it.
    updates: for a further micro-batch of the same step, the `updates` of the one before, continued in place.
    """
    outer = getattr(_local, "context", None)
    _local.context = ReplicaStep(seed, step, first_row, [] if updates is None else updates)
    try:
        yield _local.context
    finally:
        _local.context = outer


def _current_step(layer):
    context = getattr(_local, "context", None)
    if context is None:
        raise RuntimeError(
            f"{type(layer).__name__} {layer.name!r} was called with training=True outside a replica_step; "
            "call it in `with models.layers.replica_step(seed=..., step=..., first_row=...):`, in this thread"
        )
    return context


class LocalResponseNormalization(keras.layers.Layer):
    """y[c] = x[c] * (bias + alpha * sum of x[j]^2 for |j - c| <= depth_radius) ** -beta, over the last axis.

    Krizhevsky et al. 2012, section 3.3, in the parameters of `tf.nn.local_response_normalization`. The sum
    over neighbours is a product with a banded [C, C] matrix (a 1x1 convolution, which has a bfloat16 kernel
    everywhere), and the gradient is written out. In bfloat16 the squares and their sum are bfloat16, the rest
    is float32. Shape: [b, h, w, C] in and out.
    """

    def __init__(self, depth_radius, bias=1.0, alpha=1.0, beta=0.5, **kwargs):
        super().__init__(**kwargs)
        if depth_radius < 0 or bias <= 0:
            raise ValueError(f"depth_radius={depth_radius}, bias={bias}: need depth_radius >= 0 and bias > 0")
        self.depth_radius, self.bias, self.alpha, self.beta = depth_radius, bias, alpha, beta

    def compute_output_shape(self, input_shape):
        return input_shape

    def call(self, inputs):
        channel = np.arange(inputs.shape[-1])
        near = np.abs(channel[:, None] - channel[None, :]) <= self.depth_radius
        # float16 ends at 65504, the square of 256: square in float32.
        dtype = tf.float32 if inputs.dtype == tf.float16 else inputs.dtype
        band = tf.constant(near[None, None], dtype)  # ones, which every dtype holds exactly

        def neighbours(x):
            return tf.nn.conv2d(x, band, strides=1, padding="SAME")

        @tf.custom_gradient
        def normalize(x):
            # dx = dy * base ** -beta - 2 alpha beta x * (band @ (dy * y / base))
            base = self.bias + self.alpha * tf.cast(neighbours(tf.square(x)), tf.float32)
            if self.beta == 0.75:  # two square roots are faster than a power
                inverse_root = tf.math.rsqrt(base)
                scale, inverse = inverse_root * tf.sqrt(inverse_root), tf.square(inverse_root)
            else:
                scale, inverse = tf.pow(base, -self.beta), tf.math.reciprocal(base)
            y = tf.cast(tf.cast(x, tf.float32) * scale, x.dtype)
            scale, inverse = tf.cast(scale, x.dtype), tf.cast(inverse, x.dtype)
            factor = tf.cast(2 * self.alpha * self.beta, x.dtype)

            def gradient(dy):
                return dy * scale - factor * x * neighbours(dy * y * inverse)

            return y, gradient

        return tf.cast(normalize(tf.cast(inputs, dtype)), inputs.dtype)


class LocallyConnected2D(keras.layers.Layer):
    """A convolution whose filters are not shared: every output position has its own, and its own biases.

    As the `local` layers of cuda-convnet. Stride 1. Input [b, h, w, c], output [b, rows, columns, filters];
    `kernel` is [rows, columns, size * size * c, filters], `bias` [rows, columns, filters].
    kernel_size: one int, for a square. padding: "valid" or "same".
    kernel_initializer: None draws a truncated normal with deviation sqrt(2 / inputs of one filter), He et al.
    2015; Keras's own scaled initialisers would take the positions for a receptive field.
    """

    def __init__(self, filters, kernel_size, *, padding="valid", activation=None, kernel_initializer=None,
                 bias_initializer="zeros", **kwargs):
        super().__init__(**kwargs)
        if padding not in ("valid", "same"):
            raise ValueError(f"padding={padding!r} of layer {self.name!r}: must be 'valid' or 'same'")
        self.filters, self.kernel_size, self.padding = filters, kernel_size, padding
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, input_shape):
        _, rows, columns, filters = self.compute_output_shape(input_shape)
        if rows < 1 or columns < 1:
            raise ValueError(
                f"layer {self.name!r} would shrink its input of {input_shape[1]}x{input_shape[2]} to nothing "
                f"with a {self.kernel_size}x{self.kernel_size} kernel; use padding='same' or larger images"
            )
        inputs = self.kernel_size**2 * input_shape[-1]
        draw = self.kernel_initializer or keras.initializers.TruncatedNormal(stddev=math.sqrt(2 / inputs))
        place = (rows, columns)
        self.kernel = self.add_weight(name="kernel", shape=(*place, inputs, filters), initializer=draw)
        self.bias = self.add_weight(name="bias", shape=(*place, filters), initializer=self.bias_initializer)

    def compute_output_shape(self, input_shape):
        lost = self.kernel_size - 1 if self.padding == "valid" else 0
        return (input_shape[0], input_shape[1] - lost, input_shape[2] - lost, self.filters)

    def call(self, inputs):
        rows, columns, depth, filters = self.kernel.shape
        # One matrix product a position. Position-major, since einsum's own order took 1.3 times as long.
        patches = tf.transpose(tf.reshape(self._patches(inputs), [-1, rows * columns, depth]), [1, 0, 2])
        kernel = tf.reshape(tf.convert_to_tensor(self.kernel), [rows * columns, depth, filters])
        outputs = tf.transpose(tf.matmul(patches, kernel), [1, 0, 2])
        return self.activation(tf.reshape(outputs, [-1, rows, columns, filters]) + self.bias)

    def _patches(self, images):
        """[b, h, w, c] to [b, rows, columns, size * size * c]."""
        size, height, width = self.kernel_size, images.shape[1], images.shape[2]
        before = (size - 1) // 2 if self.padding == "same" else 0

        @tf.custom_gradient
        def extract(x):
            def gradient(flow):
                # TensorFlow's own is a sparse product, which GPUs refuse when they must be deterministic.
                parts = []
                for k, part in enumerate(tf.split(flow, size * size, axis=-1)):
                    row, column = divmod(k, size)
                    around = [[row, size - 1 - row], [column, size - 1 - column]]
                    parts.append(tf.pad(part, [[0, 0], *around, [0, 0]]))
                return tf.add_n(parts)[:, before : before + height, before : before + width]

            ones = [1, 1, 1, 1]
            return tf.image.extract_patches(x, [1, size, size, 1], ones, ones, self.padding.upper()), gradient

        return extract(images)


class Dropout(keras.layers.Layer):
    """In training, sets a fraction `rate` of the inputs to 0 and multiplies the others by 1 / (1 - rate).

    The mask of a row is a function of (seed, step, layer name, row of the global batch): the same on any
    number of replicas and micro-batches, and again after a resume, with no state to save. Hence the name is
    required; a layer applied twice in one step draws the same mask twice. Any shape [b, ...], static but for
    the batch.
    noise_shape: as of Keras's layer, the mask's shape, (None, 1, 1, 1) to drop whole rows (stochastic depth);
    None is the input's size, and so is the first, the batch's.
    """

    def __init__(self, rate, *, name, noise_shape=None, **kwargs):
        super().__init__(name=name, **kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"rate={rate} of Dropout {name!r}: must be at least 0 and below 1")
        if noise_shape is not None and (noise_shape[0] is not None or set(noise_shape[1:]) - {None, 1}):
            raise ValueError(f"noise_shape={noise_shape} of Dropout {name!r}: must be None first, then None or 1")
        self.rate, self.noise_shape = rate, tuple(noise_shape) if noise_shape else None

    def build(self, input_shape):
        if None in input_shape[1:]:
            raise ValueError(f"Dropout {self.name!r} got {input_shape}: only the batch size may be unknown")
        if self.noise_shape and len(self.noise_shape) != len(input_shape):
            raise ValueError(f"noise_shape={self.noise_shape} of Dropout {self.name!r}: must be as long as "
                             f"{input_shape}")

    def compute_output_shape(self, input_shape):
        return input_shape

    def call(self, inputs, training=False):
        if not training or self.rate == 0:
            return inputs
        context = _current_step(self)
        drawn = [size or inputs.shape[1 + k] for k, size in enumerate((self.noise_shape or inputs.shape)[1:])]
        units = math.prod(drawn)
        counts = -(-units // 4)  # a row takes whole counts of the generator, to be found by its number
        # Steps are consecutive keys: to Philox, independent streams. 62 bits, so that adding cannot overflow.
        digest = hashlib.sha256(f"{context.seed} {self.name}".encode()).digest()
        key = tf.cast(context.step, tf.int64) + (int.from_bytes(digest[:8], "little") >> 2)
        count = tf.cast(context.first_row, tf.int64) * counts
        # Integers, since XLA and TensorFlow's own kernels make different fractions of the same bits.
        bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
            shape=[tf.shape(inputs)[0] if inputs.shape[0] is None else inputs.shape[0], counts * 4],
            key=tf.cast(key, tf.uint64)[None],
            counter=tf.cast(tf.stack([count, tf.zeros_like(count)]), tf.uint64),
            alg=_PHILOX,
            dtype=tf.uint32,
        )
        keep = tf.reshape(bits[:, :units] >= int(self.rate * 2**32), [-1, *drawn])
        return tf.where(keep, inputs * (1 / (1 - self.rate)), tf.zeros([], inputs.dtype))


class BatchNormalization(keras.layers.Layer):
    """Normalises the last axis of [b, ..., C] by mean and variance over the others (Ioffe and Szegedy 2015).

    In training the statistics are the batch's, in float32 whatever the compute dtype. `synchronized`: of all
    replicas together, which must hold equally many rows, by one all-reduce forward and one backward; else of
    this replica. In inference, and when not `trainable`, they are the moving statistics.
    The moving statistics become moving * momentum + batch * (1 - momentum), the variance divided by n, not
    n - 1, as in Keras. They are not assigned but appended to `context.updates` (see `replica_step`);
    unsynchronised values differ between replicas, and averaging them is the trainer's part.
    Variables as in Keras: `gamma`, `beta`, `moving_mean`, `moving_variance`, float32 [C]. gain: gamma without `scale`.
    """

    def __init__(self, momentum=0.99, epsilon=1e-3, synchronized=True, center=True, scale=True, gain=1.0, **kwargs):
        super().__init__(**kwargs)
        self.momentum, self.epsilon, self.synchronized = momentum, epsilon, synchronized
        self.center, self.scale, self.gain = center, scale, gain

    def build(self, input_shape):
        def weight(name, initializer, **options):
            options |= {"dtype": "float32", "autocast": False}
            return self.add_weight(name=name, shape=input_shape[-1:], initializer=initializer, **options)

        # Central storage accepts an assignment in replica context only of variables that combine values.
        moving = {"trainable": False, "aggregation": "only_first_replica"}
        self.gamma = weight("gamma", "ones") if self.scale else None
        self.beta = weight("beta", "zeros") if self.center else None
        self.moving_mean = weight("moving_mean", "zeros", **moving)
        self.moving_variance = weight("moving_variance", "ones", **moving)

    def compute_output_shape(self, input_shape):
        return input_shape

    def call(self, inputs, training=False):
        channels = inputs.shape[-1]
        gamma = tf.convert_to_tensor(self.gamma) if self.scale else tf.fill([channels], self.gain)
        beta = tf.convert_to_tensor(self.beta) if self.center else tf.zeros([channels])
        moving_mean = tf.convert_to_tensor(self.moving_mean)
        x = inputs if len(inputs.shape) == 4 else tf.reshape(inputs, [-1, 1, 1, channels])
        if training and self.trainable:
            context, replica = _current_step(self), tf.distribute.get_replica_context()
            if self.synchronized and replica is not None and replica.num_replicas_in_sync > 1:
                y, mean, variance = batch_statistics.normalize_over_replicas(
                    x, gamma, beta, moving_mean, self.epsilon)
            else:
                y, mean, variance = batch_statistics.normalize_alone(x, gamma, beta, self.epsilon)
            for variable, value in (self.moving_mean, mean), (self.moving_variance, variance):
                old = tf.convert_to_tensor(context.latest(variable))
                context.update(variable, tf.stop_gradient(old * self.momentum + value * (1 - self.momentum)))
        else:
            moving_variance = tf.convert_to_tensor(self.moving_variance)
            y = batch_statistics.normalize_by(x, gamma, beta, moving_mean, moving_variance, self.epsilon)
        return y if len(inputs.shape) == 4 else tf.reshape(y, tf.shape(inputs))
