"""The filters' gradient by products: the same as TensorFlow's, and taken only where it is the faster one."""
import keras
import numpy as np
import pytest
import tensorflow as tf

from models import filter_gradient

CPU = "/cpu:0"


@pytest.mark.parametrize("height, width", [(8, 8), (7, 5), (3, 3), (2, 8), (1, 4), (1, 1)])
def test_products_are_the_gradient(height, width):
    """Against TensorFlow's own, in float32: other order of the same sums.

    Mutations: the shift of dy's slice the wrong way round; rows and columns of the result exchanged."""
    random = np.random.default_rng(0)
    x, dy = random.normal(size=(6, height, width, 4)).astype("f"), random.normal(size=(6, height, width, 5)).astype("f")
    want = tf.raw_ops.Conv2DBackpropFilter(
        input=x, filter_sizes=[3, 3, 4, 5], out_backprop=dy, strides=[1] * 4, padding="SAME")
    np.testing.assert_allclose(filter_gradient.by_products(tf.constant(x), tf.constant(dy)), want, atol=1e-4)


def gradients(layer, x, device=CPU):
    """(the operations of the graph, dx, dfilters) of the sum of squares of the layer's output, as one replica computes them."""
    strategy = tf.distribute.OneDeviceStrategy(device)

    @tf.function
    def run(x):
        def replica(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(tf.square(tf.cast(layer(x), tf.float32)))
            return tape.gradient(loss, [x, layer.kernel.value])
        return strategy.run(replica, [x])

    graph = run.get_concrete_function(x).graph
    return {operation.type for operation in graph.get_operations()}, *run(x)


def built(policy="mixed_bfloat16", kind=filter_gradient.Conv2D, side=4, filters=32, size=3, **options):
    keras.utils.set_random_seed(3)
    layer = kind(filters, size, padding="same", dtype=policy, **options)
    layer.build((None, side, side, 32))
    return layer


def examples(side=4, dtype=tf.bfloat16):
    return tf.cast(np.random.default_rng(1).normal(size=(16, side, side, 32)), dtype)


def test_a_small_map_in_bfloat16_on_a_cpu_learns_by_products():
    """Its output, its gradients and its names are those of Keras's layer.

    Mutation: filters' gradient not rounded to what bfloat16 products give (computed from float32 copies)."""
    ours, keras_own = built(), built(kind=keras.layers.Conv2D)
    x = examples()
    np.testing.assert_array_equal(tf.cast(ours(x), tf.float32), tf.cast(keras_own(x), tf.float32))
    operations, dx, dfilters = gradients(ours, x)
    assert "Conv2DBackpropFilter" not in operations and "MatMul" in operations
    wanted_operations, want_dx, want_dfilters = gradients(keras_own, x)
    assert "Conv2DBackpropFilter" in wanted_operations
    np.testing.assert_array_equal(tf.cast(dx, tf.float32), tf.cast(want_dx, tf.float32))
    assert dfilters.dtype == want_dfilters.dtype == tf.float32
    difference = tf.norm(dfilters - want_dfilters) / tf.norm(want_dfilters)
    assert float(difference) < 2e-3, "two roundings of the same sums to bfloat16 differ in less"


@pytest.mark.parametrize("why, changes, side", [
    ("float32 gains nothing", {"policy": "float32"}, 4),
    ("neither does a large map", {}, 9),
    ("nor one with few filters", {"filters": 16}, 4),
    ("a stride is another sum", {"strides": 2}, 4),
    ("a dilation too", {"dilation_rate": 2}, 4),
    ("groups too", {"groups": 2}, 4),
    ("1x1 is a product already", {"size": 1}, 4)])
def test_everything_else_is_tensorflows_own(why, changes, side):
    """Mutations: each condition left out."""
    layer = built(side=side, **changes)
    operations, *_ = gradients(layer, examples(side, tf.float32 if "policy" in changes else tf.bfloat16))
    assert "MatMul" not in operations, why
