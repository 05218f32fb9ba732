"""Random numbers of distortions: functions of their purpose and of the row or the example that they are for.

Nothing is kept between calls, and a row gets the same numbers on whichever replica it lands.

    draws = StepDraws(seed=1, step=step, rows=tf.range(64, 128), batch_size=128).of(0, "Crop")
    draws.uniform(2)     # float32 [64, 2] in [0, 1): of this seed, step, operation and row
    ExampleDraws(index=index).of(3, "Mask").uniform(784)    # of the operation and the example alone
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import tensorflow as tf

from input_pipeline import order


@dataclass(frozen=True, kw_only=True)
class StepDraws:
    """What training step number `step` (from 0) draws for `rows`, int32 [b], of the global batch.

    `index`, `epoch`: int64 [b], the examples in those rows and the epoch (from 0) they are taken in; only
    `alternating` needs them. `purpose`: see `of`.
    """

    seed: int
    step: tf.Tensor | int
    rows: tf.Tensor
    batch_size: int
    index: tf.Tensor | None = None
    epoch: tf.Tensor | None = None
    purpose: tuple[int | str, ...] = ()

    def of(self, *purpose: int | str) -> StepDraws:
        """The draws of one purpose, unrelated to those of any other."""
        return dataclasses.replace(self, purpose=purpose)

    def uniform(self, numbers: int) -> tf.Tensor:
        """float32 [b, numbers] in [0, 1)."""
        key = order.key(self.seed, "augment", *self.purpose)
        first = self._first_row() if numbers % 4 == 0 else None
        if first is None:  # drawn for the whole global batch, whatever rows are asked for
            return tf.gather(_uniform([self.batch_size, numbers], key, 0, self.step), self.rows)
        # The same numbers, without those of other workers: a block of the generator makes four of them.
        return _uniform([self.rows.shape[0], numbers], key, first * (numbers // 4), self.step)

    def larger_share(self, alpha: float) -> tf.Tensor:
        """float32 [b] in [0.5, 1]: the larger of x and 1 - x, x from the distribution Beta(alpha, alpha)."""
        gammas = tf.raw_ops.StatelessRandomGammaV3(
            shape=[self.batch_size, 2], key=order.key(self.seed, "augment", *self.purpose, "gamma"),
            counter=_counter(0, self.step), alg=order.PHILOX, alpha=tf.constant(alpha, tf.float64))
        # Where alpha is small, both may be too small for a number: 0 and 1 then, as in the limit.
        smaller = tf.math.divide_no_nan(tf.reduce_min(gammas, 1), tf.reduce_sum(gammas, 1))
        return tf.gather(tf.cast(1 - smaller, tf.float32), self.rows)

    def alternating(self) -> tf.Tensor:
        """bool [b]: drawn once for an example, in its first epoch, and the opposite in each next one."""
        assert self.index is not None and self.epoch is not None, (
            f"{self.purpose} alternates: it needs the examples' indices and epochs")
        words = tf.raw_ops.StatelessRandomUniformFullIntV2(
            shape=[3], key=order.key(self.seed, "augment", *self.purpose), counter=_counter(0, 0),
            alg=order.PHILOX, dtype=tf.uint32)
        # The cipher of `order` as a hash: whether an example's place in a random order is even.
        place = tf.raw_ops.RandomIndexShuffle(index=self.index, seed=words, rounds=order.ROUNDS,
                                              max_index=tf.constant(2 ** 62 - 1, tf.int64))
        return tf.equal((place + self.epoch) % 2, 0)

    def _first_row(self) -> int | None:
        """The first row where the rows are consecutive and known, as in the pipeline; else None."""
        rows = tf.get_static_value(self.rows)
        if rows is None or len(rows) == 0 or (rows[1:] - rows[:-1] != 1).any():
            return None
        return int(rows[0])


@dataclass(frozen=True, kw_only=True)
class ExampleDraws:
    """What an evaluation draws for the examples `index`, int64 [b]: the same in every run, for any seed."""

    index: tf.Tensor
    purpose: tuple[int | str, ...] = ()

    def of(self, *purpose: int | str) -> ExampleDraws:
        """The draws of one purpose, unrelated to those of any other."""
        return dataclasses.replace(self, purpose=purpose)

    def uniform(self, numbers: int) -> tf.Tensor:
        """float32 [b, numbers] in [0, 1)."""
        key = order.key("evaluate", *self.purpose)
        return tf.map_fn(lambda index: _uniform([numbers], key, 0, index), self.index,
                         fn_output_signature=tf.TensorSpec([numbers], tf.float32))


def _counter(block, stream):
    """Where a generator starts: the block, four numbers long each, of one of 2**64 streams."""
    return tf.cast(tf.stack([block, tf.cast(stream, tf.int64)]), tf.uint64)


def _uniform(shape, key, block, stream):
    return tf.raw_ops.StatelessRandomUniformV2(shape=shape, key=key, counter=_counter(block, stream),
                                               alg=order.PHILOX)
