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


class Slow:
    """A source with the examples of `source`, decoded one by one; `broken` is one that cannot be."""

    def __init__(self, source, broken: int = -1):
        self.source, self.broken = source, broken
        self.input_shape, self.classes = source.input_shape, source.classes

    def __len__(self):
        return len(self.source)

    def read(self, indices):
        return self.source.read(indices)

    def fetch(self, indices):
        return {"number": indices, "label": self.source.read(indices)["label"]}

    def decode_one(self, fetched):
        whole = tf.debugging.Assert(fetched["number"] != self.broken, ["broken"])
        with tf.control_dependencies([whole]):
            images = self.source.read(fetched["number"][tf.newaxis])["input"]
        return {"input": images[0], "label": fetched["label"]}

    def find_broken(self, indices):
        return (f"number {self.broken}", "is broken") if self.broken in indices else None


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


@pytest.mark.parametrize("replicas, workers, threads", [(1, 1, 4), (2, 1, 1), (4, 2, None)])
def test_a_slow_source_gives_the_same_batches(replicas, workers, threads):
    """Mutations: take examples as they are ready; batch them by another number of rows."""
    expected = global_batches(1, 1, 9, start_step=7)
    assert_equal(global_batches(replicas, workers, 9, start_step=7, source=Slow(SOURCE), threads=threads), expected)


def test_a_broken_example_stops_the_step_that_needs_it_and_is_named():
    """Mutations: skip it; stop as soon as it is met ahead of time; look in the batch before."""
    batches = global_batches(1, 1, 4)
    broken = int(batches[2]["index"][5])
    step = next(k for k, batch in enumerate(batches) if broken in batch["index"])
    iterator = iter(training(contexts(1, 1)[0], source=Slow(SOURCE, broken)))
    for k in range(step):
        assert np.array_equal(next(iterator)["index"], batches[k]["index"])
    with pytest.raises(pipeline.READ_ERRORS):
        next(iterator)
    for k in range(step + 1):
        found = pipeline.unreadable(Slow(SOURCE, broken), seed=1, batch_size=BATCH, step=k)
        assert found == (None if k < step else f"number {broken}: is broken")
    assert pipeline.unreadable(Slow(SOURCE, broken)) == f"number {broken}: is broken"
    assert pipeline.unreadable(Slow(SOURCE)) is None and pipeline.unreadable(SOURCE) is None


def test_a_broken_file_is_named_with_its_path(tmp_path):
    """From a real folder, through threads, in training and in evaluation."""
    (tmp_path / "train/a").mkdir(parents=True)
    for k in range(BATCH):
        (tmp_path / f"train/a/{k:02d}.png").write_bytes(tf.io.encode_png(tf.fill([4, 4, 3], np.uint8(k))).numpy())
    source = datasets.load("image_folder", "train", str(tmp_path), image_size=4)
    [batch] = global_batches(1, 1, 1, source=source, augmentation=augment.parse(""))
    assert np.array_equal(batch["input"][:, 0, 0, 0], batch["index"])
    (tmp_path / "train/a/03.png").write_bytes(b"\xff\xd8\xff no more")
    with pytest.raises(pipeline.READ_ERRORS):
        global_batches(1, 1, 1, source=source, augmentation=augment.parse(""))
    with pytest.raises(pipeline.READ_ERRORS):
        list(pipeline.evaluation(source, augment.parse(""), batch_size=8, replicas=2, local_replicas=2))
    expected = f"{tmp_path}/train/a/03.png: is a damaged JPEG file: Invalid JPEG data, size 11"
    assert pipeline.unreadable(source) == expected
    assert pipeline.unreadable(source, seed=1, batch_size=BATCH, step=0) == expected


def classed(examples: int) -> sources.Arrays:
    """A source whose image n is n, and its label too."""
    images = np.arange(examples, dtype=np.float32).reshape(-1, 1, 1, 1)
    return sources.Arrays(images, np.arange(examples), tuple(map(str, range(examples))))


