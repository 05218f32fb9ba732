"""The real step of every recipe becomes programs that a TPU could run: traced here, and lowered to StableHLO by XLA's kernels.

What these must go red for: an operation of the host in the step (a Python function, a string), a shape that depends on the
data, an operation that XLA has no kernel for, a second all-reduce of gradients, a variable that is neither model nor state.
"""
import json
import pathlib
import subprocess
import sys
import time

import pytest
import tensorflow as tf

import runs
from input_pipeline import pipeline
from trainer import distribution, lowering, recipes, replica_programs, resolve
from trainer.experiment import Experiment

FLOATS = 4


@pytest.fixture(autouse=True)
def policy():
    """The numerics of a recipe are global: back to float32 after each test."""
    import keras
    yield
    keras.mixed_precision.set_global_policy("float32")


def programs(folder: pathlib.Path, replicas: int, **given) -> tuple[dict, list[replica_programs.Program]]:
    """(lowering.json, the programs of the step and of the one with summaries) of a command."""
    given = {"tpu": "local", "download": True, "data_dir": str(folder), "model_dir": str(folder / "run"), **given}
    kept = []
    original = replica_programs.ReplicaPrograms

    class Keeping(original):
        def __init__(self, count):
            super().__init__(count)
            kept.append(self)
            self.all_programs = []

        def run(self, *args, **options):
            result = super().run(*args, **options)
            self.all_programs.append(self.programs[-1])
            return result

    replica_programs.ReplicaPrograms = Keeping
    try:
        found = lowering.lower(resolve.resolve(given), replicas, folder)
    finally:
        replica_programs.ReplicaPrograms = original
    return found, kept[0].all_programs


def test_one_all_reduce_of_gradients_and_nothing_of_the_host(tmp_path):
    found, traced = programs(tmp_path, 4, recipe="digits", global_batch_size=64, optimizer="lamb", clip_norm=1.0)
    assert [p["name"] for p in found["programs"]] == ["gradients", "update", "gradients_summaries", "update_summaries"]
    assert [problem for program in traced for problem in program.problems()] == []
    gradients, update = found["programs"][:2]
    # Gradients, the sum of the losses, of one metric, two numbers for each row of the global batch, the wish to stop.
    assert gradients["collectives"] == [FLOATS * (found["parameters"] + 1 + 1 + 2 * 64 + 1)]
    assert update["collectives"] == []
    written = {name for name in update["arguments"] if name in found["variables"]}
    assert {name for name in found["variables"] if name.startswith(("ema/", "optimizer/"))} <= written | {
        "optimizer/lamb/learning_rate"}
    assert "input" in " ".join(gradients["arguments"])
    for program in found["programs"]:
        assert (tmp_path / program["file"]).stat().st_size > 1000


def test_batch_statistics_over_all_replicas_are_two_small_sums_a_layer(tmp_path):
    found, traced = programs(tmp_path, 4, recipe="cifar10_resnet18", summary_steps=0, histogram_steps=0, grad_accum_steps=2,
                             global_batch_size=64)
    sizes = found["programs"][0]["collectives"]
    layers_ = sum(name.endswith("moving_mean") for name in found["variables"] if name.startswith("model/"))
    assert layers_ == 20
    assert len(sizes) == 2 * 2 * layers_ + 1  # forward and backward, in both micro-batches; and the gradients
    assert sorted(sizes)[-1] > FLOATS * found["parameters"] and sorted(sizes)[-2] <= 2 * 512 * FLOATS
    assert [problem for program in traced for problem in program.problems()] == []


def test_a_step_that_needs_the_host_is_found():
    """The check itself can fail: Python code, a string and a shape that depends on the data, inside the forward pass."""
    strategy = replica_programs.ReplicaPrograms(2)

    def bad(x):
        y = tf.numpy_function(lambda a: a, [x], tf.float32)
        tf.print("text")
        return tf.reduce_sum(tf.boolean_mask(x, x > 0)) + tf.reduce_sum(y)

    tf.function(lambda: strategy.run(bad, (tf.ones([4]),)), autograph=False).get_concrete_function()
    found = " ".join(strategy.programs[0].problems())
    assert "PyFunc" in found and "PrintV2" in found and "string" in found and "shape" in found
    with pytest.raises(Exception, match="(?i)unsupported|not compilable|No registered|unimplemented|static"):
        strategy.programs[0].stablehlo()


