"""The tutorial's network is the tutorial's: parameters, shapes, initial weights, weight decay, options."""

import math

import keras
import numpy as np
import pytest

from models import registry

# Layer: output shape for 24x24x3, parameters. 5 * 5 * 3 * 64 + 64 = 4,864 and so on.
LAYERS = {
    "conv1": ((24, 24, 64), 4_864),
    "pool1": ((12, 12, 64), 0),
    "norm1": ((12, 12, 64), 0),
    "conv2": ((12, 12, 64), 102_464),
    "norm2": ((12, 12, 64), 0),
    "pool2": ((6, 6, 64), 0),
    "local3": ((384,), 885_120),
    "local4": ((192,), 73_920),
    "softmax_linear": ((10,), 1_930),
}
DEVIATIONS = {"conv1": 0.05, "conv2": 0.05, "local3": 0.04, "local4": 0.04, "softmax_linear": 1 / 192}
BIASES = {"conv1": 0.0, "conv2": 0.1, "local3": 0.1, "local4": 0.1, "softmax_linear": 0.0}
# Deviation of a standard normal cut at 2: sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)).
CUT = math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2)))


def build(input_shape=(24, 24, 3), classes=10, **options):
    keras.utils.set_random_seed(3)
    return registry.build("cifar10_tutorial", input_shape=input_shape, classes=classes, **options)


@pytest.fixture
def bfloat16():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy(before)


def test_layers_and_parameters_are_the_tutorials():
    model = build()
    assert model.count_params() == 1_068_298
    names = [layer.name for layer in model.layers if layer.name in LAYERS]
    assert names == list(LAYERS)  # and in this order
    for name, (shape, parameters) in LAYERS.items():
        layer = model.get_layer(name)
        assert (layer.output.shape, layer.count_params()) == ((None, *shape), parameters), name
    assert sum(layer.count_params() for layer in model.layers) == 1_068_298


@pytest.mark.parametrize("local", ["dense", "locally_connected"])
def test_initial_weights_have_the_tutorials_deviations(local):
    """Within four standard errors of 0.8796 times the table's number, and cut at two of it; biases exact."""
    model = build(local=local)
    assert CUT == pytest.approx(0.8796, abs=1e-4)
    for name, deviation in DEVIATIONS.items():
        kernel = np.asarray(model.get_layer(name).kernel)
        error = 4 * CUT * deviation / math.sqrt(kernel.size)
        assert abs(kernel.mean()) < error, name
        assert kernel.std() == pytest.approx(CUT * deviation, abs=error), name
        assert 1.9 * deviation < np.abs(kernel).max() <= 2 * deviation * 1.0001, name
        assert np.all(np.asarray(model.get_layer(name).bias) == np.float32(BIASES[name])), name


def test_weight_decay_is_for_two_kernels():
    paths = [v.path for v in registry.decayed_kernels("cifar10_tutorial", build())]
    assert paths == ["local3/kernel", "local4/kernel"]


def test_seed_decides_the_weights():
    first, again = build(), build()
    keras.utils.set_random_seed(4)
    other = registry.build("cifar10_tutorial", input_shape=(24, 24, 3), classes=10)
    for a, b, c in zip(first.get_weights(), again.get_weights(), other.get_weights(), strict=True):
        assert np.array_equal(a, b)
        assert a.ndim == 1 or not np.array_equal(a, c)


def test_softmax_head_gives_the_probabilities_of_the_logits():
    logits, probabilities = build(), build(head="softmax")
    probabilities.set_weights(logits.get_weights())
    images = np.random.default_rng(0).normal(size=(3, 24, 24, 3)).astype(np.float32)
    wanted = np.exp(np.asarray(logits(images)))
    wanted /= wanted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.asarray(probabilities(images)), wanted, rtol=1e-5)


def test_locally_connected_layers_are_cuda_convnets():
    """One 3x3 filter bank for each of 36 positions: 36 * (9 * 64 * 64 + 64), then 36 * (9 * 64 * 32 + 32)."""
    model = build(local="locally_connected")
    assert model.get_layer("local3").output.shape == (None, 6, 6, 64)
    assert model.get_layer("local4").output.shape == (None, 6, 6, 32)
    assert model.get_layer("local3").count_params() == 36 * (9 * 64 * 64 + 64)
    assert model.get_layer("local4").count_params() == 36 * (9 * 64 * 32 + 32)
    paths = [v.path for v in registry.decayed_kernels("cifar10_tutorial", model)]
    assert paths == ["local3/kernel", "local4/kernel"]


@pytest.mark.parametrize("options", [{}, {"head": "softmax", "local": "locally_connected"}])
def test_outputs_are_float32_under_bfloat16(bfloat16, options):
    model = build(**options)
    assert model.get_layer("conv2").compute_dtype == "bfloat16"
    outputs = model(np.zeros((2, 24, 24, 3), np.float32))
    assert outputs.dtype == "float32" and model.output.dtype == "float32"
    assert {v.dtype for v in model.variables} == {"float32"}


@pytest.mark.parametrize("size, pooled", [(32, 8), (28, 7), (5, 2)])
def test_any_image_size_works(size, pooled):
    model = build((size, size, 1), classes=3)
    assert model.get_layer("pool2").output.shape == (None, pooled, pooled, 64)
    assert model(np.zeros((2, size, size, 1), np.float32)).shape == (2, 3)
