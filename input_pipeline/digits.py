"""The data set `digits`: 1,797 handwritten digits, 8x8 grey, values 0..16, that ship inside scikit-learn.

scikit-learn has no split, so this is ours: 36 examples of each class, 360 in all, are held out, those whose
index hashes lowest. It depends on nothing but the indices, so every version of every library agrees on it.

    info = digits.describe()              # constants: scikit-learn is slow to import
    source = digits.load("train")         # 1,437 examples
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from input_pipeline.datasets import Info

if TYPE_CHECKING:
    from input_pipeline.sources import Source

CLASSES = tuple(str(digit) for digit in range(10))
EXAMPLES = 1797
HELD_OUT_A_CLASS = 36


def facts() -> Info:
    """The facts of the data set."""
    held_out = HELD_OUT_A_CLASS * len(CLASSES)
    return Info(name="digits", train_examples=EXAMPLES - held_out, test_examples=held_out,
                input_shape=(8, 8, 1), brightest=16.0, classes=CLASSES)


def describe(data_dir: str | None = None) -> Info:
    """As `facts`: the data set needs no files."""
    return facts()


def held_out(labels: np.ndarray) -> np.ndarray:
    """The held-out indices, int64 ascending: of each class the 36 with the lowest hash of their index."""
    def rank(index: int) -> bytes:
        return hashlib.sha256(b"digits %d" % index).digest()

    chosen = [sorted(np.flatnonzero(labels == label).tolist(), key=rank)[:HELD_OUT_A_CLASS]
              for label in range(len(CLASSES))]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def load(split: str, data_dir: str | None = None) -> Source:
    """The source of `split` ("train" or "test"): images uint8 [n, 8, 8, 1], values 0..16."""
    from sklearn.datasets import load_digits

    from input_pipeline import sources

    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8)[..., np.newaxis], bunch.target
    chosen = np.zeros(len(labels), bool)
    chosen[held_out(labels)] = True
    chosen = chosen if split == "test" else ~chosen
    return sources.Arrays(images[chosen], labels[chosen], CLASSES, name=f"digits, {split}")
