"""The step: one all-reduce, weight decay once, clipping by the global norm, moving averages, steps that are not finite, and
how another thread sees that the state stands still."""
import dataclasses
import gc
import threading
import weakref

import numpy as np
import pytest
import tensorflow as tf

import graphs
from input_pipeline import datasets
from models import layers
from trainer import devices, recipes, replica_programs
from trainer.experiment import Experiment
from trainer.resolve import Run

PLAN = devices.Plan(strategy="one_device", kind="CPU", replicas=1)


def experiment(strategy=None, **changes) -> Experiment:
    """The digits recipe with a tiny batch, in this process."""
    config = dataclasses.replace(recipes.digits(), **{
        "model_dir": "/nonexistent", "classes": 10, "precision": "float32", "train_steps": 100, "train_epochs": 0.0,
        "decay_steps": (100,), "global_batch_size": 16, "lr_schedule": "constant", "weight_decay": 0.0,
        "label_smoothing": 0.0, **changes})
    tf.keras.utils.set_random_seed(config.seed)
    run = Run(config=config, info=datasets.describe(config.dataset), plan=PLAN, recorded=None)
    return Experiment(run, strategy or tf.distribute.OneDeviceStrategy("/cpu:0"))


def mirrored(replicas: int) -> tf.distribute.MirroredStrategy:
    tf.distribute.MirroredStrategy._collective_key_base += 100_000  # several in one process: tests only
    return tf.distribute.MirroredStrategy([f"/cpu:{k}" for k in range(replicas)])


def weights(made: Experiment) -> list[np.ndarray]:
    return [variable.numpy() for variable in made.model.trainable_variables]


def reference_gradients(made: Experiment, step: int):
    """(mean cross-entropy, its gradients) of the batch of a step, with plain Keras, without the trainer."""
    from input_pipeline import pipeline
    batch = next(iter(pipeline.training(made.source, made.augmentation, seed=0, batch_size=16, start_step=step,
                                        replicas=1, local_replicas=1)))
    with tf.GradientTape() as tape:
        logits = made.model(batch["input"], training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits))
    return loss.numpy(), [g.numpy() for g in tape.gradient(loss, [v.value for v in made.model.trainable_variables])]


@pytest.mark.parametrize("clip_norm", [0.0, 0.1])
def test_sgd_with_decay_and_clipping_by_hand(clip_norm):
    """w - rate * clip(gradient + wd * w): the decay term counts once and is clipped with the rest."""
    made = experiment(optimizer="sgd", learning_rate=0.1, weight_decay=0.01, clip_norm=clip_norm, ema_decay=0.0)
    before = weights(made)
    loss, gradients = reference_gradients(made, 0)
    kernels = [variable.name == "kernel" for variable in made.model.trainable_variables]
    gradients = [g + 0.01 * w * kernel for g, w, kernel in zip(gradients, before, kernels)]
    norm = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in gradients))
    scale = min(1.0, clip_norm / norm) if clip_norm else 1.0
    assert not clip_norm or scale < 1
    metrics = made.loop.run(made.batches(0), 1)
    for old, new, gradient in zip(before, weights(made), gradients):
        np.testing.assert_allclose(new, old - 0.1 * scale * gradient, atol=1e-6)
    decay = sum(0.005 * np.sum(np.square(w, dtype=np.float64)) for w, kernel in zip(before, kernels) if kernel)
    losses = metrics["losses"].numpy()
    assert made.loss_names[0] == "cross_entropy" and made.loss_names[-1] == "total_loss"
    assert losses[0] == pytest.approx(loss, rel=1e-5) and losses[-1] == pytest.approx(loss + decay, rel=1e-5)
    assert metrics["gradient_norm"].numpy() == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("changes, on", [
    ({}, (1, 2)), ({"grad_accum_steps": 2}, (1,)), ({"sync_batch_norm": False, "global_batch_size": 32}, (2,))],
    ids=["plain", "micro-batches", "local statistics"])
