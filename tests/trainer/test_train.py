"""The loop's small decisions, and what a run leaves for people: console, metrics.jsonl, TensorBoard."""
import dataclasses
import json
import re

import numpy as np
import pytest

import runs
from trainer import recipes
from trainer.cadence import every, next_event
from trainer.train import largest


def test_every():
    assert [step for step in range(1, 12) if every(step, 5, 11)] == [5, 10, 11]
    assert not any(every(step, 0, 11) for step in range(12))


def test_next_event_is_the_nearest():
    config = dataclasses.replace(recipes.digits(), log_steps=10, summary_steps=0, histogram_steps=0, checkpoint_steps=25,
                                 eval_steps=0, steps_per_loop=0)
    assert [next_event(step, config, 57) for step in (0, 9, 10, 20, 25, 50)] == [10, 10, 20, 25, 30, 57]
    assert next_event(0, dataclasses.replace(config, steps_per_loop=4), 57) == 4
    assert next_event(0, dataclasses.replace(config, profile_steps=(3, 6)), 57) == 3
    with_summaries = dataclasses.replace(config, summary_steps=20)  # such a step is made by itself
    assert [next_event(step, with_summaries, 57) for step in (0, 10, 20, 50)] == [10, 19, 25, 56]


@pytest.mark.parametrize("squares, found", [
    ([1, 9, 4], "b, of norm 3"), ([9, 1, np.inf], "c, not finite"), ([np.inf, np.nan, 1], "b, not finite")])
def test_the_largest_gradient_is_one_that_is_not_finite(squares, found):
    assert largest(["a", "b", "c"], np.array(squares, np.float32)) == found


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory, fake_cifar10):
    """Five steps of the tutorial's recipe in central storage on two devices, as its multi-GPU trainer had it."""
    return runs.train(tmp_path_factory.mktemp("tutorial"), "--recipe=cifar10_tutorial", f"--data_dir={fake_cifar10}",
                      "--num_gpus=2", "--emulate", "--strategy=central_storage", "--train_steps=5", "--log_steps=1",
                      "--summary_steps=5", "--histogram_steps=5", "--precision=float32", "--progress=lines")


def test_the_tutorials_line(tutorial):
    lines = re.findall(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}: step (\d+), loss = (\d+\.\d\d) "
                       r"\((\S+) examples/sec; (\S+) sec/batch\)", tutorial.out, re.MULTILINE)
    assert [int(line[0]) for line in lines] == [1, 2, 3, 4, 5]
    assert float(lines[0][1]) == pytest.approx(4.68, abs=0.1)  # ln 10 and the decay terms of the initial weights
    assert "1,068,298" in tutorial.out and "2 replicas" in tutorial.out and "128 = 2 x 64" in tutorial.out


def test_the_tutorials_schedule_is_in_steps(tutorial):
    config = json.loads((tutorial.model_dir / "config.json").read_text())["config"]
    assert config["decay_steps"] == [136718]  # 350 epochs of 50,000 examples, batch 128
    assert [line["learning_rate"] for line in tutorial.lines] == pytest.approx([0.1] * 5)


def test_metrics_lines_hold_what_they_must(tutorial):
    for line in tutorial.lines:
        assert set(line) == {"step", "loss", "cross_entropy", "precision_at_1", "learning_rate", "examples_per_second",
                             "data_wait_fraction", "gradient_norm", "skipped_steps", "batch_digest"}
        assert line["loss"] > line["cross_entropy"] > 0 and 0 <= line["data_wait_fraction"] <= 1
    raw = (tutorial.model_dir / "train" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(text) for text in raw] == tutorial.lines
    assert all(repr(line["loss"]) in text for line, text in zip(tutorial.lines, raw))  # in full


def test_one_thread_that_computes_is_not_one_that_waits_for_data(tmp_path):
    """The clock is read when the batch is there, not when the only thread has time for it. Mutation: `_next` returns the
    batch as it came."""
    run = runs.train(tmp_path, "--train_steps=20", "--global_batch_size=360", "--log_steps=10", "--summary_steps=0",
                     "--histogram_steps=0", "--inter_op_threads=1")
    assert [line["data_wait_fraction"] < 0.5 for line in run.lines] == [True, True], run.lines


def test_everything_that_the_tutorial_showed_is_in_tensorboard(tutorial):
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
    events = EventAccumulator(str(tutorial.model_dir / "train"))
    events.Reload()
    tags = {plugin: set(events.PluginTagToContent(plugin)) for plugin in ("scalars", "histograms", "images", "text")}
    layers = ("conv1", "pool1", "norm1", "conv2", "norm2", "pool2", "local3", "local4", "softmax_linear")
    losses = ("cross_entropy", "local3/weight_loss", "local4/weight_loss", "total_loss")
    kernels = ("conv1", "conv2", "local3", "local4", "softmax_linear")
    assert tags["scalars"] >= {"learning_rate", "examples_per_second", "data_wait_fraction", "gradient_norm",
                               "precision_at_1", *losses, *(f"{name}/average" for name in losses),
                               *(f"{name}/sparsity" for name in layers)}
    variables = {f"{layer}/{name}" for layer in kernels for name in ("kernel", "bias")}
    assert tags["histograms"] >= {*(f"{name}/activations" for name in layers), *variables,
                                  *(f"{name}/gradients" for name in variables)}
    assert tags["images"] == {"images"} and tags["text"] == {"configuration", "parameters"}
    assert b"conv1" in events.SerializedGraph()


def test_profile_steps_leaves_a_trace_for_tensorboard(tmp_path):
    run = runs.train(tmp_path, "--train_steps=12", "--profile_steps=4,8", "--summary_steps=0", "--histogram_steps=0")
    assert [path.stat().st_size > 0 for path in (run.model_dir / "train").glob("plugins/profile/*/*.xplane.pb")] == [True]


def test_a_warm_start_takes_the_moving_averages(tmp_path):
    """--init_from: step 0, the other run's averages as weights, and it says so; another network is an error."""
    first = runs.train(tmp_path / "a", "--train_steps=20", "--summary_steps=0", "--histogram_steps=0")
    second = runs.train(tmp_path / "b", "--train_steps=1", "--learning_rate=0", "--weight_decay=0", "--summary_steps=0",
                        "--histogram_steps=0", f"--init_from={first.model_dir}")
    assert "warm start: 10 of 10 variables from the moving averages" in second.out
    assert second.lines[-1]["step"] == 1
    averages, weights = first.tensors(20), second.tensors(1)
    for name in averages:
        if name.startswith("ema/"):
            assert (averages[name] == weights[name.replace("ema/", "model/")]).all(), name
    wrong = runs.train(tmp_path / "c", "--train_steps=1", "--model=cifar10_tutorial", f"--init_from={first.model_dir}", code=2)
    assert "has no variable of --model=cifar10_tutorial's name and shape" in wrong.err


def test_softmax_and_locally_connected(tmp_path, fake_cifar10):
    """The options that the tutorial asked of its reader train: probabilities, unshared filters."""
    run = runs.train(tmp_path, "--recipe=cifar10_tutorial", f"--data_dir={fake_cifar10}", "--head=softmax",
                     "--local=locally_connected", "--train_steps=2", "--log_steps=1", "--summary_steps=0",
                     "--histogram_steps=0", "--eval_steps=0", "--global_batch_size=32")
    assert "2,112,970" in run.out
    assert run.lines[0]["cross_entropy"] == pytest.approx(2.3, abs=0.3)  # ln 10: all classes alike
    assert run.lines[1]["skipped_steps"] == 0 and run.lines[1]["loss"] != run.lines[0]["loss"]
