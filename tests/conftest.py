"""Four logical CPU devices for every test process, set before anything else touches TensorFlow; real data."""
import fcntl
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
LOGICAL_DEVICES = 4


def pytest_configure(config):
    from trainer import quiet
    quiet.import_tensorflow(errors=False)
    import tensorflow as tf
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * LOGICAL_DEVICES)


def real_data(name: str, folder: str) -> str:
    """A folder that holds `folder` of the real data set `name`; skips where there is none.

    LOCKSTEP_TEST_DATA, or data beside the checkout, is such a folder, or has an unpack.py that makes one.
    """
    place = pathlib.Path(os.environ.get("LOCKSTEP_TEST_DATA") or pathlib.Path(__file__).parents[2] / "shared" / "data")
    if (place / folder).is_dir() and not (place / "unpack.py").is_file():
        return str(place)
    if not (place / "unpack.py").is_file():
        pytest.skip(f"needs the real {name}: set LOCKSTEP_TEST_DATA to a folder with {folder} ({place} has none)")
    made = pathlib.Path(tempfile.gettempdir(), f"lockstep-test-data-{os.getuid()}")
    made.mkdir(mode=0o700, exist_ok=True)
    with open(made / ".lock", "w") as lock:  # of several test processes one unpacks
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run([sys.executable, place / "unpack.py", made, name], check=True, capture_output=True)
    return str(made)


@pytest.fixture(scope="session")
def cifar10() -> str:
    """A folder that holds the real cifar-10-batches-bin."""
    return real_data("cifar10", "cifar-10-batches-bin")


@pytest.fixture(scope="session")
def mnist() -> str:
    """A folder that holds the real mnist."""
    return real_data("mnist", "mnist")


@pytest.fixture(scope="session")
def flowers() -> str:
    """A folder that holds the real flower_photos."""
    return real_data("flowers", "flower_photos")


@pytest.fixture(scope="session")
def co2() -> str:
    """A folder that holds the real co2."""
    return real_data("co2", "co2")


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


@pytest.fixture(scope="module")
def store_service(tmp_path_factory):
    """Google Cloud Storage on loopback, a gcs.Store."""
    import gcs
    with gcs.Store(tmp_path_factory.mktemp("store")) as service:
        yield service


@pytest.fixture
def store(store_service, monkeypatch):
    """The same, empty, for this process."""
    import gcs
    from input_pipeline import bucket_calls
    store_service.refuse(None)
    for name in store_service.names():
        store_service.delete(name)
    store_service.requests.clear()
    gcs.use(store_service, monkeypatch)
    yield store_service
    bucket_calls.client.cache_clear()
