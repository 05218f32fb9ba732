"""Four logical CPU devices for every test process, set before anything else touches TensorFlow; the real data's place."""
import os
import pathlib

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
LOGICAL_DEVICES = 4


def pytest_configure(config):
    import tensorflow as tf
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * LOGICAL_DEVICES)


@pytest.fixture(scope="session")
def cifar10() -> str:
    """A folder that holds the real cifar-10-batches-bin; skips where there is none."""
    place = os.environ.get("LOCKSTEP_TEST_DATA", "")
    if not place or not pathlib.Path(place, "cifar-10-batches-bin").is_dir():
        pytest.skip("needs the real CIFAR-10: set LOCKSTEP_TEST_DATA to a folder that holds cifar-10-batches-bin")
    return place
