"""Four logical CPU devices for every test process, set before anything else touches TensorFlow; the real data's place."""
import os
import pathlib

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
LOGICAL_DEVICES = 4


def pytest_configure(config):
    from trainer import quiet
    quiet.import_tensorflow(errors=False)
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


@pytest.fixture(scope="session")
def fake_cifar10(tmp_path_factory) -> str:
    """A folder with files of CIFAR-10's layout and size, and random content."""
    import numpy as np
    folder = tmp_path_factory.mktemp("data")
    (folder / "cifar-10-batches-bin").mkdir()
    random = np.random.default_rng(0)
    for name in (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"):
        records = random.integers(0, 256, (10_000, 3073), np.uint8)
        records[:, 0] %= 10
        records.tofile(folder / "cifar-10-batches-bin" / name)
    return str(folder)
