"""Which examples make up a global batch: a pure function of (seed, step).

Position p of the endless training stream is offset p % examples of epoch p // examples, and every epoch is
a permutation of its own of all examples. The permutation is computed, not stored: a block cipher over
0..examples-1 (`tf.raw_ops.RandomIndexShuffle`), whose key for epoch e is drawn from (seed, e). So any step
of any epoch is found at once, by every worker alike.

    index = order.indices(step, seed=1, batch_size=128, examples=50_000)   # int64 [128]
    index, mask = order.sequential(step, batch_size=128, examples=10_000)  # evaluation, padded last batch
"""

import hashlib

import tensorflow as tf

# TensorFlow's default of 4 rounds leaves visible structure: at 50,000 examples the orders of successive
# epochs had a correlation of 0.76 with plain keys (seed, epoch) and of 0.18 with drawn ones. From 10 rounds
# on, differences of neighbours, epochs and seeds looked as those of numpy's permutations at 360, 1,437,
# 50,000 and 1,281,167 examples. 16 leaves a margin.
ROUNDS = 16
PHILOX = 1  # the value of `alg` that names the Philox generator in TensorFlow's stateless operations


def key(*words: int | str) -> tf.Tensor:
    """A Philox key, uint64 [1], from what the numbers are for: a seed and the names of the purpose.

    The words are hashed (sha256), so that small seeds that differ in one bit give unrelated streams.
    """
    exact = tuple(word if isinstance(word, str) else int(word) for word in words)
    digest = hashlib.sha256(repr(exact).encode()).digest()
    return tf.constant([int.from_bytes(digest[:8], "little")], tf.uint64)


def positions(step: tf.Tensor | int, batch_size: int) -> tf.Tensor:
    """Positions, int64 [batch_size], that the batch numbered `step` takes from the endless stream."""
    return tf.cast(step, tf.int64) * batch_size + tf.range(batch_size, dtype=tf.int64)


def indices(step: tf.Tensor | int, *, seed: int, batch_size: int, examples: int) -> tf.Tensor:
    """Example indices, int64 [batch_size], of the global training batch numbered `step` (from 0).

    `step` may be a scalar int64 tensor. A batch may span the end of an epoch, and several epochs.
    """
    assert batch_size > 0 and examples > 0, (batch_size, examples)
    position = positions(step, batch_size)
    epoch = position // examples
    # Four words for each epoch that the batch can touch: Philox at counter e gives those of epoch e.
    touched = (batch_size - 1) // examples + 2
    words = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[touched, 4], key=key(seed, "order"), counter=tf.cast(tf.stack([epoch[0], 0]), tf.uint64),
        alg=PHILOX, dtype=tf.uint32)
    index = tf.raw_ops.RandomIndexShuffle(
        index=position % examples, seed=tf.gather(words[:, :3], epoch - epoch[0]),
        max_index=tf.fill([batch_size], tf.constant(examples - 1, tf.int64)), rounds=ROUNDS)
    return tf.ensure_shape(index, [batch_size])


def sequential(step: tf.Tensor | int, *, batch_size: int, examples: int) -> tuple[tf.Tensor, tf.Tensor]:
    """(indices int64 [batch_size], mask bool [batch_size]) of the evaluation batch numbered `step`.

    Examples in their own order, each once; rows past the end repeat the last example with mask False.
    """
    assert batch_size > 0 and examples > 0, (batch_size, examples)
    position = positions(step, batch_size)
    return tf.minimum(position, examples - 1), position < examples
