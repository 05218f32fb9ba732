"""The trainer on data with a NaN in one training example, wherever a batch has it: python -m tests.laws.poisoning INDEX -- <trainer flags>

INDEX: the example's, or "all".
"""
import runpy
import sys

from input_pipeline import datasets
from trainer import quiet


def poisoned(load, index: str):
    """`datasets.load` whose training examples have it."""
    import tensorflow as tf

    def loaded(name, split, *arguments, **options):
        source = load(name, split, *arguments, **options)
        honest = source.read

        def read(indices):
            examples = honest(indices)
            bad = tf.ones_like(indices, tf.bool) if index == "all" else indices == int(index)
            inputs = tf.cast(examples["input"], tf.float32)
            first = tf.reshape(tf.one_hot(0, tf.size(inputs[0])), inputs.shape[1:]) > 0  # one number is enough
            return {**examples, "input": tf.where(bad[:, None, None, None] & first, float("nan"), inputs)}

        if split == "train":
            source.read = read
        return source

    return loaded


if __name__ == "__main__":
    index, _, *flags = sys.argv[1:]
    quiet.import_tensorflow(errors=False)
    datasets.load = poisoned(datasets.load, index)
    sys.argv = ["trainer.main", *flags]
    runpy.run_module("trainer.main", run_name="__main__")