def test_the_arithmetic_of_a_branch_counts():
    """Of two the larger. Mutations: called functions left out; both branches added."""
    strategy = replica_programs.ReplicaPrograms(2)

    def replica(x):
        return tf.cond(x[0, 0] > 0, lambda: x @ x @ x, lambda: x @ x)

    tf.function(lambda: strategy.run(replica, (tf.ones([8, 8]),)), autograph=False).get_concrete_function()
    assert 2 * 2 * 8**3 <= strategy.programs[0].flops() < 2 * 2 * 8**3 + 100


def test_a_tensor_from_outside_the_replicas_function_is_refused():
    strategy = replica_programs.ReplicaPrograms(2)

    @tf.function(autograph=False)
    def outer(x):
        y = x + 1
        return strategy.run(lambda: y * 2)

    with pytest.raises(AssertionError, match="from outside"):
        outer.get_concrete_function(tf.TensorSpec([2]))


def test_the_programs_compute_what_a_real_step_computes(tmp_path):
    """On one replica the traced programs run: their loss and update are those of a one-device strategy."""
    def step_on(strategy, folder):
        run = resolve.resolve({"recipe": "digits", "model_dir": str(folder), "num_gpus": 0, "precision": "float32",
                               "global_batch_size": 32, "seed": 3})
        distribution.numerics(run.config)
        experiment = Experiment(run, strategy)
        batches = iter(pipeline.training(experiment.source, experiment.augmentation, seed=3, batch_size=32, start_step=0,
                                         replicas=1, local_replicas=1))
        metrics = experiment.loop.run(batches, 2)
        return metrics["losses"].numpy(), [v.value.numpy() for v in experiment.model.trainable_variables]

    losses, weights = step_on(tf.distribute.OneDeviceStrategy("/cpu:0"), tmp_path / "a")
    own_losses, own_weights = step_on(replica_programs.ReplicaPrograms(1), tmp_path / "b")
    assert abs(own_losses / losses - 1).max() < 1e-5
    assert max(abs(a - b).max() for a, b in zip(weights, own_weights)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [name for name in recipes.RECIPES if name != "digits"])
def test_every_recipes_step_lowers(recipe, tmp_path):
    """XLA has a kernel for every operation, every shape is known, the host is not needed, and the gradients are one sum."""
    found, traced = programs(tmp_path, 4, recipe=recipe, global_batch_size=32)
    assert [problem for program in traced for problem in program.problems()] == []
    large = [size for size in found["programs"][0]["collectives"] if size >= FLOATS * found["parameters"]]
    assert len(large) == 1


def test_wrong_commands_fail_before_tensorflow(tmp_path):
    def command(*arguments):
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-X", "importtime", "-m", "trainer.lowering", *arguments], cwd=runs.ROOT,
                              capture_output=True, text=True)
        assert "| tensorflow\n" not in done.stderr, time.monotonic() - start
        return done.returncode, [line for line in done.stderr.splitlines() if not line.startswith("import time:")]

    for arguments, word in (([], "REPLICAS"), (["x", str(tmp_path)], "REPLICAS"), (["0", str(tmp_path)], "REPLICAS"),
                            (["4", str(tmp_path / "no")], "folder"), (["4", str(tmp_path), "--recipe=cfar"], "recipe"),
                            (["4", str(tmp_path), "--global_batch_size=126"], "124 or 128")):
        code, lines = command(*arguments)
        assert code == 2 and len(lines) == 1 and word in lines[0], (arguments, lines)
    assert not list(tmp_path.iterdir())


def test_lowering_json_is_what_the_command_writes(tmp_path):
    done = subprocess.run([sys.executable, "-m", "trainer.lowering", "2", str(tmp_path), "--global_batch_size=16",
                           "--summary_steps=0", "--histogram_steps=0"], cwd=runs.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "lowering.json").read_text())
    assert found["replicas"] == 2 and found["rows"] == 8 and found["precision"] == "bfloat16"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gradients.mlirbc", "lowering.json", "update.mlirbc"]
