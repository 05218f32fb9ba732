"""Layers that Keras lacks, or that must give the same numbers on any number of replicas.

Dropout draws its mask from (seed, step, layer name, global row), never from the replica. Batch normalisation sums its
statistics over all replicas, and hands its new moving statistics to the trainer instead of writing them, so that a step
whose gradient is not finite leaves no trace. Both learn where they are from `replica_step`:

    with replica_step(seed=1, step=step, first_row=first_row) as context:
        outputs = model(images, training=True)
    for variable, value in context.updates: ...      # the trainer assigns them, if the step is finite

Outside training (`training=False`) no context is needed. All sizes but the batch are static, which XLA and TPUs ask for.
"""

import contextlib
import dataclasses
import hashlib
import math
import threading

import keras
import numpy as np
import tensorflow as tf

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

    seed: int, of the run. step, first_row: integer scalars (tensors or ints), see `ReplicaStep`. Enter it inside the
    function given to `strategy.run`: it is seen only by the thread that entered it.
    updates: for a further micro-batch of the same step, the `updates` of the one before, which are continued in place.
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
            f"{type(layer).__name__} {layer.name!r} was called with training=True outside a replica_step; enter "
            f"`with models.layers.replica_step(seed=..., step=..., first_row=...):` in the same thread, around the call"
        )
    return context


