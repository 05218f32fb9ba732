"""What is hidden is a square or a rectangle, of the right size, at the right place, as often as asked."""

import math

import numpy as np
import pytest

from distorting import BATCH, IMAGES, evaluate, train, uniform


@pytest.mark.parametrize("size", [1, 7, 8, 40])
def test_cutout_hides_a_square_around_a_random_pixel(size):
    """Mutations: a square that never leaves the image; the corner instead of the centre; one pixel less."""
    result = train(f"cutout:{size}:-1")
    centres = (uniform(0, "Cutout", 2) * [32, 30]).astype(int)
    for row, image in enumerate(IMAGES.astype(np.float32)):
        top, left = centres[row] - size // 2
        image[max(top, 0):top + size, max(left, 0):left + size] = -1
        assert np.array_equal(result[row], image)


def test_cutout_fills_with_zero_at_its_place_in_the_list():
    """After normalisation it is the mean, before it black."""
    later, before = train("normalize:128:64,cutout:8"), train("cutout:8,normalize:128:64")
    assert (later == 0).all(-1).sum() > BATCH * 16 and (before == -2).all(-1).sum() > BATCH * 16


def test_centres_are_anywhere():
    count = 20_000
    hidden = train("cutout:1", np.ones((count, 5, 4, 1), np.float32))[..., 0] == 0
    assert (hidden.sum((1, 2)) == 1).all()
    counts = hidden.sum(0).ravel()
    assert ((counts - count / 20) ** 2 / (count / 20)).sum() < 20 + 6 * np.sqrt(40)


def erased(text, count=20_000, side=40):
    """(whether, height, width) of what `text` hides in white images, asserted to be a full rectangle."""
    hidden = train(text, np.ones((count, side, side, 1), np.float32))[..., 0] == 0
    high, wide = hidden.any(2).sum(1), hidden.any(1).sum(1)
    assert np.array_equal(hidden.sum((1, 2)), high * wide)
    return hidden.any((1, 2)), high, wide


@pytest.mark.parametrize("text, probability, areas", [
    ("random_erasing", 0.5, (0.02, 0.4)), ("random_erasing:0.2:0.1:0.11", 0.2, (0.1, 0.11)),
    ("random_erasing:1:0.3:0.3", 1.0, (0.3, 0.3))])
def test_random_erasing_hides_a_rectangle_as_often_and_as_large_as_asked(text, probability, areas):
    """Mutations: the complement of the probability; always; the side for the area."""
    chosen, high, wide = erased(text)
    count = len(chosen)
    assert abs(chosen.mean() - probability) <= 5 * 0.5 / np.sqrt(count) + (probability == 1) * 1e-3
    high, wide = high[chosen], wide[chosen]
    # Sides are whole pixels: half a pixel more or less would do.
    assert ((high + 0.51) * (wide + 0.51) > areas[0] * 1600).all()
    assert ((high - 0.51) * (wide - 0.51) < areas[1] * 1600).all()
    assert np.ptp(high * wide) > 0.8 * (areas[1] - areas[0]) * 1600
    aspect = np.log(wide / high)
    assert np.abs(aspect).max() < math.log(1 / 0.3) + 0.3
    assert abs(aspect.mean()) < 0.05 and aspect.std() > 0.4


def test_random_erasing_fills_with_what_it_is_told_and_leaves_the_rest():
    result = train("random_erasing:1:0.1:0.2:300")
    inside = (result == 300).all(-1, keepdims=True)
    assert np.array_equal(np.where(inside, IMAGES, result), IMAGES)
    assert 0.05 < inside.mean() < 0.25


@pytest.mark.parametrize("text", ["cutout:8", "random_erasing:1"])
def test_nothing_is_hidden_in_evaluation(text):
    assert np.array_equal(evaluate(text), IMAGES)
    assert not np.array_equal(train(text), IMAGES)


def test_where_no_rectangle_fits_nothing_is_hidden():
    """An image so long that nine tenths of it have no allowed aspect. Mutation: all of it."""
    images = np.ones((50, 4, 60, 1), np.float32)
    assert np.array_equal(train("random_erasing:1:0.9:1", images), images)
