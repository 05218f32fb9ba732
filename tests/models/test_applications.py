"""Networks of keras.applications: all names, Keras's numbers with Keras's weights, our layers where replicas
would differ."""

import keras
import numpy as np
import pytest

from models import application_names, applications, layers, registry

# A Sequential inside, a normalisation with weights and dropout of rows, names that Keras counts up, depthwise.
CLONED = {"MobileNetV2": 32, "MobileNetV3Small": 32}
SLOW = {"EfficientNetB0": 32, "ConvNeXtTiny": 32, "InceptionV3": 75, "DenseNet121": 32, "NASNetMobile": 32,
        "EfficientNetV2B0": 32, "Xception": 71}


def images(size, rows=2):
    return np.random.default_rng(0).uniform(0, 255, (rows, size, size, 3)).astype(np.float32)


def shaken(source):
    """`source` with weights that are not the first ones: else a swap of two layers would not show."""
    random = np.random.default_rng(1)
    for variable in source.weights:
        if variable.name in ("gamma", "moving_variance", "variance"):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "moving_mean", "mean", "bias"):
            variable.assign(random.normal(0, 0.1, variable.shape))
    return source


def compare(application, size):
    source = shaken(applications.original(application, input_shape=(size, size, 3)))
    model = registry.build(f"applications/{application}", input_shape=(size, size, 3), classes=5, top="flatten")
    for name, layer in applications.named(source).items():
        if layer.weights:
            model.get_layer(name).set_weights([np.asarray(value) for value in layer.weights])
    assert {layer.name for layer in model.layers if layer.weights} \
        == {name for name, layer in applications.named(source).items() if layer.weights} | {"logits"}
    body = keras.Model(model.input, model.get_layer("flatten").input)
    inputs = images(size)
    wanted = np.asarray(source(inputs))
    if application.startswith("EfficientNetB"):  # Keras rescales these only together with the weights of ImageNet
        stem = keras.Model(source.input, source.get_layer("stem_conv_pad").input)
        rest = keras.Model(source.get_layer("stem_conv_pad").input, source.output)
        wanted = np.asarray(rest(stem(inputs) / np.sqrt(np.float32(applications.IMAGENET_DEVIATION))))
    np.testing.assert_allclose(body(inputs), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    assert wanted.std() > 0
    return model


def test_every_name_of_keras_is_known_and_no_other():
    theirs = {name for name in dir(keras.applications) if callable(getattr(keras.applications, name))}
    assert set(application_names.APPLICATIONS) == theirs and len(application_names.APPLICATIONS) == len(theirs)
    for name in theirs:
        assert registry.check(f"applications/{name}", top="own").options == ("top",)


def entry_tells_the_truth(application, model):
    kinds = [type(layer) for layer in model.layers]
    entry = registry.NETWORKS[f"applications/{application}"]
    assert (layers.BatchNormalization in kinds) == entry.batch_norm
    assert (layers.Dropout in kinds) == entry.dropout
    assert not {keras.layers.BatchNormalization, keras.layers.Dropout} & set(kinds)
    assert not any(layer.weights for layer in model.layers if isinstance(layer, keras.layers.Normalization))
    assert not any("seed" in v.path for v in model.variables)
    assert not any(isinstance(layer, keras.Model) for layer in model.layers)  # flat, so that every layer has an output


@pytest.mark.parametrize("application, size", CLONED.items())
def test_the_clone_gives_kerass_outputs(application, size):
    entry_tells_the_truth(application, compare(application, size))


@pytest.mark.slow
@pytest.mark.parametrize("application, size", SLOW.items())
def test_further_clones_give_kerass_outputs(application, size):
    entry_tells_the_truth(application, compare(application, size))


@pytest.mark.parametrize("top, names", [("average", ["pool", "logits"]), ("flatten", ["flatten", "logits"])])
def test_head_is_the_one_that_was_asked_for(top, names):
    model = registry.build("applications/MobileNetV2", input_shape=(64, 64, 3), classes=5, top=top)
    assert [layer.name for layer in model.layers[-2:]] == names
    assert model.get_layer("logits").kernel.shape == ({"average": 1280, "flatten": 4 * 1280}[top], 5)


def test_own_top_gives_float32_logits_under_bfloat16():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = registry.build("applications/MobileNetV2", input_shape=(32, 32, 3), classes=5, top="own")
    finally:
        keras.config.set_dtype_policy(before)
    outputs = np.asarray(model(images(32, rows=3)))
    assert model.layers[-1].compute_dtype == "float32" and outputs.dtype == np.float32 and outputs.shape == (3, 5)
    assert not np.allclose(outputs.sum(1), 1)  # logits, no probabilities
    assert model.get_layer("Conv1").compute_dtype == "bfloat16"


def test_constants_and_names_are_kerass_and_those_of_a_second_build():
    source = applications.original("MobileNetV2", input_shape=(32, 32, 3))
    options = {"input_shape": (32, 32, 3), "classes": 5}
    first, second = (registry.build("applications/MobileNetV2", sync_batch_norm=sync, **options) for sync in (True, False))
    for layer in source.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            ours = first.get_layer(layer.name)
            assert (ours.momentum, ours.epsilon, ours.center, ours.scale) \
                == (layer.momentum, layer.epsilon, layer.center, layer.scale)
            assert ours.synchronized and not second.get_layer(layer.name).synchronized
    assert [v.path for v in first.variables] == [v.path for v in second.variables]


def test_names_that_keras_counts_are_counted_anew():
    def model():
        x = images = keras.Input((4, 4, 3))
        for _ in range(3):
            x = keras.layers.ReLU()(keras.layers.Conv2D(3, 1)(x))
        return keras.Model(images, keras.layers.Conv2D(3, 1, name="conv_last")(x))

    for _ in range(2):
        names = [name for name in applications.named(model()) if "input" not in name]
        assert names == ["conv2d", "re_lu", "conv2d_1", "re_lu_1", "conv2d_2", "re_lu_2", "conv_last"]


def test_a_layer_with_random_numbers_of_its_own_is_refused(monkeypatch):
    def noisy(include_top, weights, input_shape):
        x = images = keras.Input(input_shape)
        x = keras.layers.GaussianNoise(0.1, name="noise")(keras.layers.Conv2D(4, 3, name="conv")(x))
        return keras.Model(images, x, name="noisy")

    monkeypatch.setattr(keras.applications, "MobileNetV2", noisy)
    with pytest.raises(ValueError, match="'noise' .GaussianNoise. draws random numbers"):
        registry.build("applications/MobileNetV2", input_shape=(32, 32, 3), classes=5)


def test_images_that_the_network_does_not_take_are_refused():
    with pytest.raises(ValueError, match="at least 32x32"):
        registry.build("applications/MobileNetV2", input_shape=(16, 16, 3), classes=5)


def test_normalization_follows_its_variables():
    """Also after they are assigned anew, in a function that was traced before: a checkpoint read later."""
    layer, inputs = applications.Normalization(), images(2)
    layer.build(inputs.shape)
    function = keras.Model(x := keras.Input(inputs.shape[1:]), layer(x)).predict_on_batch
    np.testing.assert_allclose(function(inputs), inputs)
    layer.mean.assign([1, 2, 3])
    layer.variance.assign([4, 9, 16])
    np.testing.assert_allclose(function(inputs), (inputs - [1, 2, 3]) / [2, 3, 4], rtol=1e-5)
