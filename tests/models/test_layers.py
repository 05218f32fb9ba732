"""Each layer against a plain reference, and the laws: the same numbers on any number of replicas, nothing
written.

Mutations that turn these red: the mask's counter without first_row; the key without step or name; the divisor
n - 1; the gradient of LRN without its second term; an assignment in the forward pass; updates that start
anew.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from models import batch_statistics, layers


def step_context(step=0, first_row=0, seed=5, updates=None):
    return layers.replica_step(seed=seed, step=step, first_row=first_row, updates=updates)


def normal(*shape, seed=0, mean=0.0):
    return np.random.default_rng(seed).normal(mean, 1, shape).astype(np.float32)


def gradients(function, *inputs):
    """Value and gradients of sum(function(*inputs) * fixed noise)."""
    tensors = [tf.convert_to_tensor(value) for value in inputs]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = function(*tensors)
        noise = tf.cast(normal(*value.shape, seed=9), value.dtype)
        total = tf.reduce_sum(tf.cast(value * noise, tf.float32))
    return value, tape.gradient(total, tensors)


# Local response normalisation


def reference_lrn(x, radius, bias, alpha, beta):
    squares, channels = np.square(x, dtype=np.float64), x.shape[-1]
    sums = [squares[..., max(0, c - radius) : c + radius + 1].sum(-1) for c in range(channels)]
    return x * (bias + alpha * np.stack(sums, -1)) ** -beta


@pytest.mark.parametrize(
    "radius, bias, alpha, beta", [(4, 1.0, 0.001 / 9, 0.75), (2, 2.0, 0.5, 0.75), (0, 1.0, 1.0, 0.5)]
)
def test_lrn_is_its_formula(radius, bias, alpha, beta):
    x = 3 * normal(2, 3, 4, 16)
    layer = layers.LocalResponseNormalization(radius, bias=bias, alpha=alpha, beta=beta)
    np.testing.assert_allclose(layer(x), reference_lrn(x, radius, bias, alpha, beta), rtol=1e-5, atol=1e-6)
    value, (found,) = gradients(layer, x)
    wanted_value, (wanted,) = gradients(
        lambda x: tf.nn.local_response_normalization(x, radius, bias, alpha, beta), x
    )
    np.testing.assert_allclose(value, wanted_value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "dtype, size, roundings, unit",
    [("bfloat16", 3, 1.05, 2**-8), ("bfloat16", 300, 2.5, 2**-8), ("float16", 300, 1.05, 2**-11)],
)
def test_lrn_in_half_precision_rounds_no_more_than_it_must(dtype, size, roundings, unit):
    """Of normalised images: the result, once. Where the sum outweighs the bias, bfloat16 squares and their
    sum count with beta; float16 cannot hold the square of 300 and must not try. `unit` is half a last
    digit."""
    x = tf.cast(size * normal(2, 3, 4, 16), dtype)
    layer = layers.LocalResponseNormalization(4, bias=1.0, alpha=0.001 / 9, beta=0.75, dtype=dtype)
    value, (gradient,) = gradients(layer, x)
    assert value.dtype == gradient.dtype == dtype
    wanted = reference_lrn(tf.cast(x, tf.float32).numpy(), 4, 1.0, 0.001 / 9, 0.75)
    np.testing.assert_allclose(tf.cast(value, tf.float32), wanted, rtol=roundings * unit)
    _, (wanted,) = gradients(
        lambda x: tf.nn.local_response_normalization(x, 4, 1.0, 0.001 / 9, 0.75), tf.cast(x, tf.float32)
    )
    np.testing.assert_allclose(tf.cast(gradient, tf.float32), wanted, atol=4 * unit * np.abs(wanted).max())


# Locally connected


@pytest.mark.parametrize("padding, rows, columns", [("valid", 3, 5), ("same", 5, 7)])
def test_locally_connected_uses_its_own_filter_at_every_position(padding, rows, columns):
    x, before = normal(2, 5, 7, 3), 1 if padding == "same" else 0
    layer = layers.LocallyConnected2D(4, 3, padding=padding, activation="relu", bias_initializer="normal")
    value, (gradient,) = gradients(layer, x)
    kernel, bias = (np.asarray(v) for v in layer.get_weights())
    assert kernel.shape == (rows, columns, 27, 4) and bias.shape == (rows, columns, 4)
    padded = np.pad(x, [(0, 0), (before, before), (before, before), (0, 0)])
    wanted = np.stack([
        np.stack([
            np.maximum(padded[:, i : i + 3, j : j + 3].reshape(2, 27) @ kernel[i, j] + bias[i, j], 0)
            for j in range(columns)
        ], 1)
        for i in range(rows)
    ], 1)
    np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-5)
    assert layer.compute_output_shape((None, 5, 7, 3)) == (None, rows, columns, 4)
    flow, up = np.zeros_like(padded), normal(*wanted.shape, seed=9) * (wanted > 0)
    for i in range(rows):
        for j in range(columns):
            flow[:, i : i + 3, j : j + 3] += (up[:, i, j] @ kernel[i, j].T).reshape(2, 3, 3, 3)
    flow = flow[:, before : before + 5, before : before + 7]
    np.testing.assert_allclose(gradient, flow, rtol=1e-4, atol=1e-5)


def test_locally_connected_with_equal_filters_is_a_convolution():
    x, kernel = normal(2, 6, 6, 3), normal(3, 3, 3, 4, seed=1)
    layer = layers.LocallyConnected2D(4, 3, padding="same")
    layer.build(x.shape)
    layer.kernel.assign(np.broadcast_to(kernel.reshape(1, 1, 27, 4), layer.kernel.shape))
    np.testing.assert_allclose(layer(x), tf.nn.conv2d(x, kernel, 1, "SAME"), rtol=1e-4, atol=1e-5)


def test_locally_connected_keeps_the_scale_of_what_passes_through():
    layer = layers.LocallyConnected2D(64, 3, padding="valid")
    layer.build((None, 8, 8, 32))
    deviation = np.asarray(layer.kernel).std()
    assert deviation == pytest.approx(0.8796 * np.sqrt(2 / 288), rel=0.01)


def test_locally_connected_names_the_layer_that_would_shrink_to_nothing():
    with pytest.raises(ValueError, match="'local3'.*2x2.*3x3.*padding='same'"):
        layers.LocallyConnected2D(4, 3, name="local3")(normal(1, 2, 2, 3))


# Dropout


def masks(shape, parts, step=0, seed=5, name="dropout", rate=0.3):
    """The kept entries of a global batch that is worked on in `parts` equal parts, in reverse order."""
    rows, layer = shape[0] // parts, layers.Dropout(rate, name=name)
    found = []
    for part in reversed(range(parts)):
        with step_context(step, part * rows, seed):
            found.insert(0, layer(np.ones((rows, *shape[1:]), np.float32), training=True).numpy() != 0)
    return np.concatenate(found)


@pytest.mark.parametrize("shape", [(12, 10), (12, 3, 5, 7), (12, 8), (12,)])
def test_dropout_mask_belongs_to_the_row_of_the_global_batch(shape):
    whole = masks(shape, 1)
    for parts in (2, 3, 12):
        np.testing.assert_array_equal(masks(shape, parts), whole)


def test_dropout_mask_is_another_for_another_step_seed_layer_and_row():
    """Kept entries are 70 % of 40,000 within four standard errors (0.009); two masks agree as chance would:
    58 %."""
    whole = masks((100, 400), 1)
    others = [masks((100, 400), 1, **change) for change in ({"step": 1}, {"seed": 6}, {"name": "dropout_1"})]
    for mask in [whole, *others]:
        assert mask.mean() == pytest.approx(0.7, abs=0.0092)
    for other in [*others, np.roll(whole, 1, axis=0), np.roll(whole, 1, axis=1)]:
        assert (whole == other).mean() == pytest.approx(0.58, abs=0.01)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dropout_scales_what_it_keeps_and_the_gradient_alike(dtype):
    layer = layers.Dropout(0.5, name="dropout", dtype=dtype)
    x = tf.cast(normal(6, 9), dtype)
    with step_context():
        value, (gradient,) = gradients(lambda x: layer(x, training=True), x)
    kept = masks((6, 9), 1, rate=0.5)  # whatever the dtype: the mask is drawn in float32
    np.testing.assert_array_equal(tf.cast(value, tf.float32), tf.cast(2 * x, tf.float32) * kept)
    np.testing.assert_array_equal(
        tf.cast(gradient, tf.float32), tf.cast(tf.cast(normal(6, 9, seed=9), dtype) * 2, tf.float32) * kept
    )


def test_dropout_is_the_same_compiled_and_for_any_batch():
    layer = layers.Dropout(0.3, name="dropout")

    def apply(x, step, row):
        with layers.replica_step(seed=5, step=step, first_row=row):
            return layer(x, training=True)

    signature = [tf.TensorSpec([None, 5]), tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.int32)]
    x = np.ones((4, 5), np.float32)
    wanted = apply(x, 7, 8)
    np.testing.assert_array_equal(tf.function(apply, signature)(x, 7, 8), wanted)
    compiled = tf.function(apply, jit_compile=True)
    np.testing.assert_array_equal(compiled(x, tf.constant(7), tf.constant(8)), wanted)


@pytest.mark.parametrize("kind", [lambda: layers.Dropout(0.5, name="layer3"), layers.BatchNormalization])
def test_training_outside_a_replica_step_is_refused(kind):
    x, layer = normal(4, 8), kind()
    layer(x, training=False)
    with pytest.raises(RuntimeError, match=f"'{layer.name}'.*replica_step"):
        layer(x, training=True)
    with step_context():
        layer(x, training=True)
    with pytest.raises(RuntimeError, match="replica_step"):  # the context ended with its block
        layer(x, training=True)


def test_dropout_of_rows_drops_them_whole():
    """noise_shape (None, 1, 1): one draw a row, by its number in the global batch; the mean stays."""
    layer, x = layers.Dropout(0.3, name="rows", noise_shape=(None, 1, 1)), np.ones((4000, 2, 3), np.float32)
    with step_context():
        value = layer(x, training=True).numpy()
    with step_context(first_row=1000):
        part = layer(x[1000:2000], training=True).numpy()
    np.testing.assert_array_equal(value, np.broadcast_to(value[:, :1, :1], value.shape))
    assert (value[:, 0, 0] != 0).mean() == pytest.approx(0.7, abs=0.03)
    np.testing.assert_array_equal(part, value[1000:2000])
    np.testing.assert_allclose(value[value != 0], 1 / 0.7, rtol=1e-6)
    for wrong in ((2, 1, 1), (None, 3, 1)):
        with pytest.raises(ValueError, match="noise_shape=.*'rows'"):
            layers.Dropout(0.3, name="rows", noise_shape=wrong)
    with pytest.raises(ValueError, match="as long as"):
        layers.Dropout(0.3, name="rows", noise_shape=(None, 1)).build((4, 2, 3))


def test_dropout_is_the_identity_outside_training():
    x = normal(4, 8)
    np.testing.assert_array_equal(layers.Dropout(0.5, name="dropout")(x), x)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="rate=1.0 of Dropout 'd'"):
        layers.Dropout(1.0, name="d")
    with pytest.raises(TypeError, match="name"):
        layers.Dropout(0.5)
    with pytest.raises(ValueError, match="padding='SAME'"):
        layers.LocallyConnected2D(1, 1, padding="SAME")
    with pytest.raises(ValueError, match="bias=0"):
        layers.LocalResponseNormalization(4, bias=0)


# Batch normalisation


def twins(shape, **options):
    """Our layer and Keras's, built, with the same gamma and beta far from one and zero, and moving
    statistics."""
    ours, theirs = layers.BatchNormalization(**options), keras.layers.BatchNormalization(**options)
    for layer in ours, theirs:
        layer.build(shape)
        values = {"gamma": normal(shape[-1], seed=1), "beta": normal(shape[-1], seed=2),
                  "moving_mean": normal(shape[-1], seed=3),
                  "moving_variance": normal(shape[-1], seed=4) ** 2 + 0.5}
        for variable in layer.variables:
            variable.assign(values[variable.name])
    assert [v.name for v in ours.variables] == [v.name for v in theirs.variables]
    return ours, theirs


def assign(context):
    for variable, value in context.updates:
        variable.assign(value)


@pytest.mark.parametrize("shape", [(64, 6), (8, 5, 6), (8, 4, 3, 6), (4, 2, 3, 2, 6)])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "epsilon": 1e-5, "center": False, "scale": False}])
def test_batch_normalisation_is_keras_s(shape, options):
    """Outputs, gradients and, once assigned, moving statistics (divided by n) of two steps and of
    inference."""
    ours, theirs = twins(shape, **options)
    for seed in (5, 6):
        x, found, wanted = normal(*shape, seed=seed, mean=2), {}, {}
        for layer, results in (ours, found), (theirs, wanted):
            before = [v.numpy() for v in layer.non_trainable_variables]
            with step_context() as context, tf.GradientTape() as tape:
                results["y"], (results["dx"],) = gradients(lambda x: layer(x, training=True), x)
                total = tf.reduce_sum(results["y"] * normal(*shape, seed=9))
            if layer.trainable_variables:
                results |= dict(zip("gb", tape.gradient(total, [v.value for v in layer.trainable_variables])))
            if layer is ours:  # nothing is written in the forward pass
                assert all(np.array_equal(old, v) for old, v in zip(before, layer.non_trainable_variables))
                assert [v.name for v, _ in context.updates] == ["moving_mean", "moving_variance"]
                assign(context)
            results |= {v.name: v.numpy() for v in layer.non_trainable_variables}
            results["still"], (results["dx still"],) = gradients(lambda x: layer(x, training=False), x)
        for key in wanted:
            np.testing.assert_allclose(found[key], wanted[key], rtol=1e-5, atol=2e-5, err_msg=key)


def test_batch_normalisation_of_bfloat16_has_float32_statistics():
    """Against float32 on the same inputs: statistics to 1e-5, outputs and gradients to a rounding or two
    (2^-7)."""
    x = tf.cast(normal(16, 4, 4, 6, mean=2), tf.bfloat16)
    layer, reference = layers.BatchNormalization(dtype="mixed_bfloat16"), layers.BatchNormalization()
    with step_context() as context:
        value, (gradient,) = gradients(lambda x: layer(x, training=True), x)
        wanted = reference(tf.cast(x, tf.float32), training=True)
    assert value.dtype == gradient.dtype == "bfloat16" and {v.dtype for v in layer.variables} == {"float32"}
    for (_, found), (_, expected) in zip(context.updates[:2], context.updates[2:], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(tf.cast(value, tf.float32), wanted, rtol=2**-7, atol=2**-7)
    assign(context)
    found, expected = layer(x, training=False), reference(tf.cast(x, tf.float32), training=False)
    np.testing.assert_allclose(tf.cast(found, tf.float32), expected, rtol=2**-7, atol=2**-7)


def test_a_further_micro_batch_continues_the_moving_statistics():
    """In one context, or in a second one that is given the first's updates: as Keras's layer called twice."""
    ours, theirs = twins((8, 6))
    first, second = normal(8, 6, seed=5), normal(8, 6, seed=6, mean=3)
    with step_context() as context:
        ours(first, training=True)
        ours(second, training=True)
    with step_context() as before:
        ours(first, training=True)
    with step_context(updates=before.updates) as after:
        ours(second, training=True)
    theirs(first, training=True)
    theirs(second, training=True)
    for updates in context.updates, after.updates:
        assert [variable.name for variable, _ in updates] == ["moving_mean", "moving_variance"]
        for (_, value), variable in zip(updates, (theirs.moving_mean, theirs.moving_variance), strict=True):
            np.testing.assert_allclose(value, variable, rtol=1e-5, atol=1e-6)


def test_frozen_batch_normalisation_uses_its_moving_statistics():
    ours, _ = twins((8, 6))
    x, wanted = normal(8, 6, seed=5), ours(normal(8, 6, seed=5), training=False)
    ours.trainable = False
    with step_context() as context:
        np.testing.assert_array_equal(ours(x, training=True), wanted)
    assert context.updates == []


def test_layers_can_be_rebuilt_from_their_configuration():
    for layer in (
        layers.LocalResponseNormalization(4, bias=2.0, alpha=0.1, beta=0.75, name="norm1"),
        layers.LocallyConnected2D(4, 3, padding="same", activation="relu", name="local3"),
        layers.Dropout(0.4, name="drop"),
        layers.Dropout(0.4, name="drop", noise_shape=(None, 1, 1)),
        layers.BatchNormalization(momentum=0.9, synchronized=False, name="bn"),
    ):
        again = type(layer).from_config(layer.get_config())
        assert again.get_config() == layer.get_config() and again.name == layer.name


def test_the_gradient_in_single_operations_is_the_fused_one():
    """The form that deterministic GPUs need, against the operation itself."""
    x, dy, gamma, mean = normal(4, 3, 3, 6), normal(4, 3, 3, 6, seed=1), normal(6, seed=2), normal(6, seed=3)
    arguments = [tf.constant(value) for value in (dy, x, gamma, mean, normal(6, seed=4) ** 2)]
    found = batch_statistics.gradient_by_single_operations(*arguments, 1e-3)
    for value, wanted in zip(found, batch_statistics.gradient_by(*arguments, 1e-3), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-5)