def test_the_whitening_bias_learns_in_its_epochs_alone(changes, on):
    """Its gradient is 0 afterwards, without a backward pass for it where that can be left out; the rest is the same on two.

    Mutations: the boundary a step later; the later stage has the bias too; two replicas keep its gradient; always `zeroed`."""
    options = {"model": "cifar10_fast", "dataset": "synthetic", "optimizer": "muon_sgd", "learning_rate": 0.01,
               "augment": "normalize:127.5:63", **changes}
    options["whiten_epochs"] = 2.5 * options.get("global_batch_size", 16) / 50_000
    found = []
    for replicas in on:
        made = experiment(mirrored(2) if replicas == 2 else None, **options)
        batches, bias = made.batches(0), [v.path for v in made.model.trainable_variables].index("whiten/bias")
        squares = [made.loop.run(batches, step + 1)["gradient_squares"].numpy() for step in range(5)]
        assert [bool(step[bias] > 0) for step in squares] == [True, True, True, False, False]
        found.append(squares)
        parts = [graphs.needed(graph.outputs) for graph in replica_programs.graphs(made.loop.trace(batches, observed=False))]
        norms, biases = (sum(name in types for types in parts) for name in ("FusedBatchNormGradV3", "BiasAddGrad"))
        branches = replicas == 1 or "sync_batch_norm" in changes
        assert norms == biases * (2 if branches else 1) > 0, "the later branch has no gradient of the bias"
    for squares in found[1:]:
        np.testing.assert_allclose(squares, found[0], rtol=2e-3)


def test_moving_averages_warm_up():
    """After step n: average = d * average + (1 - d) * weight, d = min(0.9999, (1 + n) / (10 + n))."""
    made = experiment(optimizer="sgd", learning_rate=0.1, ema_decay=0.9999)
    average = weights(made)
    batches = made.batches(0)
    for n in (1, 2, 3):
        made.loop.run(batches, n)
        d = min(0.9999, (1 + n) / (10 + n))
        average = [d * a + (1 - d) * w for a, w in zip(average, weights(made))]
    for a, variable in zip(average, made.state.ema):
        np.testing.assert_allclose(variable.numpy(), a, atol=1e-6)


def test_loss_averages_and_running_means():
    """Averages of 0.9 of every loss, starting from the first; precision is (sum, count) since the epoch's start."""
    made = experiment(optimizer="sgd", learning_rate=0.01, weight_decay=0.01)
    batches = made.batches(0)
    average = None
    for step in range(1, 4):
        losses = made.loop.run(batches, step)["losses"].numpy()
        average = losses if average is None else 0.9 * average + np.float32(0.1) * losses
        np.testing.assert_allclose(made.state.loss_averages.numpy(), average, rtol=1e-6)
        assert made.state.epoch_sums.numpy()[-1] == 16 * step
    made.loop.run(batches, 91)  # 1,437 examples: batch 90 (of 16) begins at 1,440, in the second epoch
    assert made.state.epoch_sums.numpy()[-1] == 16


def test_loss_averages_begin_with_the_first_step_that_is_made():
    """Mutation: with 0, where the first one is skipped, as float16's often is."""
    made = experiment(optimizer="sgd", learning_rate=0.1, max_skipped_steps=2)
    honest = made.source.read
    made.source.read = lambda indices: {**honest(indices), "input": tf.cast(honest(indices)["input"], tf.float32) * float("nan")}
    made.loop.run(made.batches(0), 1)
    assert int(made.state.skipped) == 1 and not made.state.loss_averages.numpy().any()
    made.source.read = honest
    losses = made.loop.run(made.batches(1), 2)["losses"].numpy()
    np.testing.assert_allclose(made.state.loss_averages.numpy(), losses, rtol=1e-6)


@pytest.mark.parametrize("replicas", [1, 2])
def test_not_finite_changes_nothing_but_the_count(replicas):
    """NaN in one row of one replica's images: no weight, slot, average or batch statistic moves, on any replica.
    Mutation: apply without the condition; assign batch statistics in the forward pass."""
    made = experiment(mirrored(2) if replicas == 2 else None, model="digits_cnn_regularized", optimizer="adam",
                      learning_rate=0.01, max_skipped_steps=2)
    batches = made.batches(0)
    made.loop.run(batches, 2)


    def copies():
        """What every replica has of every variable but the book-keeping."""
        return {(group, path): [copy.numpy() for copy in made.strategy.experimental_local_results(variable)]
                for group, part in made.state.variables().items() if group != "trainer" for path, variable in part.items()}

    before = copies()
    assert all(len(values) == replicas for (group, _), values in before.items() if group != "optimizer")
    honest = made.source.read

    def poisoned(indices):
        examples = honest(indices)
        images = tf.cast(examples["input"], tf.float32)
        return {**examples, "input": tf.concat([images[:-1], images[-1:] * float("nan")], 0)}

    made.source.read = poisoned
    metrics = made.loop.run(made.batches(2), 4)
    assert int(made.state.step) == 4 and int(made.state.skipped) == 2 and int(made.state.skipped_in_row) == 2
    assert not made.loop.diverged and np.isnan(metrics["gradient_squares"].numpy()).any()
    for name, values in copies().items():
        for ours, theirs in zip(values, before[name], strict=True):
            assert np.array_equal(ours, theirs), name
    made.source.read = honest
    made.loop.run(made.batches(4), 5)
    assert int(made.state.skipped_in_row) == 0 and int(made.state.skipped) == 2
    made.source.read = poisoned
    made.loop.run(made.batches(5), 100)
    assert int(made.state.step) == 8 and made.loop.diverged  # more than max_skipped_steps in a row: the loop comes back