class LocalResponseNormalization(keras.layers.Layer):
    """y[c] = x[c] * (bias + alpha * sum of x[j]^2 for |j - c| <= depth_radius) ** -beta, over the last axis.

    Krizhevsky et al. 2012, section 3.3, in the parameters of `tf.nn.local_response_normalization`. The sum over
    neighbours is a product with a banded [C, C] matrix (a 1x1 convolution, which has a bfloat16 kernel everywhere) and
    the gradient is written out: much the faster (see `_normalize`). Squares and their sum are of the compute dtype, the
    rest is float32, so the result is rounded to bfloat16 once. Shape: [b, h, w, C] in and out.
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
        band = tf.constant(self.alpha * near[None, None], dtype)

        def neighbours(x):
            return tf.nn.conv2d(x, band, strides=1, padding="SAME")

        @tf.custom_gradient
        def normalize(x):
            # With s = base ** -beta: dy/dx = s dx - 2 beta x * (band @ (dy * y / base)).
            base = self.bias + tf.cast(neighbours(tf.square(x)), tf.float32)
            if self.beta == 0.75:  # two square roots cost a third of a power
                inverse_root = tf.math.rsqrt(base)
                scale, inverse = inverse_root * tf.sqrt(inverse_root), tf.square(inverse_root)
            else:
                scale, inverse = tf.pow(base, -self.beta), tf.math.reciprocal(base)
            y = tf.cast(tf.cast(x, tf.float32) * scale, x.dtype)
            scale, inverse = tf.cast(scale, x.dtype), tf.cast(inverse, x.dtype)

            def gradient(dy):
                return dy * scale - tf.cast(2 * self.beta, x.dtype) * x * neighbours(dy * y * inverse)

            return y, gradient

        return tf.cast(normalize(tf.cast(inputs, dtype)), inputs.dtype)


class LocallyConnected2D(keras.layers.Layer):
    """A convolution whose filters are not shared: every output position has its own, and its own biases.

    As the `local` layers of cuda-convnet. Stride 1. Input [b, h, w, c], output [b, rows, columns, filters]; `kernel` is
    [rows, columns, size * size * c, filters], `bias` [rows, columns, filters].
    kernel_initializer: None draws a truncated normal of deviation sqrt(2 / inputs of one filter), He et al. 2015; Keras's
    own scaled initialisers would take the positions for a receptive field.
    """

    def __init__(
        self,
        filters,
        kernel_size,
        *,
        padding="valid",
        activation=None,
        kernel_initializer=None,
        bias_initializer="zeros",
        **kwargs,
    ):
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
                f"layer {self.name!r} would shrink its input of {input_shape[1]}x{input_shape[2]} to nothing with a "
                f"{self.kernel_size}x{self.kernel_size} kernel; use padding='same' or larger images"
            )
        inputs = self.kernel_size**2 * input_shape[-1]
        initializer = self.kernel_initializer or keras.initializers.TruncatedNormal(stddev=math.sqrt(2 / inputs))
        self.kernel = self.add_weight(
            name="kernel", shape=(rows, columns, inputs, filters), initializer=initializer
        )
        self.bias = self.add_weight(
            name="bias", shape=(rows, columns, filters), initializer=self.bias_initializer
        )

    def compute_output_shape(self, input_shape):
        lost = self.kernel_size - 1 if self.padding == "valid" else 0
        return (input_shape[0], input_shape[1] - lost, input_shape[2] - lost, self.filters)

    def call(self, inputs):
        rows, columns, depth, filters = self.kernel.shape
        size = [1, self.kernel_size, self.kernel_size, 1]
        patches = tf.image.extract_patches(inputs, size, [1, 1, 1, 1], [1, 1, 1, 1], self.padding.upper())
        # One matrix product a position. Position-major, since einsum's own order took 1.4 times as long.
        patches = tf.transpose(tf.reshape(patches, [-1, rows * columns, depth]), [1, 0, 2])
        kernel = tf.reshape(tf.convert_to_tensor(self.kernel), [rows * columns, depth, filters])
        outputs = tf.transpose(tf.matmul(patches, kernel), [1, 0, 2])
        return self.activation(tf.reshape(outputs, [-1, rows, columns, filters]) + self.bias)


class Dropout(keras.layers.Layer):
    """Sets a fraction `rate` of the inputs to 0 and multiplies the others by 1 / (1 - rate), in training only.

    The mask of a row is a function of (seed, step, layer name, row of the global batch): the same on any number of
    replicas and micro-batches, and again after a resume, with no state to save. Hence the name is required; a layer
    applied twice in one step draws the same mask twice. Any shape [b, ...], static but for the batch.
    """

    def __init__(self, rate, *, name, **kwargs):
        super().__init__(name=name, **kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"rate={rate} of Dropout {name!r}: must be at least 0 and below 1")
        self.rate = rate

    def build(self, input_shape):
        if None in input_shape[1:]:
            raise ValueError(f"Dropout {self.name!r} got shape {input_shape}: all sizes but the batch must be known")

    def compute_output_shape(self, input_shape):
        return input_shape

    def call(self, inputs, training=False):
        if not training or self.rate == 0:
            return inputs
        context = _current_step(self)
        units = math.prod(inputs.shape[1:])
        counts = -(-units // 4)  # a row takes whole counts of the generator, so that rows can be found by number
        # Steps are consecutive keys: Philox makes each an independent stream. 62 bits, so that adding cannot overflow.
        digest = hashlib.sha256(f"{context.seed} {self.name}".encode()).digest()
        key = tf.cast(context.step, tf.int64) + (int.from_bytes(digest[:8], "little") >> 2)
        row = tf.cast(context.first_row, tf.int64) * counts
        uniform = tf.raw_ops.StatelessRandomUniformV2(
            shape=[tf.shape(inputs)[0] if inputs.shape[0] is None else inputs.shape[0], counts * 4],
            key=tf.cast(key, tf.uint64)[None],
            counter=tf.cast(tf.stack([row, tf.zeros_like(row)]), tf.uint64),
            alg=_PHILOX,
        )
        keep = tf.reshape(uniform[:, :units] >= self.rate, tf.shape(inputs))
        return tf.where(keep, inputs * (1 / (1 - self.rate)), tf.zeros([], inputs.dtype))


class BatchNormalization(keras.layers.Layer):
    """Normalises the last axis by mean and variance of all others (Ioffe and Szegedy 2015); any shape [b, ..., C].

    In training the statistics are the batch's, in float32 whatever the compute dtype. `synchronized`: of all replicas
    together, which must hold equally many rows, by one all-reduce forward and one backward; else of this replica alone.
    The moving statistics become moving * momentum + batch * (1 - momentum), with the variance divided by n, not n - 1,
    as in Keras. They are not assigned but appended to `context.updates` (see `replica_step`); unsynchronised values
    differ between replicas, and averaging them is the trainer's part. Otherwise, and when not `trainable`, the moving
    statistics are used. Variables as in Keras: `gamma`, `beta`, `moving_mean`, `moving_variance`, float32 of shape [C].
    """

    def __init__(
        self, momentum=0.99, epsilon=1e-3, synchronized=True, center=True, scale=True, **kwargs
    ):
        super().__init__(**kwargs)
        self.momentum, self.epsilon, self.synchronized = momentum, epsilon, synchronized
        self.center, self.scale = center, scale

    def build(self, input_shape):
        def weight(name, initializer, **options):
            return self.add_weight(
                name=name,
                shape=input_shape[-1:],
                initializer=initializer,
                dtype="float32",
                autocast=False,
                **options,
            )

        # Central storage accepts an assignment in replica context only of variables that say how to combine values.
        moving = {"trainable": False, "aggregation": "only_first_replica"}
        self.gamma = weight("gamma", "ones") if self.scale else None
        self.beta = weight("beta", "zeros") if self.center else None
        self.moving_mean = weight("moving_mean", "zeros", **moving)
        self.moving_variance = weight("moving_variance", "ones", **moving)

    def compute_output_shape(self, input_shape):
        return input_shape

    def call(self, inputs, training=False):
        channels = inputs.shape[-1]
        gamma = tf.convert_to_tensor(self.gamma) if self.scale else tf.ones([channels])
        beta = tf.convert_to_tensor(self.beta) if self.center else tf.zeros([channels])
        # The fused operation takes four axes; it is several times faster than the same in single operations.
        x = inputs if len(inputs.shape) == 4 else tf.reshape(inputs, [-1, 1, 1, channels])
        if not (training and self.trainable):
            moving = tf.convert_to_tensor(self.moving_mean), tf.convert_to_tensor(self.moving_variance)
            y = _normalize_by(x, gamma, beta, *moving, self.epsilon)
        else:
            context = _current_step(self)
            replica = tf.distribute.get_replica_context()
            if self.synchronized and replica is not None and replica.num_replicas_in_sync > 1:
                shift = tf.stop_gradient(tf.convert_to_tensor(self.moving_mean))
                y, mean, variance = _normalize_over_replicas(x, gamma, beta, shift, self.epsilon)
            else:
                y, mean, variance = _normalize_alone(x, gamma, beta, self.epsilon)
            for variable, value in (self.moving_mean, mean), (self.moving_variance, variance):
                old = tf.convert_to_tensor(context.latest(variable))
                context.update(variable, tf.stop_gradient(old * self.momentum + value * (1 - self.momentum)))
        return y if len(inputs.shape) == 4 else tf.reshape(y, tf.shape(inputs))


def _rows(x):
    """Number of values a channel of x [b, h, w, C] has, float32."""
    return tf.cast(tf.size(x) // x.shape[-1], tf.float32)


def _normalize_by(x, gamma, beta, mean, variance, epsilon):
    """(x - mean) * gamma / sqrt(variance + epsilon) + beta: x [b, h, w, C], the others float32 [C]."""
    return tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=epsilon, is_training=False
    ).y


def _normalize_alone(x, gamma, beta, epsilon):
    """Normalises x [b, h, w, C] by its own statistics; returns y, mean [C], variance [C]. Two passes: no cancellation."""
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon, is_training=True
    )
    rows = _rows(x)
    return y, mean, variance * ((rows - 1) / rows)  # the operation divides by n - 1, Keras by n


def _normalize_over_replicas(x, gamma, beta, shift, epsilon):
    """Normalises x [b, h, w, C] by the statistics of all replicas; returns y, mean [C], variance [C], the same on all.

    Each replica's own mean and variance come from two passes; only these are summed, so that E[m^2] - E[m]^2 loses
    digits solely where means of whole replicas lie far from `shift` [C] (the moving mean), which is the same on all.
    The gradient is that of the sum of all replicas' losses, written out, in the fused operations:
    dx = dx of fixed statistics - gamma / sqrt(variance + epsilon) * (mean(dy) + x_hat * mean(dy * x_hat)).
    dgamma and dbeta are this replica's part, like the gradient of any other weight.
    """
    replica = tf.distribute.get_replica_context()

    def mean_over_replicas(first, second):
        both = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack([first, second]))
        return tf.unstack(both / replica.num_replicas_in_sync)

    @tf.custom_gradient
    def normalize(x, gamma, beta):
        _, mean, variance = _normalize_alone(x, gamma, beta, epsilon)
        mean, square = mean_over_replicas(mean - shift, variance + tf.square(mean - shift))
        variance = tf.maximum(square - tf.square(mean), 0.0)
        mean += shift

        def gradient(dy, *_):  # nothing learns through the statistics that are returned: see stop_gradient above
            dx, dgamma, dbeta, *_ = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=dy, x=x, scale=gamma, reserve_space_1=mean, reserve_space_2=variance,
                reserve_space_3=[], epsilon=epsilon, is_training=False,
            )
            mean_dgamma, mean_dbeta = mean_over_replicas(dgamma / _rows(x), dbeta / _rows(x))
            slope = gamma * tf.math.rsqrt(variance + epsilon)
            dx -= _normalize_by(x, slope * mean_dgamma, slope * mean_dbeta, mean, variance, epsilon)
            return dx, dgamma, dbeta

        return (_normalize_by(x, gamma, beta, mean, variance, epsilon), mean, variance), gradient

    return normalize(x, gamma, beta)
