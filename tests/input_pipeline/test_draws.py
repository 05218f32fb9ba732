"""Random numbers belong to a row or an example, whoever asks, and have the distribution that they should."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from input_pipeline.draws import ExampleDraws, StepDraws


def step_draws(rows, *, seed=1, step=2, batch_size=24, purpose=(0, "Crop"), **options):
    rows = tf.constant(rows, tf.int32)
    return StepDraws(seed=seed, step=step, rows=rows, batch_size=batch_size, **options).of(*purpose)


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.integers(0, 23), min_size=1, max_size=24), numbers=st.sampled_from([1, 3, 4, 22, 28]),
       seed=st.integers(0, 2**63 - 1), step=st.integers(0, 2**40))
def test_any_rows_in_any_order_draw_what_the_whole_batch_draws(rows, numbers, seed, step):
    """Mutation: number rows from the first one asked for."""
    whole = step_draws(range(24), seed=seed, step=step).uniform(numbers).numpy()
    shares = step_draws(range(24), seed=seed, step=step).larger_share(0.4).numpy()
    some = step_draws(rows, seed=seed, step=step)
    assert np.array_equal(some.uniform(numbers), whole[rows])
    assert np.array_equal(some.larger_share(0.4), shares[rows])


@settings(max_examples=25, deadline=None)
@given(first=st.integers(0, 23), count=st.integers(2, 24), fours=st.integers(1, 9), step=st.integers(0, 9))
def test_consecutive_rows_are_drawn_alone_and_alike(first, count, fours, step):
    """The short way, for rows that are known and consecutive. Mutation: start one block late."""
    rows = range(first, min(first + count, 24))
    whole = step_draws(range(23, -1, -1), step=step).uniform(4 * fours).numpy()[::-1]  # the long way
    assert np.array_equal(step_draws(rows, step=step).uniform(4 * fours), whole[rows.start:rows.stop])


def test_the_short_way_draws_no_more_than_its_own_rows():
    """A worker of many makes its own numbers only."""
    graph = tf.function(lambda: StepDraws(seed=1, step=0, rows=tf.range(8, 16), batch_size=4096).uniform(784),
                        autograph=False).get_concrete_function().graph
    shapes = {tuple(operation.outputs[0].shape) for operation in graph.get_operations()
              if operation.type == "StatelessRandomUniformV2"}
    assert shapes == {(8, 784)}


def test_numbers_depend_on_seed_step_and_purpose():
    base = step_draws(range(24))
    for change in ({"seed": 2}, {"step": 3}, {"step": 2 + 2**32}, {"purpose": (1, "Crop")},
                   {"purpose": (0, "Mask")}):
        other = step_draws(range(24), **change)
        assert not np.isin(other.uniform(3), base.uniform(3)).any()
        assert not np.array_equal(other.larger_share(0.5), base.larger_share(0.5))


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 8.0])
def test_shares_are_the_larger_part_of_a_beta_distribution(alpha):
    """Against scipy's distribution function. Mutations: the smaller part; one gamma number for both."""
    count = 20_000
    shares = step_draws(range(count), batch_size=count).larger_share(alpha).numpy()
    assert shares.dtype == np.float32 and 0.5 <= shares.min() and shares.max() <= 1
    beta = stats.beta(alpha, alpha)
    for share in (0.5001, 0.55, 0.6, 0.75, 0.9, 0.99, 0.9999):
        expected = beta.cdf(share) - beta.cdf(1 - share)
        assert abs((shares <= share).mean() - expected) < 5 * 0.5 / np.sqrt(count)


def test_the_smallest_alphas_leave_no_share_undefined():
    """Gamma numbers too small for any float. Mutation: divide as usual."""
    shares = step_draws(range(2000), batch_size=2000).larger_share(1e-4).numpy()
    assert np.isfinite(shares).all() and (shares > 0.999).mean() > 0.99


def test_alternation_is_even_and_unrelated_to_index_and_seed():
    """Half of the examples, half of each residue, and half agree between seeds."""
    count = 40_000
    index, epoch = tf.range(count, dtype=tf.int64), tf.zeros([count], tf.int64)

    def mirrored(seed, epoch=epoch):
        draws = step_draws(range(count), batch_size=count, seed=seed, index=index, epoch=epoch)
        return draws.alternating().numpy()

    first = mirrored(1)
    tolerance = 5 * 0.5 / np.sqrt(count)
    assert abs(first.mean() - 0.5) < tolerance
    assert abs((first == mirrored(2)).mean() - 0.5) < tolerance
    assert abs((first[1:] == first[:-1]).mean() - 0.5) < tolerance
    for residue in range(4):
        assert abs(first[residue::4].mean() - 0.5) < 2 * tolerance
    assert np.array_equal(mirrored(1, epoch + 1), ~first) and np.array_equal(mirrored(1, epoch + 6), first)


def test_an_example_draws_alike_wherever_it_stands():
    """Mutation: number examples within the batch."""
    whole = ExampleDraws(index=tf.range(30, dtype=tf.int64)).of(1, "Mask").uniform(5).numpy()
    some = ExampleDraws(index=tf.constant([29, 3, 3, 12], tf.int64)).of(1, "Mask").uniform(5).numpy()
    assert np.array_equal(some, whole[[29, 3, 3, 12]])
    assert len(np.unique(whole)) == whole.size
    assert not np.isin(ExampleDraws(index=tf.range(30, dtype=tf.int64)).of(2, "Mask").uniform(5), whole).any()
