"""Data sets by name: what is described is what is loaded, without TensorFlow, and mistakes are named."""

import subprocess
import sys

import pytest
import tensorflow as tf

from input_pipeline import datasets

WITHOUT_FILES = ["digits", "synthetic"]


@pytest.mark.parametrize("name", WITHOUT_FILES)
def test_what_is_described_is_what_is_loaded(name):
    info = datasets.describe(name)
    assert info == datasets.facts(name) and info.name == name
    assert info.splits == ("train", "test")
    assert info.examples == {"train": info.train_examples, "test": info.test_examples}
    for split, examples in info.examples.items():
        source = datasets.load(name, split)
        assert len(source) == examples
        assert source.input_shape == info.input_shape
        assert source.classes == info.classes
        batch = source.read(tf.constant([0, examples - 1], tf.int64))
        assert batch["input"].shape == (2, *info.input_shape)
        assert batch["label"].dtype == tf.int32


def test_nothing_heavy_is_imported_to_check_a_command():
    """Facts, descriptions and augmentation texts need neither TensorFlow nor scikit-learn."""
    code = ("import sys\n"
            "from input_pipeline import augment, datasets\n"
            "for name in datasets.DATASETS: datasets.facts(name)\n"
            "for name in ('digits', 'synthetic'): datasets.describe(name)\n"
            "augment.check('crop:24,flip,standardize', (32, 32, 3))\n"
            "try: datasets.describe('cifar10', '/nowhere')\n"
            "except datasets.MissingData: pass\n"
            "print([name for name in ('tensorflow', 'keras', 'sklearn') if name in sys.modules])\n")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


@pytest.mark.parametrize("verb", [datasets.describe, datasets.facts,
                                  lambda name: datasets.load(name, "train")])
def test_an_unknown_name_is_answered_with_the_known_ones(verb):
    with pytest.raises(ValueError) as error:
        verb("digitz")
    assert "'digitz'" in str(error.value)
    assert all(name in str(error.value) for name in datasets.DATASETS)


def test_an_unknown_split_or_option_is_refused():
    for split in ("eval", "validation"):
        with pytest.raises(ValueError, match=f"split='{split}': must be one of train, test, those that digits has"):
            datasets.load("digits", split)
    with pytest.raises(ValueError, match="'digits' takes no option 'classes'; it takes none"):
        datasets.describe("digits", classes=3)
    with pytest.raises(ValueError, match="no option 'size'; it takes input_shape, classes"):
        datasets.load("synthetic", "train", size=3)


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_the_facts_of_every_data_set_are_known_without_its_files(name):
    """Mutation: an entry whose module has another name."""
    info = datasets.facts(name)
    assert info.name == name and set(info.splits) <= set(datasets.SPLITS) and info.splits[0] == "train"
    assert (info.target_shape is None) == (len(info.input_shape) == 3)
    with pytest.raises(ValueError, match=f"'{name}' takes no option 'x'"):
        datasets.facts(name, x=1)


def test_a_record_of_an_older_run_is_still_an_info():
    """What config.json had before there were validation splits and series."""
    info = datasets.Info(name="digits", input_shape=(8, 8, 1), classes=("a",), train_examples=3, test_examples=2)
    assert info.examples == {"train": 3, "test": 2} and info.target_shape is None


def test_options_reach_the_data_set():
    assert datasets.describe("synthetic", input_shape=(8, 8, 1), classes=3).input_shape == (8, 8, 1)
    assert len(datasets.load("synthetic", "test", test_examples=7)) == 7


def test_missing_data_is_a_value_error_that_gives_the_command():
    assert issubclass(datasets.MissingData, ValueError)
    with pytest.raises(datasets.MissingData, match="--dataset=cifar10 --output=DATA_DIR"):
        datasets.describe("cifar10")


@pytest.mark.parametrize("name, folder", [("cifar10", "cifar-10-batches-bin"), ("flowers", "flower_photos"), ("mnist", "mnist"),
                                          ("co2", "co2")])
def test_the_data_sets_own_folder_is_answered_with_the_one_above(name, folder, tmp_path):
    """Beside the command that gets it: the folder may only be called so."""
    (tmp_path / folder).mkdir()
    with pytest.raises(datasets.MissingData, match=f"give the one that holds it, {tmp_path}; get it with: "):
        datasets.describe(name, f"{tmp_path / folder}/")
    with pytest.raises(datasets.MissingData, match="no f.*/daisy; get it with: |no file [^;]*; get it with: "):
        datasets.describe(name, str(tmp_path))
