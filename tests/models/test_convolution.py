"""The filters' gradient by products: the same as TensorFlow's, and taken only where it is the faster one."""
import keras
import numpy as np
import pytest
import tensorflow as tf

import graphs
from models import convolution
from trainer import devices, replica_programs


@pytest.mark.parametrize("height, width, dropped", [
    (8, 8, 0), (7, 5, 0), (3, 3, 0), (2, 8, 0), (1, 4, 0), (1, 1, 0), (7, 7, 1), (3, 5, 1), (2, 3, 1)])
def test_products_are_the_gradient(height, width, dropped):
    """Against TensorFlow's own, in float32: other order of the same sums.

    Mutations: the shift of dy's slice the wrong way round; rows and columns of the result exchanged."""
    random = np.random.default_rng(0)
    x = random.normal(size=(6, height, width, 4)).astype("f")
    dy = random.normal(size=(6, height - dropped, width - dropped, 5)).astype("f")
    want = tf.raw_ops.Conv2DBackpropFilter(
        input=x, filter_sizes=[3, 3, 4, 5], out_backprop=dy, strides=[1] * 4, padding="EXPLICIT",
        explicit_paddings=[0, 0, 1, 1 - dropped, 1, 1 - dropped, 0, 0])
    np.testing.assert_allclose(convolution.by_products(tf.constant(x), tf.constant(dy)), want, atol=1e-4)


def gradients(layer, x, kernel=None, strategy="/cpu:0"):
    """(the operations that run, dx, dfilters) of the sum of squares of the layer's output, as one replica computes them."""
    strategy = tf.distribute.OneDeviceStrategy(strategy) if isinstance(strategy, str) else strategy
    kernel = layer.kernel if kernel is None else kernel

    def replica(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.square(tf.cast(layer(x), tf.float32)))
        return tape.gradient(loss, [x, kernel.value])

    run = tf.function(lambda x: strategy.run(replica, [x]) if strategy else replica(x), autograph=False)
    return graphs.needed(run.get_concrete_function(x).outputs), *run(x)


def built(policy="mixed_bfloat16", kind=convolution.Conv2D, side=4, channels=32, filters=32, size=3, **options):
    keras.utils.set_random_seed(3)
    layer = kind(filters, size, **{"padding": "same", **options}, dtype=policy)
    layer.build((None, side, side, channels))
    return layer


def examples(side=4, dtype=tf.bfloat16, channels=32):
    return tf.cast(np.random.default_rng(1).normal(size=(16, side, side, channels)), dtype)


def distance(found, wanted):
    """The norm of the difference, relative to what is wanted."""
    return float(tf.norm(found - wanted) / tf.norm(wanted))


def test_a_small_map_in_bfloat16_on_a_cpu_learns_by_products():
    """Its output and its gradients are those of Keras's layer, its variables have the same names.

    Mutation: products of float32 copies."""
    ours, keras_own = built(name="a"), built(kind=keras.layers.Conv2D, name="a")
    assert [v.path for v in ours.variables] == [v.path for v in keras_own.variables]
    x = examples()
    np.testing.assert_array_equal(tf.cast(ours(x), tf.float32), tf.cast(keras_own(x), tf.float32))
    operations, dx, dfilters = gradients(ours, x)
    assert "Conv2DBackpropFilter" not in operations and "MatMul" in operations
    wanted_operations, want_dx, want_dfilters = gradients(keras_own, x)
    assert "Conv2DBackpropFilter" in wanted_operations
    np.testing.assert_array_equal(tf.cast(dx, tf.float32), tf.cast(want_dx, tf.float32))
    np.testing.assert_array_equal(tf.cast(tf.cast(dfilters, tf.bfloat16), tf.float32), dfilters)
    exact = tf.raw_ops.Conv2DBackpropFilter(input=tf.cast(x, tf.float32), filter_sizes=dfilters.shape, strides=[1] * 4, padding="SAME",
                                            out_backprop=2 * tf.cast(ours(x), tf.float32))
    assert distance(dfilters, exact) < 5e-3, "a rounding or two to bfloat16"
    assert distance(want_dfilters, exact) < 2e-2, "Keras's may be worse: without AVX512_BF16 its sums are in bfloat16"
    if devices.has_fast_bfloat16("CPU"):
        assert distance(dfilters, want_dfilters) < 2e-3, "two roundings of the same sums to bfloat16 differ in less"


@pytest.mark.parametrize("why, changes, side", [
    ("float32 gains nothing", {"policy": "float32"}, 4),
    ("neither does a large map", {}, 9),
    ("nor one with few filters", {"filters": 16}, 4),
    ("nor one of few channels", {"channels": 16}, 4),
    ("a stride is another sum", {"strides": 2}, 4),
    ("a dilation too", {"dilation_rate": 2}, 4),
    ("groups too", {"groups": 2}, 4),
    ("and another padding", {"padding": "valid"}, 4),
    ("1x1 is a product already", {"size": 1}, 4)])
def test_everything_else_is_tensorflows_own(why, changes, side):
    """Mutations: each condition left out."""
    layer = built(side=side, **changes)
    x = examples(side, tf.float32 if "policy" in changes else tf.bfloat16, changes.get("channels", 32))
    operations, *_ = gradients(layer, x)
    assert "MatMul" not in operations, why


def test_no_other_device_learns_by_products():
    """Mutations: not asked whether it is a CPU; replica_programs without its worker_devices."""
    operations, *_ = gradients(built(), examples(), strategy=None)
    assert "MatMul" not in operations
    strategy = replica_programs.ReplicaPrograms(2)
    gradients(built(), examples(), strategy=strategy)
    assert "MatMul" not in graphs.needed(strategy.programs[0].concrete.outputs)


@pytest.mark.parametrize("side", [4, 5, 9, 10])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_even_leaves_out_what_a_pooling_drops(side, policy):
    """Pooled, output and gradients are those of the whole map; in bfloat16, as close to those in float32.

    Mutation: the padding taken from the first row in place of the last."""
    def both(policy, **options):
        x = examples(side, tf.float32 if policy == "float32" else tf.bfloat16)
        layer, pool = built(policy, side=side, **options), keras.layers.MaxPooling2D(2, dtype=policy)
        network = keras.Sequential([keras.Input((side, side, 32), dtype=x.dtype), layer, pool])
        return [tf.cast(part, tf.float32) for part in gradients(network, x, kernel=layer.kernel)[1:]]

    exact = both("float32", kind=keras.layers.Conv2D)
    for found, whole, wanted in zip(both(policy, even=True), both(policy, kind=keras.layers.Conv2D), exact, strict=True):
        assert distance(found, wanted) < 1.05 * distance(whole, wanted) + 1e-5
        if policy == "float32" or devices.has_fast_bfloat16("CPU"):  # else TensorFlow's sums of the whole map are in bfloat16
            assert distance(found, whole) < (1e-5 if policy == "float32" else 3e-3)
    copy = convolution.Conv2D.from_config(built(even=True).get_config())
    assert copy.compute_output_shape((None, 7, 10, 32)) == (None, 6, 10, 32)
    assert copy.compute_output_shape((None, 1, 10, 32)) == (None, 1, 10, 32), "nothing is no map"


def test_even_is_for_what_it_says():
    with pytest.raises(ValueError, match="even=True is for 3x3, stride 1, SAME; got "):
        built(strides=2, even=True)
