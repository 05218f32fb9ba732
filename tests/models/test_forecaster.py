"""Forecasters start at the naive forecast exactly, and what they learn does not depend on the series' level
or unit."""

import keras
import numpy as np
import pytest

from models import forecaster, recurrent, registry

NAMES = ("forecaster_gru", "forecaster_lstm")


def series(rows=4, past=36, seed=0):
    """A growing yearly wave with noise, about 400: [rows, past, 1] float32."""
    months = np.arange(past) + 7 * np.arange(rows)[:, None]
    noise = np.random.default_rng(seed).normal(0, 0.3, months.shape)
    values = 400 + months / 6 + 3 * np.sin(months * np.pi / 6) + noise
    return values[:, :, None].astype(np.float32)


def naive_float64(values, outputs):
    """In float64: last year's month plus the growth of the last year's mean over that of the year before."""
    values = np.float64(values[:, :, 0])
    growth = values[:, -12:].mean(1) - values[:, -24:-12].mean(1)
    return np.stack([values[:, -12 + month % 12] + growth * (1 + month // 12) for month in range(outputs)], 1)


def learned(name, seed=1, **options):
    """A network whose last layers are not zero any more."""
    model = registry.build(name, input_shape=(36, 1), outputs=12, **options)
    random = np.random.default_rng(seed)
    for layer in ("residual", "linear"):
        kernel = model.get_layer(layer).kernel
        kernel.assign(random.normal(size=kernel.shape))
    return model


def test_the_naive_forecast_goes_on_with_the_last_year_and_its_growth():
    """Exact for a yearly pattern on a straight line. Mutations: the growth of two years; the year before the last."""
    months = np.arange(72.0)
    values = 0.25 * months + 3 * np.sin(months * np.pi / 6)
    np.testing.assert_allclose(forecaster.naive(values[None, 12:48, None], 24), values[None, 48:])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("past, outputs", [(24, 12), (36, 12), (40, 1), (36, 30)])
def test_untrained_it_is_the_naive_forecast(name, past, outputs):
    model, values = registry.build(name, input_shape=(past, 1), outputs=outputs), series(past=past)
    found = np.asarray(model(values))
    np.testing.assert_allclose(found, naive_float64(values, outputs), atol=2e-4)
    np.testing.assert_array_equal(found, model.get_layer("naive")(values))  # and of what is learned, exactly nothing


@pytest.mark.parametrize("name", NAMES)
def test_level_and_unit_of_the_series_do_not_matter(name):
    """The forecast of 10 x - 3000 is 10 times the forecast of x, less 3000."""
    model, values = learned(name), series()
    found = np.asarray(model(10 * values - 3000))
    assert np.abs(np.asarray(model(values)) - naive_float64(values, 12)).max() > 0.1
    np.testing.assert_allclose(found, 10 * np.asarray(model(values)) - 3000, atol=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_series_goes_on(name):
    np.testing.assert_allclose(learned(name)(np.full((2, 36, 1), 421.5, np.float32)), 421.5, atol=1e-4)


def test_bfloat16_changes_nothing():
    wanted = np.asarray(learned("forecaster_gru").get_layer("surprise")(series())[0])
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = learned("forecaster_gru")
        assert {layer.compute_dtype for layer in model.layers[1:]} == {"float32"} and model.input.dtype == "float32"
        np.testing.assert_array_equal(model.get_layer("surprise")(series())[0], wanted)
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("shape", [(23, 1), (36, 2), (36,), (8, 8, 1)])
def test_too_short_a_past_is_refused(shape):
    with pytest.raises(ValueError, match=r"at least 24 months") as raised:
        registry.build("forecaster_gru", input_shape=shape, outputs=12)
    assert str(shape) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("ours, theirs", [
    (recurrent.GRUCell, keras.layers.GRU), (recurrent.LSTMCell, keras.layers.LSTM)])
def test_cells_are_kerass(ours, theirs):
    """Outputs and first weights' places, with the same weights; and no generator's state among the
    variables."""
    inputs = np.random.default_rng(0).normal(size=(3, 7, 4)).astype(np.float32)
    layer, reference = keras.layers.RNN(ours(5)), theirs(5)
    layer.build(inputs.shape)
    reference.build(inputs.shape)
    assert [v.name for v in layer.variables] == [v.name for v in layer.weights] == [v.name for v in reference.weights]
    np.testing.assert_array_equal(layer.weights[2], reference.weights[2])  # the forget gate's ones
    random = np.random.default_rng(1)
    for one, other in zip(layer.weights, reference.weights, strict=True):
        one.assign(random.normal(size=one.shape))
        other.assign(one)
    np.testing.assert_allclose(layer(inputs), reference(inputs), rtol=1e-5, atol=1e-6)
