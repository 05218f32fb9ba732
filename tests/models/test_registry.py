"""Networks are found by name; what a network does not understand is refused, in a line that helps; no
TensorFlow before."""

import subprocess
import sys

import numpy as np
import pytest

from models import registry

SHAPES = {"digits_cnn": (8, 8, 1), "digits_cnn_regularized": (8, 8, 1), "cifar10_tutorial": (24, 24, 3)}
SHAPE = (32, 32, 3)  # of any other network's images


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


@pytest.mark.parametrize("name", registry.NETWORKS)
def test_entry_says_what_the_network_is(name):
    """Builds float32 outputs of the asked number of classes; batch_norm, dropout and decayed tell the
    truth."""
    shape = SHAPES.get(name, SHAPE)
    network, model = registry.NETWORKS[name], registry.build(name, input_shape=shape, classes=7)
    outputs = model(np.ones((2, *shape), np.float32), training=False)
    assert outputs.shape == (2, 7) and outputs.dtype == "float32"
    kinds = {type(layer).__name__ for layer in model.layers}
    assert ("BatchNormalization" in kinds) == network.batch_norm
    assert ("Dropout" in kinds) == network.dropout
    decayed = {v.path for v in registry.decayed_kernels(name, model)}
    kernels = {v.path for v in model.trainable_variables if v.path.endswith("/kernel")}
    if network.decayed is not None:
        kernels = {f"{layer}/kernel" for layer in network.decayed}
    assert decayed == kernels and decayed


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
