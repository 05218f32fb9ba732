"""The commands as a user gives them, in processes of their own, and a small trained run to give them."""
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import tensorflow as tf

from input_pipeline import augment, datasets
from trainer import distribution, experiment, resolve
from trainer.config import Config

ROOT = pathlib.Path(__file__).parents[2]
# Batch normalisation and dropout differ in training; bfloat16 shows another order of operations.
TRAINING = ("--model=digits_cnn_regularized", "--precision=bfloat16", "--train_steps=20", "--eval_steps=20",
            "--checkpoint_steps=10", "--summary_steps=0", "--histogram_steps=0", "--progress=none")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command said."""

    code: int
    out: str
    err: str


def run(module: str, *arguments, code: int = 0, timeout: float = 300, **variables: str) -> Outcome:
    """python -m module arguments; the exit code is checked."""
    clean = {name: value for name, value in os.environ.items() if name not in ("TF_CONFIG", "TPU_NAME")}
    done = subprocess.run([sys.executable, "-m", module, *map(str, arguments)], cwd=ROOT, capture_output=True,
                          text=True, timeout=timeout, env={**clean, **variables})
    assert done.returncode == code, f"code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return Outcome(done.returncode, done.stdout, done.stderr)


def train(model_dir: pathlib.Path) -> None:
    """Twenty steps of digits, with the averages of the weights, evaluated once."""
    run("trainer.main", f"--model_dir={model_dir}", *TRAINING)


def without_data(model_dir: pathlib.Path, copy: pathlib.Path) -> pathlib.Path:
    """`copy`, the run as if its data set were one whose files are not on this machine."""
    shutil.copytree(model_dir, copy)
    recorded = json.loads((copy / "config.json").read_text())
    recorded["config"] |= {"dataset": "cifar10", "data_dir": "/nowhere"}
    (copy / "config.json").write_text(json.dumps(recorded))
    return copy


def held_out() -> tuple[np.ndarray, np.ndarray]:
    """The images [360, 8, 8, 1] uint8 and labels [360] that the run is evaluated on."""
    examples = datasets.load("digits", "test").read(tf.range(360, dtype=tf.int64))
    return examples["input"].numpy(), examples["label"].numpy()


def evaluators_network(model_dir: pathlib.Path, step: int) -> keras.Model:
    """The evaluator's network with the averages of the weights, after a pass over the test examples.

    The checkpoint is read as any TensorFlow program would.
    """
    config = Config(**resolve.read_recorded(model_dir))
    reader = tf.train.load_checkpoint(str(model_dir / "checkpoints" / f"ckpt-{step:08d}"))
    values = {}
    for group in ("model/", "ema/"):  # the averages take the place of the weights
        for name in reader.get_variable_to_shape_map():
            if name.startswith(group):
                path = name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE").removeprefix(group).replace(".S", "/")
                values[path] = reader.get_tensor(name)
    policy = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(distribution.POLICIES[config.precision])
    try:
        evaluation = experiment.evaluation(config, datasets.describe(config.dataset, config.data_dir),
                                           tf.distribute.OneDeviceStrategy("/cpu:0"), "test")
    finally:
        keras.mixed_precision.set_global_policy(policy)
    evaluation.run(values)
    return evaluation.model


def evaluators_probabilities(model_dir: pathlib.Path, step: int) -> np.ndarray:
    """[360, classes] float32: what the evaluator's network says of the held-out images, with the averages."""
    config, model = Config(**resolve.read_recorded(model_dir)), evaluators_network(model_dir, step)
    network = tf.function(lambda images: tf.nn.log_softmax(model(images, training=False)))
    return np.exp(network(augment.parse(config.augment).evaluate(held_out()[0])).numpy())