def test_a_worker_reads_its_own_rows_and_no_others():
    """An example that cannot be read stops its own worker. Mutation: read the global batch, then take a part of it."""
    [batch] = global_batches(1, 1, 1)
    source = Slow(SOURCE, broken=int(batch["index"][-1]))
    first, second = (iter(training(context, source=source)) for context in contexts(2, 2))
    assert next(first)["index"].numpy().tolist() == batch["index"][:BATCH // 2].tolist()
    with pytest.raises(pipeline.READ_ERRORS):
        next(second)


@pytest.mark.parametrize("replicas, workers", [(1, 1), (4, 1), (8, 2)])
def test_a_mixed_example_says_of_which_two_and_how_much(replicas, workers):
    """Also where a replica has an odd number of rows. Mutation: the place of the partner as its label."""
    batches = global_batches(replicas, workers, 3, source=classed(100), augmentation=augment.parse("mixup:1"))
    for batch in batches:
        own, other, share = batch["label"], batch["other_label"], batch["share"]
        assert np.array_equal(own, batch["index"]) and np.array_equal(other, batch["index"][np.arange(BATCH) ^ 1])
        np.testing.assert_allclose(batch["input"][:, 0, 0, 0], share * own + (1 - share) * other, atol=1e-4)
        assert len(set(share)) > 1 and "partner" not in batch
    assert_equal(batches, global_batches(1, 1, 3, source=classed(100), augmentation=augment.parse("mixup:1")))


def test_rows_that_are_no_pairs_cannot_be_mixed():
    with pytest.raises(ValueError, match="3 rows of the batch of 24 on this worker cannot be mixed in pairs"):
        training(contexts(8, 8)[0], augmentation=augment.parse("mixup:1"))


def test_a_corrupted_example_brings_its_target():
    """In evaluation too, and always alike. Mutation: evaluate without the examples' indices."""
    corrupted = augment.parse("mask:0.5")
    [batch] = global_batches(2, 1, 1, augmentation=corrupted)
    assert np.array_equal(batch["target"], SOURCE.read(batch["index"])["input"])
    assert 0.3 < (batch["input"] == 0).mean() < 0.7
    first, again = (next(iter(pipeline.evaluation(SOURCE, corrupted, batch_size=8, replicas=1, local_replicas=1)))
                    for _ in range(2))
    assert np.array_equal(first["target"], SOURCE.read(first["index"])["input"])
    assert np.array_equal(first["input"], again["input"]) and not np.array_equal(first["input"], first["target"])


def test_every_second_epoch_is_mirrored():
    """Mutation: pass the step as the epoch."""
    images = np.arange(200, dtype=np.int32).reshape(-1, 1, 2, 1)  # rising to the right, or mirrored
    source = sources.Arrays(images, np.zeros(100, int), ("a",))
    batches = global_batches(2, 1, 25, source=source, augmentation=augment.parse("flip_alternate"))
    index = np.concatenate([batch["index"] for batch in batches]).reshape(6, 100)
    mirrored = np.concatenate([np.diff(batch["input"][:, 0, :, 0])[:, 0] < 0 for batch in batches]).reshape(6, 100)
    by_example = np.stack([m[np.argsort(i)] for m, i in zip(mirrored, index)])
    assert np.array_equal(by_example[1:], ~by_example[:-1]) and 30 < by_example[0].sum() < 70


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
    source = Slow(counted(examples)) if examples % 2 else counted(examples)
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


class Counting(sources.Arrays):
    """Counts how often it is read."""

    def __init__(self, examples: int):
        super().__init__(np.zeros((examples, 1, 1, 1), np.float32), np.zeros(examples, int), ("a",))
        self.times = 0

    def read(self, indices):
        def count(indices):
            self.times += 1
            return indices

        return super().read(tf.ensure_shape(tf.numpy_function(count, [indices], tf.int64), indices.shape))


@pytest.mark.parametrize("cache, replicas, bytes_, times", [
    (True, 1, 40, 3), (True, 2, 40, 3), (False, 1, 40, 6), (True, 1, 39, 6)])
def test_a_second_pass_takes_a_small_input_from_memory(monkeypatch, cache, replicas, bytes_, times):
    """10 examples of 4 bytes in 3 batches. Mutations: kept unasked; however large; the batches of one replica alone."""
    monkeypatch.setattr(pipeline, "CACHED_BYTES", bytes_)
    source = Counting(10)
    dataset = pipeline.evaluation(source, augment.parse(""), batch_size=4, replicas=replicas, local_replicas=replicas,
                                  cache=cache)
    first, second = list(dataset), list(dataset)
    assert source.times == times
    assert len(first) == 3 * replicas
    assert_equal([{k: v.numpy() for k, v in batch.items()} for batch in first],
                 [{k: v.numpy() for k, v in batch.items()} for batch in second])


def test_share_gives_each_worker_its_own_replicas():
    assert [pipeline.share(context) for context in contexts(6, 3)] == [
        {"replicas": 6, "local_replicas": 2, "first_local_replica": first} for first in (0, 2, 4)]


def mirrored(count):
    # Collective keys are shared within a process; a real run has one strategy.
    tf.distribute.MirroredStrategy._collective_key_base += 100_000
    return tf.distribute.MirroredStrategy([f"CPU:{k}" for k in range(count)])


def central(count):
    return tf.distribute.experimental.CentralStorageStrategy([f"CPU:{k}" for k in range(count)], "CPU:0")


KEPT = []  # deleted while it reads ahead, TensorFlow's iterator over several replicas may crash (see trainer/experiment.py)
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
    KEPT.append(iterator)

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
