"""What the tasks reckon, by hand: mixed labels, restored images, forecasts beside the naive one, what they show."""
import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import augment, datasets
from models import registry
from trainer import names, recipes, task
from trainer.classification import Classification
from trainer.forecasting import Forecasting
from trainer.reconstruction import Reconstruction

LOGITS = tf.constant([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]])


def test_of_a_mixed_image_both_labels_count_by_their_shares():
    what = Classification(classes=3)
    mixed = {"label": tf.constant([0, 2]), "other_label": tf.constant([1, 2]), "share": tf.constant([0.75, 0.5])}
    one, other = (what.losses(LOGITS, {"label": mixed[name]}).numpy() for name in ("label", "other_label"))
    assert one[0] != other[0]
    np.testing.assert_allclose(what.losses(LOGITS, mixed), [0.75 * one[0] + 0.25 * other[0], one[1]], rtol=1e-6)
    smoothed = dataclasses.replace(what, label_smoothing=0.1)
    uniform = -tf.reduce_mean(tf.nn.log_softmax(LOGITS), 1).numpy()
    np.testing.assert_allclose(smoothed.losses(LOGITS, mixed), 0.9 * what.losses(LOGITS, mixed).numpy() + 0.1 * uniform,
                               rtol=1e-6)


def test_the_confusion_matrix_is_shown_dark_where_frequent():
    picture = Classification(classes=2).pictures(np.array([[3.0, 1.0], [0.0, 0.0]]), {})["confusion_matrix"]
    assert picture.shape == (1, 32, 32, 1) and picture.dtype == np.uint8
    assert [picture[0, 0, 0, 0], picture[0, 0, 16, 0], picture[0, 16, 0, 0]] == [63, 191, 255]


def test_a_matrix_of_many_classes_is_shown_no_larger_and_one_of_too_many_not_at_all():
    """1,000 classes at 16 pixels each were 2 GiB. Mutations: cells of one size; a matrix of any number."""
    picture = Classification(classes=1000).pictures(np.eye(1000), {})["confusion_matrix"]
    assert picture.shape == (1, 1000, 1000, 1) and picture.nbytes == 1_000_000
    many = Classification(classes=100_000)
    batch = {"label": tf.constant([5]), "mask": tf.constant([1.0])}
    count = many.count(tf.one_hot([7], 100_000), batch)
    assert many.count_shape == tuple(count.shape) == () and many.pictures(count.numpy(), {}) == {}


def reconstruction(text: str = "normalize:100:50") -> Reconstruction:
    return Reconstruction(output_shape=(2, 2, 1), inverse=augment.parse(text).inverse)


def test_a_restored_image_is_compared_with_the_clean_one():
    what = reconstruction()
    outputs, clean = tf.zeros([2, 2, 2, 1]), tf.reshape(tf.constant([1.0, 1, 1, 1, 0, 0, 0, 2]), [2, 2, 2, 1])
    spoilt = {"input": outputs, "target": clean}
    np.testing.assert_allclose(what.losses(outputs, spoilt), [1, 1])
    np.testing.assert_allclose(what.sums(outputs, spoilt)["mse"], [1, 1])
    np.testing.assert_allclose(what.losses(outputs, {"input": clean}), [1, 1])  # nothing was spoilt: the input itself
    np.testing.assert_allclose(what.losses(outputs, {"input": outputs}), [0, 0])


def test_restored_images_are_given_in_raw_units_and_shown_in_three_rows():
    what = reconstruction()
    np.testing.assert_allclose(what.predictions(tf.ones([1, 2, 2, 1])), np.full([1, 2, 2, 1], 150))
    rows = {"input": 0.0, "outputs": 0.5, "target": 1.0}
    samples = {name: np.full([3, 2, 2, 1], value, np.float32) for name, value in rows.items()}
    samples["target"][0, 0, 0] = 0  # the range that is shown is the target's
    picture = what.pictures(np.zeros([]), samples)["restored"]
    assert picture.shape == (1, 6 * 32, 6 * 32, 1)  # enlarged: 64 pixels an image
    assert picture[0, [0, 2 * 32, 5 * 32], 5 * 32, 0].tolist() == [0, 127, 255]
    assert (picture[0, 4 * 32:5 * 32, :32] == 0).all()


def test_a_forecast_is_judged_beside_the_naive_one():
    what = Forecasting(horizon=12)
    batch = {"input": tf.zeros([2, 24, 1]), "target": tf.fill([2, 12], 3.0)}
    sums = what.sums(tf.fill([2, 12], 2.0), batch)
    np.testing.assert_allclose(sums["mae"], [1, 1])
    np.testing.assert_allclose(sums["mae_naive"], [3, 3])
    samples = {name: value.numpy() for name, value in {**batch, "outputs": tf.ones([2, 12])}.items()}
    picture = what.pictures(np.zeros([]), samples)["forecast"]
    assert picture.shape == (1, 320, 640, 3) and len(np.unique(picture)) > 20


@pytest.mark.parametrize("name", ["digits", "mnist_autoencoder", "co2_forecast"])
def test_the_task_is_the_networks(name):
    config = recipes.RECIPES[name]()
    what = task.build(dataclasses.replace(config, classes=10), datasets.facts(config.dataset))
    assert type(what).__name__.lower() == registry.check(config.model).task
    assert set(what.train_metrics) <= set(what.metrics) and what.best in what.metrics


def test_of_errors_less_is_better():
    assert names.score("mse", 1.0) > names.score("mse", 2.0)
    assert names.score("naive_mae", 1.0) > names.score("naive_mae", 2.0)
    assert names.score("precision_at_1", 1.0) < names.score("precision_at_1", 2.0)


def test_every_network_has_a_task_that_there_is():
    """Mutation: a task's name misspelt in the registry."""
    assert {network.task for network in registry.NETWORKS.values()} == set(task.TASKS)
