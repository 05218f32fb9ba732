"""The batches of replicas: one ordered global batch, whoever computes which part of it.

Law 1 of the input: the same global batches on any number of replicas, workers and strategies. Law 2: a
resume at any step gives the same tail. Law 5: an evaluation takes every example exactly once.
"""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from input_pipeline import augment, datasets, pipeline, sources

QUICK = (Phase.explicit, Phase.reuse, Phase.generate)  # no shrinking: every example builds a dataset
BATCH = 24  # divides by 1, 2, 3, 4, 6, 8
TEXT = "crop:6,flip,brightness:63,contrast:0.2:1.8,standardize"
AUGMENTATION = augment.parse(TEXT)
SOURCE = datasets.load("synthetic", "train", input_shape=(8, 8, 3), train_examples=100)


def counted(examples: int) -> sources.Arrays:
    """A source whose image n is n."""
    images = np.arange(examples, dtype=np.int32).reshape(-1, 1, 1, 1)
    return sources.Arrays(images, np.zeros(examples, int), ("a",))


def contexts(replicas: int, workers: int):
    return [tf.distribute.InputContext(workers, worker, replicas) for worker in range(workers)]


def training(context, *, seed=1, start_step=0, source=SOURCE, augmentation=AUGMENTATION, **options):
    return pipeline.training(source, augmentation, seed=seed, batch_size=BATCH, start_step=start_step,
                             **pipeline.share(context), **options)


