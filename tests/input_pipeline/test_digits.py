"""digits: its constants are true, and its split is fixed for ever."""

import hashlib

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from input_pipeline import digits

# Of the held-out indices as little-endian int64, ascending. A change would move examples from one side of
# existing results to the other.
HELD_OUT = "6fde458d5c8e94855e2ada1db3c037863e9579e7fe416abd6a9e06f0efacfabc"


def test_the_split_is_pinned():
    indices = digits.held_out(load_digits().target)
    assert indices.dtype == np.int64 and len(np.unique(indices)) == 360
    assert hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest() == HELD_OUT


def test_every_class_is_held_out_alike():
    labels = load_digits().target
    assert np.bincount(labels[digits.held_out(labels)]).tolist() == [36] * 10


def test_the_splits_are_the_whole_and_share_nothing():
    """Mutation: train on everything."""
    bunch = load_digits()
    held_out = digits.held_out(bunch.target)
    kept = np.setdiff1d(np.arange(len(bunch.target)), held_out)
    for split, indices in (("train", kept), ("test", held_out)):
        source = digits.load(split)
        batch = source.read(tf.range(len(source), dtype=tf.int64))
        assert np.array_equal(batch["input"][..., 0], bunch.images[indices])
        assert np.array_equal(batch["label"], bunch.target[indices])


def test_the_facts_are_true():
    info = digits.describe()
    assert info == digits.facts()
    assert (info.train_examples, info.test_examples) == (len(digits.load("train")), len(digits.load("test")))
    bunch = load_digits()
    assert info.classes == tuple(map(str, bunch.target_names))
    assert info.input_shape == (*bunch.images.shape[1:], 1)
    assert (bunch.images.min(), bunch.images.max()) == (0, 16)
