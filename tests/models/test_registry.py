"""Networks are found by name; what a network does not understand is refused, in a line that helps; no
TensorFlow before."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from models import registry

SHAPES = {"digits_cnn": (8, 8, 1), "digits_cnn_regularized": (8, 8, 1), "cifar10_tutorial": (24, 24, 3),
          "alexnet": (64, 64, 3), "autoencoder": (10, 9, 1), "autoencoder_conv_nearest": (10, 9, 1),
          "autoencoder_conv_bilinear": (10, 9, 2), "autoencoder_sigmoid": (10, 9, 1), "forecaster_gru": (24, 1),
          "forecaster_lstm": (25, 1)}
SHAPE = (32, 32, 3)  # of any other network's images
BLOCKS = {"densenet121": (1, 2, 1), "densenet100": (2, 1)}  # fewer than their own: quicker, and the same code
OWN = [name for name in registry.NETWORKS if "/" not in name]


def build(name, **options):
    """(the network, the shape of one example)."""
    shape = SHAPES.get(name, SHAPE)
    options |= {"blocks": BLOCKS[name]} if name in BLOCKS else {}
    return registry.build(name, input_shape=shape, classes=7, outputs=5, **options), shape


@pytest.fixture
def bfloat16():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy(before)


def test_wrong_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="'cifar10_tutoral'.*digits_cnn.*did you mean 'cifar10_tutorial'"):
        registry.build("cifar10_tutoral", input_shape=(24, 24, 3), classes=10)


@pytest.mark.parametrize("option, value", [("head", "softmax"), ("local", "locally_connected")])
def test_option_that_a_network_does_not_understand_is_refused_by_both_names(option, value):
    with pytest.raises(ValueError, match=f"'digits_cnn'.*{option}='{value}'.*cifar10_tutorial"):
        registry.build("digits_cnn", input_shape=(8, 8, 1), classes=10, **{option: value})
    assert registry.check("cifar10_tutorial", **{option: value}) is registry.NETWORKS["cifar10_tutorial"]


def test_unknown_value_of_an_option_is_refused():
    with pytest.raises(ValueError, match="head='logit'.*logits, softmax"):
        registry.check("cifar10_tutorial", head="logit")


def test_looking_a_network_up_imports_no_tensorflow():
    program = "import sys; from models import registry; registry.check('digits_cnn'); print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", program], text=True).split()
    assert "models.registry" in loaded and not {"tensorflow", "keras", "numpy"} & set(loaded)


@pytest.mark.parametrize("name", OWN)
def test_entry_says_what_the_network_is(name):
    """Float32 outputs of the shape that its task says; batch_norm, dropout and decayed tell the truth; the
    names of variables are the same for a second network of the process, and each is one variable's."""
    network, (model, shape) = registry.NETWORKS[name], build(name)
    outputs = model(np.ones((2, *shape), np.float32), training=False)
    wanted = {"classification": (2, 7), "reconstruction": (2, *shape), "forecasting": (2, 5)}[network.task]
    assert outputs.shape == wanted and outputs.dtype == "float32"
    kinds = {type(layer).__name__ for layer in model.layers}
    assert ("BatchNormalization" in kinds) == network.batch_norm
    assert ("Dropout" in kinds) == network.dropout
    decayed = {v.path for v in registry.decayed_kernels(name, model)}
    kernels = {v.path for v in model.trainable_variables if v.path.endswith("kernel")}
    if network.decayed is not None:
        kernels = {f"{layer}/kernel" for layer in network.decayed}
    assert decayed == kernels and decayed
    paths = [v.path for v in model.variables]
    assert len(set(paths)) == len(paths) and paths == [v.path for v in build(name)[0].variables]
    assert not any("seed" in path for path in paths)  # no generator's state: nothing of it would be restored


@pytest.mark.parametrize("name", OWN)
def test_network_under_bfloat16_gives_float32_and_keeps_float32_weights(name, bfloat16):
    """The same outputs as in float32, to what 8 bits of mantissa allow: within a tenth of their spread."""
    model, shape = build(name)
    inputs = np.random.default_rng(0).uniform(-1, 1, (4, *shape)).astype(np.float32)
    outputs = model(inputs, training=False)
    assert outputs.dtype == model.output.dtype == "float32"
    assert {v.dtype for v in model.variables} <= {"float32", "int32"}
    assert any(layer.compute_dtype == "bfloat16" for layer in model.layers) or "forecaster" in name
    keras.config.set_dtype_policy("float32")
    reference, _ = build(name)
    reference.set_weights(model.get_weights())
    wanted = np.asarray(reference(inputs, training=False))
    assert np.abs(outputs - wanted).max() <= 0.1 * wanted.std()


@pytest.mark.parametrize("name, size", [("lenet5", "classes"), ("forecaster_gru", "outputs")])
def test_a_network_without_outputs_is_refused(name, size):
    with pytest.raises(ValueError, match=f"'{name}'.*{size}=0.*at least 1"):
        registry.build(name, input_shape=(36, 1))


def test_name_in_other_letters_is_answered_with_the_right_one():
    for wrong in ("applications/mobilenetv2", "MobileNetV2", "mobilenetv2"):
        with pytest.raises(ValueError, match="did you mean 'applications/MobileNetV2'"):
            registry.check(wrong)


@pytest.mark.parametrize("blocks", [(2, 0), (1, 1, 1, 1, 1, 1), (-1,), (1000,)])
def test_wrong_blocks_are_refused(blocks):
    with pytest.raises(ValueError, match=f"blocks={blocks[0]}.*1 to 5 numbers"):
        registry.check("resnet18", blocks=blocks)


def test_options_belong_to_networks():
    for option, value in {"blocks": (1, 1), "top": "flatten"}.items():
        with pytest.raises(ValueError, match=f"'lenet5' has no option {option}="):
            registry.check("lenet5", **{option: value})
    assert registry.check("resnet18", blocks=[1, 1]) is registry.NETWORKS["resnet18"]
    assert set(registry.NAMES) == set(registry.NETWORKS)


def test_synchronised_batch_normalisation_can_be_switched_off():
    for wanted in (True, False):
        model = registry.build(
            "digits_cnn_regularized", input_shape=(8, 8, 1), classes=10, sync_batch_norm=wanted
        )
        assert {model.get_layer(f"norm{k}").synchronized for k in (1, 2, 3)} == {wanted}


def test_frozen_kernels_are_not_decayed():
    model = registry.build("digits_cnn", input_shape=(8, 8, 1), classes=10)
    model.get_layer("conv1").trainable = False
    assert "conv1/kernel" not in {v.path for v in registry.decayed_kernels("digits_cnn", model)}