def test_the_squares_say_whose_gradient_is_large():
    made = experiment(optimizer="sgd", learning_rate=0.1)
    _, gradients = reference_gradients(made, 0)
    metrics = made.loop.run(made.batches(0), 1)
    np.testing.assert_allclose(metrics["gradient_squares"].numpy(), [np.sum(np.square(g)) for g in gradients], rtol=1e-4)


@pytest.mark.parametrize("replicas", [1, 2])
def test_what_another_thread_copies_of_a_state_that_stood_still_is_of_one_moment(replicas):
    """Weights, slots, averages and batch statistics, copied beside the running loop: those that `still` accepts are those that
    the main thread finds after that step. Mutations: a step is not marked as being written; its number is written first."""
    made = experiment(mirrored(2) if replicas == 2 else None, model="digits_cnn_regularized", optimizer="lamb",
                      learning_rate=0.01)
    variables = [variable for part in made.state.variables().values() for variable in part.values()]
    copied, ended = [], threading.Event()

    def copy():
        while not ended.is_set():
            step = int(made.state.step)
            values = [variable.numpy() for variable in variables]
            copied.append((step, values, made.loop.still(step)))

    found, batches = {}, made.batches(0)
    made.loop.run(batches, 1)
    thread = threading.Thread(target=copy)
    thread.start()
    for step in range(2, 80):
        made.loop.run(batches, step)
        found[step] = [variable.numpy() for variable in variables]
    ended.set()
    thread.join()
    whole = [(step, values) for step, values, still in copied if still and step in found]
    assert len({step for step, _ in whole}) > 5
    for step, values in whole:
        assert all(map(np.array_equal, values, found[step])), step


def _collectives(graph) -> int:
    """Collective reductions in a graph and the functions that it calls."""
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    return sum(node.op.startswith("CollectiveReduce") for node in nodes)


@pytest.mark.parametrize("model, extra", [("digits_cnn", 0), ("digits_cnn_regularized", 6)])
def test_one_all_reduce_for_all_gradients(model, extra):
    """Per replica one message for gradients, sums and indices; batch statistics need one a layer forward and one back."""
    strategy = mirrored(2)
    made = experiment(strategy, model=model)
    graph = made.loop.trace(made.batches(0), observed=False)
    assert _collectives(graph) == strategy.num_replicas_in_sync * (1 + extra)


def test_how_fast_moving_statistics_follow_is_by_the_flag():
    """After one step the mean is (1 - momentum) of the batch's. Mutation: `batch_norm_momentum` not passed on."""
    means = []
    for momentum in (0.0, 0.5):  # 0: the network's own
        made = experiment(model="digits_cnn_regularized", batch_norm_momentum=momentum)
        (layer, *_) = [layer for layer in made.model.layers if isinstance(layer, layers.BatchNormalization)]
        own = layer.momentum
        made.loop.run(made.batches(0), 1)
        means.append(layer.moving_mean.numpy() / (1 - own))
    assert own == 0.5
    np.testing.assert_allclose(means[0], means[1], rtol=1e-5)


def test_local_batch_statistics_stay_equal_on_replicas():
    """--nosync_batch_norm: moving statistics are the replicas' mean, so a checkpoint holds all of them."""
    made = experiment(mirrored(2), model="digits_cnn_regularized", sync_batch_norm=False)
    made.loop.run(made.batches(0), 3)
    for variable in made.model.non_trainable_variables:
        copies = [copy.numpy() for copy in made.strategy.experimental_local_results(variable.value)]
        assert np.array_equal(copies[0], copies[1]), variable.path


def test_xla_makes_the_same_step():
    """--xla, whole and in micro-batches."""
    for changes in ({}, {"grad_accum_steps": 2, "model": "digits_cnn"}):
        plain, compiled = experiment(optimizer="sgd", **changes), experiment(optimizer="sgd", xla=True, **changes)
        for made in (plain, compiled):
            made.loop.run(made.batches(0), 3)
        for a, b in zip(weights(plain), weights(compiled)):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_an_iterator_of_batches_is_never_deleted():
    """A busy one that is deleted can end the process with a segmentation fault. Mutation: not kept."""
    dropped = weakref.ref(experiment().batches(0))
    gc.collect()
    assert dropped() is not None
