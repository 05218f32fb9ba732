"""The data set mnist and its like: what the files say is what is loaded, and files that do not fit are named."""

import gzip

import numpy as np
import pytest
import tensorflow as tf
from test_idx import content

from input_pipeline import datasets, mnist

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def write(folder, *, shape=(6, 5), train=7, test=3, suffix=".gz", largest=9, **arrays):
    """Four files in `folder`/mnist; returns their arrays by name."""
    random = np.random.default_rng(0)
    made = {}
    for prefix, number in (("train", train), ("t10k", test)):
        made[f"{prefix}-images-idx3-ubyte"] = random.integers(0, 256, (number, *shape), np.uint8)
        made[f"{prefix}-labels-idx1-ubyte"] = np.arange(largest, largest - number, -1).clip(0).astype(np.uint8)
    made |= arrays
    (folder / "mnist").mkdir(exist_ok=True)
    for name, array in made.items():
        data = content(array)
        (folder / "mnist" / f"{name}{suffix}").write_bytes(gzip.compress(data, mtime=0) if suffix else data)
    return made


@pytest.mark.parametrize("suffix", [".gz", ""])
@pytest.mark.parametrize("shape, input_shape", [((6, 5), (6, 5, 1)), ((6, 5, 3), (6, 5, 3))])
def test_what_the_files_say_is_what_is_loaded(tmp_path, suffix, shape, input_shape):
    made = write(tmp_path, shape=shape, suffix=suffix)
    info = datasets.describe("mnist", str(tmp_path))
    assert (info.train_examples, info.test_examples, info.splits) == (7, 3, ("train", "test"))
    assert info.input_shape == input_shape and info.classes == tuple("0123456789") and len(info.files) == 4
    for split, prefix in (("train", "train"), ("test", "t10k")):
        source = datasets.load("mnist", split, str(tmp_path))
        assert (len(source), source.input_shape, source.classes) == (info.examples[split], input_shape, info.classes)
        batch = source.read(tf.range(len(source), dtype=tf.int64))
        assert np.array_equal(batch["input"], made[f"{prefix}-images-idx3-ubyte"].reshape(-1, *input_shape))
        assert np.array_equal(batch["label"], made[f"{prefix}-labels-idx1-ubyte"])
        assert batch["input"].dtype == tf.uint8 and batch["label"].dtype == tf.int32


def test_there_are_ten_classes_or_as_many_as_labels_need(tmp_path):
    write(tmp_path, largest=2)
    assert len(mnist.describe(str(tmp_path)).classes) == 10
    write(tmp_path, **{"t10k-labels-idx1-ubyte": np.array([0, 46, 3], np.uint8)})
    assert len(mnist.describe(str(tmp_path)).classes) == 47


def test_the_facts_are_those_of_the_published_files():
    info = mnist.facts()
    assert (info.examples, info.input_shape) == ({"train": 60_000, "test": 10_000}, (28, 28, 1))


@pytest.mark.parametrize("name", NAMES)
def test_an_absent_file_is_missing_data(tmp_path, name):
    write(tmp_path)
    (tmp_path / "mnist" / f"{name}.gz").unlink()
    with pytest.raises(datasets.MissingData, match=f"no file .*{name}.gz; get it with: .*--dataset=mnist"):
        mnist.describe(str(tmp_path))


def test_no_folder_is_missing_data():
    with pytest.raises(datasets.MissingData, match="no data_dir"):
        mnist.describe()


@pytest.mark.parametrize("arrays, words", [
    ({"train-labels-idx1-ubyte": np.zeros(6, np.uint8)}, r"train-labels.* holds uint8 \[6\]; .* uint8 \[7\]"),
    ({"t10k-labels-idx1-ubyte": np.zeros((3, 1), np.uint8)}, r"t10k-labels.* holds uint8 \[3, 1\]"),
    ({"t10k-labels-idx1-ubyte": np.zeros(3, np.int8)}, r"t10k-labels.* holds int8 \[3\]"),
    ({"train-images-idx3-ubyte": np.zeros((7, 30), np.uint8)}, r"train-images.* holds uint8 \[7, 30\]"),
    ({"train-images-idx3-ubyte": np.zeros((7, 6, 5), np.float32)}, r"train-images.* holds float32 \[7, 6, 5\]"),
    ({"t10k-images-idx3-ubyte": np.zeros((3, 6, 6), np.uint8)}, r"t10k-images.*\(6, 6, 1\).*\(6, 5, 1\)"),
])
def test_files_that_do_not_fit_each_other_are_named(tmp_path, arrays, words):
    write(tmp_path, **arrays)
    with pytest.raises(ValueError, match=words) as error:
        mnist.describe(str(tmp_path))
    assert not isinstance(error.value, datasets.MissingData)


def test_real_data(mnist):
    """The published numbers of each digit; the order of the examples may differ."""
    counts = {"train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
              "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]}
    info = datasets.describe("mnist", mnist)
    assert info.examples == datasets.facts("mnist").examples and info.input_shape == (28, 28, 1)
    for split, expected in counts.items():
        source = datasets.load("mnist", split, mnist)
        batch = source.read(tf.range(len(source), dtype=tf.int64))
        assert np.bincount(batch["label"]).tolist() == expected
        assert abs(np.mean(batch["input"]) - 33.3) < 0.7
