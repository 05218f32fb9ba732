"""Normalisation of a batch by mean and variance a channel: given, its own, or those of all replicas together.

The arithmetic under `models.layers.BatchNormalization`, in TensorFlow's fused operations, which read
bfloat16, reckon in float32 and took a quarter of the time of the same in single operations (CPU, 2 cores).
x is [b, h, w, C] throughout; gamma, beta, mean and variance are float32 [C]; variances are divided by n.
"""

import tensorflow as tf
from tensorflow.python.framework import config as framework  # tf.config has no getter for determinism


def normalize_by(x, gamma, beta, mean, variance, epsilon):
    """(x - mean) * gamma / sqrt(variance + epsilon) + beta."""
    return tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=epsilon, is_training=False
    ).y


def normalize_alone(x, gamma, beta, epsilon):
    """Normalises x by its own statistics, from two passes (no cancellation); returns y, mean, variance."""
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon, is_training=True
    )
    rows = _rows(x)
    return y, mean, variance * ((rows - 1) / rows)  # the operation divides by n - 1


def normalize_over_replicas(x, gamma, beta, shift, epsilon):
    """Normalises x by the statistics of all replicas, of equally many rows each; returns y, mean, variance.

    Only means and variances of replicas are summed, so that E[m^2] - E[m]^2 loses digits solely where the
    mean of a whole replica lies far from `shift` [C], which must be the same on all: the moving mean.
    The gradient is that of the sum of all replicas' losses (Ioffe and Szegedy 2015, section 3):
    dx = gamma / sqrt(variance + epsilon) * (dy - mean(dy) - x_hat * mean(dy * x_hat)), means over replicas;
    dgamma and dbeta are this replica's part of the sum, like the gradients of all other weights.
    """
    replica = tf.distribute.get_replica_context()

    def mean_over_replicas(first, second):
        both = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack([first, second]))
        return tf.unstack(both / replica.num_replicas_in_sync)

    @tf.custom_gradient
    def normalize(x, gamma, beta):
        _, mean, variance = normalize_alone(x, gamma, beta, epsilon)
        mean, square = mean_over_replicas(mean - shift, variance + tf.square(mean - shift))
        variance = tf.maximum(square - tf.square(mean), 0.0)
        mean += shift

        def gradient(dy, *_):  # of y only: nothing learns through the statistics
            dx, dgamma, dbeta = gradient_by(dy, x, gamma, mean, variance, epsilon)
            dgamma_mean, dbeta_mean = mean_over_replicas(dgamma / _rows(x), dbeta / _rows(x))
            slope = gamma * tf.math.rsqrt(variance + epsilon)
            # slope * (x_hat * dgamma_mean + dbeta_mean), in one operation
            dx -= normalize_by(x, slope * dgamma_mean, slope * dbeta_mean, mean, variance, epsilon)
            return dx, dgamma, dbeta

        return (normalize_by(x, gamma, beta, mean, variance, epsilon), mean, variance), gradient

    return normalize(x, gamma, beta)


def gradient_by(dy, x, gamma, mean, variance, epsilon):
    """dx, dgamma, dbeta of `normalize_by`, for given mean and variance."""
    if framework.is_op_determinism_enabled() and tf.config.list_logical_devices("GPU"):
        return gradient_by_single_operations(dy, x, gamma, mean, variance, epsilon)
    return tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=dy,
        x=x,
        scale=gamma,
        reserve_space_1=mean,
        reserve_space_2=variance,
        reserve_space_3=[],
        epsilon=epsilon,
        is_training=False,
    )[:3]


def gradient_by_single_operations(dy, x, gamma, mean, variance, epsilon):
    """As `gradient_by`, for GPUs that must be deterministic: there TensorFlow refuses the fused operation."""
    dy32, inverse = tf.cast(dy, tf.float32), tf.math.rsqrt(variance + epsilon)
    x_hat = (tf.cast(x, tf.float32) - mean) * inverse
    dx = tf.cast(dy32 * (gamma * inverse), x.dtype)
    return dx, tf.reduce_sum(dy32 * x_hat, [0, 1, 2]), tf.reduce_sum(dy32, [0, 1, 2])


def _rows(x):
    """Values that a channel of x has, float32."""
    return tf.cast(tf.size(x) // x.shape[-1], tf.float32)
