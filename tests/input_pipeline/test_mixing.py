"""An example is mixed with its partner in the global batch, and the share says by how much."""

import numpy as np
import pytest
import tensorflow as tf

from distorting import BATCH, IMAGES, SEED, STEP, Given, batch, evaluate
from input_pipeline import augment, mixing
from input_pipeline.draws import StepDraws

PARTNERS = np.arange(BATCH) ^ 1


def drawn_shares(name: str, alpha: float) -> np.ndarray:
    draws = StepDraws(seed=SEED, step=STEP, rows=tf.range(BATCH), batch_size=BATCH)
    return draws.of(0, name).larger_share(alpha).numpy()


def test_mixup_is_the_weighted_mean_with_the_partner():
    """Mutations: the partner's share for the own; the previous row as partner; one share for all."""
    result = batch("mixup:1")
    assert result["partner"].tolist() == PARTNERS.tolist() and result["partner"].dtype == np.int32
    share = result["share"]
    assert np.array_equal(share, drawn_shares("Mixup", 1.0)) and share.dtype == np.float32
    assert (share >= 0.5).all() and len(np.unique(share)) == BATCH
    weight = share[:, None, None, None].astype(np.float64)
    np.testing.assert_allclose(result["input"], weight * IMAGES + (1 - weight) * IMAGES[PARTNERS], atol=1e-4)


def test_cutmix_is_a_rectangle_of_the_partner_and_its_share_the_rest():
    """Every pixel is the own or the partner's; the share counts them.

    Mutations: the share before clipping; the rectangle from elsewhere in the partner.
    """
    own = np.arange(BATCH)[:, None, None, None] * 1000 + np.arange(32 * 30).reshape(1, 32, 30, 1)
    images = np.broadcast_to(own, (BATCH, 32, 30, 2)).astype(np.float32)
    result = batch("cutmix:1", images)
    theirs = (result["input"] == images[PARTNERS])[..., 0]
    assert np.array_equal(result["input"], np.where(theirs[..., None], images[PARTNERS], images))
    np.testing.assert_allclose(result["share"], 1 - theirs.mean((1, 2)), atol=1e-6)
    high, wide = theirs.any(2).sum(1), theirs.any(1).sum(1)
    assert np.array_equal(theirs.sum((1, 2)), high * wide)
    assert (result["share"] >= 0.5).all() and (result["share"] < 0.95).sum() > 4


@pytest.mark.parametrize("share, centre, rectangle", [
    (0.75, (0.5, 0.5), (5, 15, 4, 12)),    # half of each side, around the middle
    (0.75, (0.0, 0.0), (0, 5, 0, 4)),      # a quarter of it is left in the corner
    (0.75, (0.999, 0.5), (14, 20, 4, 12)),
    (1.0, (0.3, 0.3), (0, 0, 0, 0)),       # nothing
    (0.5, (0.5, 0.5), (3, 17, 3, 14))])
def test_the_rectangle_of_cutmix_by_hand(share, centre, rectangle):
    """On 20 x 16 pixels, as top, bottom, left, right."""
    images = tf.zeros([1, 20, 16, 1])
    mixed, left_over = mixing.Cutmix(1.0).train(images, images + 1, Given(share=[share], uniform=[centre]))
    expected = np.zeros([20, 16])
    top, bottom, left, right = rectangle
    expected[top:bottom, left:right] = 1
    assert np.array_equal(mixed[0, :, :, 0], expected)
    np.testing.assert_allclose(left_over, [1 - expected.mean()], atol=1e-6)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_any_split_into_pairs_mixes_alike(name):
    """Two rows at a time or all: the same mixtures. Mutation: partners by place in the worker."""
    whole = batch(f"flip,{name}:1")
    parts = [batch(f"flip,{name}:1", IMAGES[first:first + 2], rows=[first, first + 1], batch_size=BATCH)
             for first in range(0, BATCH, 2)]
    for key in ("input", "share"):
        assert np.array_equal(np.concatenate([part[key] for part in parts]), whole[key])
    assert all(part["partner"].tolist() == [1, 0] for part in parts)


@pytest.mark.parametrize("rows", [[0], [0, 1, 2], [1, 2], [3, 2], [0, 2], [0, 1, 3, 4]])
def test_rows_that_are_no_pairs_are_refused(rows):
    with pytest.raises(AssertionError, match="no pairs"):
        batch("mixup:1", IMAGES[rows], rows=rows, batch_size=BATCH)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_evaluation_mixes_nothing(name):
    assert np.array_equal(evaluate(f"{name}:1"), IMAGES)
    index = tf.range(BATCH, dtype=tf.int64)
    assert augment.parse(f"{name}:1").evaluate_batch(IMAGES, index).keys() == {"input"}


def test_images_are_mixed_as_the_operations_before_left_them():
    """The partner too is distorted by its own numbers."""
    before = batch("brightness:63")["input"].astype(np.float64)
    result = batch("brightness:63,mixup:1")
    weight = result["share"][:, None, None, None]
    np.testing.assert_allclose(result["input"], weight * before + (1 - weight) * before[PARTNERS], atol=1e-4)
