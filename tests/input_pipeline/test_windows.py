"""Random windows have the areas and aspects that were asked for, and lie anywhere inside."""

import math

import numpy as np
import tensorflow as tf

from input_pipeline import windows

COUNT = 20_000


def draw(height, width, areas, max_aspect):
    uniform = np.random.default_rng(0).random((COUNT, windows.NUMBERS), np.float32)
    window = windows.draw(tf.constant(uniform), height=height, width=width, areas=areas,
                          max_aspect=max_aspect)
    return {name: value.numpy() for name, value in vars(window).items()}


def test_areas_and_aspects_are_even_and_places_are_inside():
    """Small enough that every shape fits. Mutations: aspect even, not its logarithm; area of the side."""
    height, width = 1000, 1400
    window = draw(height, width, (0.05, 0.25), 2.0)
    assert window["found"].all()
    area = window["height"] * window["width"] / (height * width)
    assert 0.049 < area.min() < 0.051 and 0.249 < area.max() < 0.251
    assert abs(area.mean() - 0.15) < 5 * 0.2 / np.sqrt(12 * COUNT)
    aspect = np.log(window["width"] / window["height"]) / math.log(2)
    assert -1.01 < aspect.min() < -0.99 and 0.99 < aspect.max() < 1.01
    assert abs(aspect.mean()) < 5 * 2 / np.sqrt(12 * COUNT) and abs(aspect.std() - 2 / np.sqrt(12)) < 0.01
    for place, size, whole in (("top", "height", height), ("left", "width", width)):
        room = window[place] / (whole - window[size])
        assert window[place].min() >= 0 and (window[place] + window[size]).max() <= whole
        assert abs(room.mean() - 0.5) < 5 / np.sqrt(12 * COUNT) and room.max() > 0.999


def test_the_first_shape_that_fits_is_taken_and_none_gives_the_whole_image():
    """By hand, in Python, one row at a time. Mutation: the last attempt."""
    uniform = np.random.default_rng(1).random((300, windows.NUMBERS), np.float32)
    window = windows.draw(tf.constant(uniform), height=8, width=40, areas=(0.5, 1), max_aspect=3.0)
    found = 0
    for row, numbers in enumerate(uniform.astype(np.float64)):
        expected = 8, 40
        for attempt in range(windows.ATTEMPTS):
            area = 320 * (0.5 + numbers[attempt] / 2)
            aspect = 3.0 ** (2 * numbers[windows.ATTEMPTS + attempt] - 1)
            wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if high <= 8 and wide <= 40:
                expected, found = (high, wide), found + 1
                break
        assert bool(window.found[row]) == (attempt < windows.ATTEMPTS - 1 or expected != (8, 40))
        assert (int(window.height[row]), int(window.width[row])) == expected
    assert 0 < found < 300  # both are met


def test_every_place_of_a_small_image_is_met():
    window = draw(4, 4, (1 / 16, 1 / 16), 1.0)
    assert set(window["height"]) == set(window["width"]) == {1}
    counts = np.bincount(window["top"] * 4 + window["left"], minlength=16)
    assert ((counts - COUNT / 16) ** 2 / (COUNT / 16)).sum() < 16 + 6 * np.sqrt(32)


def test_fill_changes_the_rectangle_and_nothing_else():
    """Also where it reaches beyond the image. Mutation: one column more."""
    images = np.random.default_rng(2).random((5, 6, 7, 2), np.float32) + 1
    others = -images
    rectangles = np.int32([[0, 0, 6, 7], [2, 3, 2, 1], [-2, -3, 4, 5], [4, 5, 9, 9], [1, 1, 0, 3]])
    for content, inside in ((tf.constant(others), others), (0.0, 0 * images)):
        result = windows.fill(images, *(tf.constant(part) for part in rectangles.T), content).numpy()
        for row, (top, left, high, wide) in enumerate(rectangles):
            expected = images[row].copy()
            part = slice(max(top, 0), max(top + high, 0)), slice(max(left, 0), max(left + wide, 0))
            expected[part] = inside[row][part]
            assert np.array_equal(result[row], expected)
