"""Order: every epoch is a permutation of its own, any step is found at once, and no structure is visible."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline import order

seeds = st.integers(0, 2**63 - 1)


def epochs(count: int, *, seed: int, examples: int) -> np.ndarray:
    """The order of the first `count` epochs, [count, examples]."""
    index = order.indices(0, seed=seed, batch_size=count * examples, examples=examples)
    return index.numpy().reshape(count, examples)


def excess(values: np.ndarray, below: int, bins: int = 50) -> float:
    """How many standard deviations chi-square lies above its mean, if `values` are uniform in 0..below-1."""
    counts, _ = np.histogram(values, bins=bins, range=(0, below))
    expected = values.size / bins
    return (((counts - expected) ** 2 / expected).sum() - (bins - 1)) / np.sqrt(2 * (bins - 1))


def test_positions_continue_from_step_to_step():
    assert order.positions(3, 4).numpy().tolist() == [12, 13, 14, 15]
    assert order.positions(tf.constant(2**40, tf.int64), 2).numpy().tolist() == [2**41, 2**41 + 1]


@settings(max_examples=30, deadline=None)
@given(seed=seeds, examples=st.integers(1, 200), epoch=st.integers(0, 2**31))
def test_every_epoch_is_a_permutation(seed, examples, epoch):
    """Also of sets of one example, and however far the run has come. Mutation: max_index=examples."""
    index = order.indices(epoch, seed=seed, batch_size=examples, examples=examples)
    assert np.array_equal(np.sort(index), np.arange(examples))


@pytest.mark.parametrize("examples", [1437, 50_000])
def test_every_epoch_of_a_real_set_is_a_permutation_of_its_own(examples):
    """Mutations: the same key for every epoch; a key that ignores the seed."""
    orders = np.concatenate([epochs(3, seed=1, examples=examples), epochs(3, seed=2, examples=examples)])
    assert np.array_equal(np.sort(orders, axis=1), np.tile(np.arange(examples), (6, 1)))
    # Two independent permutations agree at one position on average, whatever their length.
    for first in range(6):
        for second in range(first):
            assert (orders[first] == orders[second]).sum() < 10


@settings(max_examples=30, deadline=None)
@given(seed=seeds, examples=st.integers(1, 50), batch_size=st.integers(1, 70), step=st.integers(0, 10**9))
def test_any_step_is_found_at_once_whatever_the_batch_size(seed, examples, batch_size, step):
    """A batch is the next rows of one stream. Mutation: every row in the epoch of the batch's first row."""
    def batch(step, size):
        return order.indices(step, seed=seed, batch_size=size, examples=examples).numpy()

    index = batch(step, batch_size)
    for row in (0, batch_size - 1):
        assert index[row] == batch(step * batch_size + row, 1)[0]
    assert np.array_equal(np.concatenate([batch(2 * step, batch_size), batch(2 * step + 1, batch_size)]),
                          batch(step, 2 * batch_size))


def test_step_may_be_a_tensor_in_a_graph():
    @tf.function(autograph=False, input_signature=[tf.TensorSpec([], tf.int64)])
    def graph(step):
        index = order.indices(step, seed=5, batch_size=16, examples=30)
        assert index.shape == [16]
        return index

    for step in (0, 1, 7, 10**12):
        assert np.array_equal(graph(step), order.indices(step, seed=5, batch_size=16, examples=30))


@pytest.mark.parametrize("examples, count", [(360, 40), (1437, 40), (50_000, 8)])
def test_no_structure_is_visible(examples, count):
    """Differences of neighbours, epochs and seeds are uniform; successive epochs are not correlated.

    Mutations: ROUNDS = 4 or 6, which fail at 50,000 examples by hundreds of standard deviations.
    """
    one, other = (epochs(count, seed=seed, examples=examples) for seed in (1, 2))
    # No difference of two members of a permutation is 0, a seventh of a bin of the smallest set.
    most = 12 if examples < 1000 else 8
    for lag in (1, 2, 3, 4, 8, 16):
        assert excess((one[:, lag:] - one[:, :-lag]) % examples, examples) < most, f"neighbours, lag {lag}"
    for lag in (1, 2, 3):
        assert excess((one[lag:] - one[:-lag]) % examples, examples) < most, f"epochs, lag {lag}"
    assert excess((one - other) % examples, examples) < most, "seeds"
    for first, second in [*zip(one, one[1:]), *zip(one, other)]:
        assert abs(np.corrcoef(first, second)[0, 1]) * np.sqrt(examples) < 5


def test_keys_depend_on_every_word_and_not_on_the_type_of_the_seed():
    """A seed read from a file may be a numpy number."""
    keys = [order.key(*words).numpy()[0] for words in ((1, "a"), (2, "a"), (1, "b"), (1, "a", 0), ("1", "a"))]
    assert len(set(keys)) == len(keys)
    assert np.array_equal(order.key(np.int64(1), "a"), order.key(1, "a"))


@settings(max_examples=50, deadline=None)
@given(examples=st.integers(1, 100), batch_size=st.integers(1, 130))
def test_an_evaluation_takes_every_example_once_in_order(examples, batch_size):
    """Mutation: mask <= examples."""
    seen = []
    for step in range(-(-examples // batch_size)):
        index, mask = order.sequential(step, batch_size=batch_size, examples=examples)
        assert index.numpy().max() < examples
        assert mask.numpy()[0]
        seen += index.numpy()[mask.numpy()].tolist()
    assert seen == list(range(examples))