def global_batches(replicas: int, workers: int, steps: int, make=training, **options) -> list[dict]:
    """The first `steps` global batches, put together from every worker's replicas in replica order."""
    datasets_ = [iter(make(context, **options)) for context in contexts(replicas, workers)]
    batches = []
    for _ in range(steps):
        parts = [next(iterator) for iterator in datasets_ for _ in range(replicas // workers)]
        batches.append({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    return batches


def assert_equal(batches, expected):
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected):
        assert batch.keys() == other.keys()
        for name in batch:
            assert np.array_equal(batch[name], other[name]), name


@settings(max_examples=6, deadline=None, phases=QUICK)
@given(split=st.sampled_from([(2, 1), (2, 2), (3, 1), (4, 2), (6, 3), (8, 1), (24, 2)]),
       seed=st.integers(0, 2**63 - 1), start_step=st.integers(0, 10**6))
def test_any_split_gives_the_same_global_batches(split, seed, start_step):
    """Mutations: number rows within the replica; workers in reverse; random numbers by replica."""
    expected = global_batches(1, 1, 2, seed=seed, start_step=start_step)
    assert expected[0]["row"].tolist() == list(range(BATCH))
    assert_equal(global_batches(*split, 2, seed=seed, start_step=start_step), expected)


@settings(max_examples=6, deadline=None, phases=QUICK)
@given(start_step=st.integers(0, 12), replicas=st.sampled_from([1, 2, 4]))
def test_a_resume_at_any_step_gives_the_same_tail(start_step, replicas):
    """Three epochs long. Mutations: counter from 0; random numbers by batches since the start."""
    whole = global_batches(1, 1, 15)
    assert_equal(global_batches(replicas, 1, 15 - start_step, start_step=start_step), whole[start_step:])


def test_a_batch_holds_what_its_indices_say():
    """Every epoch takes every example once; images and labels are those of the index that travels along."""
    batches = global_batches(2, 1, 25, source=counted(100), augmentation=augment.parse(""))
    index = np.concatenate([batch["index"] for batch in batches])
    assert np.array_equal(np.concatenate([batch["input"] for batch in batches])[:, 0, 0, 0], index)
    for epoch in index.reshape(6, 100):
        assert sorted(epoch) == list(range(100))
    assert not np.array_equal(index[:100], index[100:200])


def test_threads_do_not_change_the_order():
    expected = global_batches(2, 1, 20)
    assert_equal(global_batches(2, 1, 20, threads=4, prefetch_steps=1), expected)


@pytest.mark.parametrize("replicas, workers", [(1, 1), (4, 2), (4, 1)])
def test_shapes_are_static_and_training_never_ends(replicas, workers):
    """So that a step is traced once, whatever the last batch."""
    rows = BATCH // replicas
    dataset = training(contexts(replicas, workers)[-1])
    assert dataset.element_spec == {
        "input": tf.TensorSpec([rows, 6, 6, 3], tf.float32), "label": tf.TensorSpec([rows], tf.int32),
        "index": tf.TensorSpec([rows], tf.int64), "row": tf.TensorSpec([rows], tf.int32)}
    evaluation = pipeline.evaluation(SOURCE, AUGMENTATION, batch_size=BATCH,
                                     **pipeline.share(contexts(replicas, workers)[-1]))
    assert evaluation.element_spec == dataset.element_spec | {"mask": tf.TensorSpec([rows], tf.float32)}


@settings(max_examples=12, deadline=None, phases=QUICK)
@given(examples=st.integers(1, 60), rows=st.integers(1, 9),
       split=st.sampled_from([(1, 1), (2, 1), (4, 2), (8, 2)]))
def test_an_evaluation_takes_every_example_once_over_all_replicas(examples, rows, split):
    """Partial and one-example last batches, and batches larger than the set. Mutation: drop the remainder."""
    replicas, workers = split
    steps = -(-examples // (rows * replicas))
    source = counted(examples)
    seen = []
    for context in contexts(replicas, workers):
        batches = list(pipeline.evaluation(source, augment.parse(""), batch_size=rows * replicas,
                                           **pipeline.share(context)))
        assert len(batches) == steps * replicas // workers  # on every worker alike
        for batch in batches:
            assert np.array_equal(batch["input"][:, 0, 0, 0], batch["index"])
            assert set(batch["mask"].numpy()) <= {0.0, 1.0}
            seen += batch["index"].numpy()[batch["mask"].numpy() == 1].tolist()
    assert sorted(seen) == list(range(examples))


def test_evaluation_images_are_the_fixed_counterpart():
    batch = next(iter(pipeline.evaluation(SOURCE, AUGMENTATION, batch_size=8, replicas=1, local_replicas=1)))
    raw = SOURCE.read(tf.range(8, dtype=tf.int64))
    np.testing.assert_allclose(batch["input"], AUGMENTATION.evaluate(raw["input"]), atol=1e-5)
    assert np.array_equal(batch["label"], raw["label"])


def test_share_gives_each_worker_its_own_replicas():
    assert [pipeline.share(context) for context in contexts(6, 3)] == [
        {"replicas": 6, "local_replicas": 2, "first_local_replica": first} for first in (0, 2, 4)]


def mirrored(count):
    # Collective keys are shared within a process; a real run has one strategy.
    tf.distribute.MirroredStrategy._collective_key_base += 100_000
    return tf.distribute.MirroredStrategy([f"CPU:{k}" for k in range(count)])


def central(count):
    return tf.distribute.experimental.CentralStorageStrategy([f"CPU:{k}" for k in range(count)], "CPU:0")


STRATEGIES = {"one device": lambda: tf.distribute.OneDeviceStrategy("CPU:1"),
              "mirrored 2": lambda: mirrored(2), "mirrored 4": lambda: mirrored(4),
              "central 2": lambda: central(2), "central 4": lambda: central(4)}


@pytest.mark.parametrize("name", STRATEGIES)
def test_replica_r_gets_exactly_its_rows_of_every_global_batch(name):
    """Seen from within `strategy.run`, where it matters. Replicas see different data; one trace of the step.

    Mutations: yield replicas in reverse; give every replica the whole worker's rows; skip the unbatching.
    """
    strategy = STRATEGIES[name]()
    replicas = strategy.num_replicas_in_sync
    rows = BATCH // replicas
    expected = global_batches(1, 1, 6, start_step=3)
    iterator = iter(pipeline.distribute(strategy, lambda context: training(context, start_step=3)))

    @tf.function(autograph=False)
    def step(iterator):
        def replica(batch):
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            return batch | {"replica": tf.identity(number)}
        return strategy.run(replica, args=(next(iterator),))

    for whole in expected:
        batch = {key: strategy.experimental_local_results(value) for key, value in step(iterator).items()}
        assert [int(number) for number in batch.pop("replica")] == list(range(replicas))
        for replica in range(replicas):
            part = slice(replica * rows, (replica + 1) * rows)
            for key, values in batch.items():
                assert np.array_equal(values[replica], whole[key][part]), (key, replica)
        assert len({tuple(values.numpy()) for values in batch["index"]}) == replicas
    assert step.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_distributed_evaluation_takes_every_example_once_and_ends(name):
    """61 examples in batches of 24: the last one is partial, on some replicas empty but for padding."""
    strategy = STRATEGIES[name]()
    source = counted(61)
    dataset = pipeline.distribute(strategy, lambda context: pipeline.evaluation(
        source, augment.parse(""), batch_size=BATCH, **pipeline.share(context)))

    @tf.function(autograph=False)
    def step(batch):
        return strategy.run(lambda batch: tf.where(batch["mask"] > 0, batch["index"], -1), args=(batch,))

    seen = [index for batch in dataset for part in strategy.experimental_local_results(step(batch))
            for index in part.numpy() if index >= 0]
    assert sorted(seen) == list(range(61))
    assert step.experimental_get_tracing_count() == 1
