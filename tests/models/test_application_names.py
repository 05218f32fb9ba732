"""How images become what weights of ImageNet are made for: held against Keras's own preparation."""
import importlib

import keras
import numpy as np
import pytest

from input_pipeline import augment
from models import application_names, registry


def _module(application: str):
    """Keras's module of a network: the one whose function it is."""
    return importlib.import_module(getattr(keras.applications, application).__module__)


@pytest.mark.parametrize("application", application_names.APPLICATIONS)
def test_the_values_are_those_of_keras(application):
    """Mutations: ResNet50V2 as ResNet50; MobileNetV3 as MobileNet; the channels' order."""
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3)).astype(np.float32)
    expected = _module(application).preprocess_input(images.copy())
    found = augment.parse(registry.NETWORKS[f"applications/{application}"].imagenet_values).evaluate(images)
    np.testing.assert_allclose(found, expected, atol=1e-3)
