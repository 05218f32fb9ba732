"""From a Config to built objects: the only place where the parts are put together.

    strategy = distribution.build(config, plan)
    experiment = Experiment(run, strategy)        # network, optimizer, state, step, loop, sources
"""
import json
import math
import os
import platform
import subprocess
from importlib import metadata

import keras
import tensorflow as tf

from input_pipeline import augment, datasets, pipeline
from models import layers, registry, shrinking
from trainer import backward, checks, inner_loop, muon_sgd, optimizers, schedules, task, transfer, watch
from trainer import step as step_lib
from trainer.config import TRANSIENT, Config, UserError, data_options
from trainer.evaluate import Evaluation
from trainer.places import place
from trainer.resolve import Run
from trainer.state import State

FIRST_LOSS_SCALE = 2.0**15  # of float16
# To the end of the process: where a strategy's iterator is deleted while its pipeline is busy, TensorFlow 2.21 ends with a
# segmentation fault.
_kept = []


def build_model(config: Config, info: datasets.Info) -> keras.Model:
    """The network of `config` for this data set's examples. UserError if it does not fit them."""
    options = {name: getattr(config, name) for name in registry.OPTIONS}
    try:
        model = registry.build(config.model, input_shape=augment.check(config.augment, info.input_shape),
                               classes=config.classes, outputs=info.target_shape[0] if info.target_shape else 0,
                               sync_batch_norm=config.sync_batch_norm, **options)
    except shrinking.TooSmall as error:
        raise UserError(f"--model={config.model} cannot be built: {error}; resize:{max(error.needed)} in --augment gives such "
                        "images") from error
    except ValueError as error:
        raise UserError(f"--model={config.model} cannot be built: {error}") from error
    if config.batch_norm_momentum:
        for layer in model.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.momentum = config.batch_norm_momentum
    return model


def load(config: Config, split: str):
    """The source of a split. UserError if its files cannot be read."""
    try:
        return datasets.load(config.dataset, split, config.data_dir, **data_options(config))
    except (ValueError, OSError) as error:
        raise UserError(f"--data_dir={config.data_dir}: {error}") from error


def evaluation(config: Config, info: datasets.Info, strategy, split: str) -> Evaluation:
    """One exact pass over `split` on `strategy`, with a network of its own."""
    return Evaluation(strategy, lambda: build_model(config, info), task.build(config, info), load(config, split),
                      augment.parse(config.augment), views=config.test_time_augmentation)


class Experiment:
    """Everything a training run needs, built in the strategy's scope. source: instead of the data set's training split."""

    def __init__(self, run: Run, strategy: tf.distribute.Strategy, source=None):
        config = run.config
        checks.batch(config, strategy.num_replicas_in_sync)  # a TPU's cores are known only now
        self.config, self.info, self.strategy = config, run.info, strategy
        self.task = task.build(config, run.info)
        self.source = load(config, "train") if source is None else source
        self.augmentation = augment.parse(config.augment)
        self.schedule = schedules.build(
            name=config.lr_schedule, learning_rate=config.learning_rate, decay_steps=config.decay_steps[0],
            decay_rate=config.decay_rate, staircase=config.staircase, warmup_steps=config.warmup_steps,
            boundaries=config.decay_steps if config.lr_schedule == "piecewise" else ())
        rate = step_lib.Rate()
        with strategy.scope():
            self.model = build_model(config, run.info)
            transfer.prepare(config, self.model)
            head = transfer.head_variables(self.model)
            decayed = [kernel for kernel in registry.decayed_kernels(config.model, self.model)
                       if not config.freeze or any(kernel is variable for variable in head)]
            if config.optimizer == "muon_sgd":
                decayed = muon_sgd.decayed(self.model.trainable_variables)
            rates = self._rates(rate)
            optimizer = optimizers.build(
                config.optimizer, learning_rate=rate, momentum=config.momentum, nesterov=config.nesterov,
                weight_decay=config.weight_decay, decayed=decayed,
                head=head, rates=rates, late_steps=config.unfreeze_steps, step=lambda: rate.step,
                late=[v for v in self.model.trainable_variables if config.unfreeze_steps and not any(v is h for h in head)])
            optimizer.build(self.model.trainable_variables)
        self.state = State(
            strategy, self.model, optimizer, ema=config.ema_decay > 0, metrics=len(self.task.train_metrics),
            losses=len(step_lib.loss_names(config, self.task, decayed)),
            loss_scale=FIRST_LOSS_SCALE if config.precision == "float16" else 1.0)
        with tf.device("cpu:0"):
            self.stop = tf.Variable(False, trainable=False, name="stop")
        step = step_lib.build(strategy, self.state, self.task, config, schedule=self.schedule, rate=rate,
                              decayed=decayed, stages=self._stages(head, rates), examples=len(self.source), stop=self.stop)
        self.loss_names = step.loss_names
        self.loop = inner_loop.InnerLoop(step, self.state, self.model, max_skipped_steps=config.max_skipped_steps,
                                         deterministic=config.deterministic)

    def _rates(self, rate: step_lib.Rate) -> muon_sgd.Rates:
        """The first rates of muon_sgd's groups of weights."""
        config, steps = self.config, self.config.whiten_epochs * len(self.source) / self.config.global_batch_size
        base = config.learning_rate or 1.0  # 0: all are 0, whatever their share of it
        return muon_sgd.Rates(
            filters=base, head=config.head_learning_rate or base, rest=config.bias_learning_rate or base,
            brief=[v for v in self.model.trainable_variables if v.path == "whiten/bias"], brief_steps=steps,
            step=lambda: rate.step)

    def _stages(self, head: list, rates: muon_sgd.Rates) -> backward.Stages | None:
        """Which variables learn when, where not all do at all times."""
        every = self.model.trainable_variables
        if self.config.unfreeze_steps:
            return backward.Stages(self.config.unfreeze_steps, head, every)
        if self.config.optimizer == "muon_sgd" and rates.brief and rates.brief_steps:
            later = [v for v in every if not any(v is one for one in rates.brief)]
            return backward.Stages(math.ceil(rates.brief_steps), every, later)
        return None

    def first_weights(self) -> str:
        """Sets the weights that the network takes from training images; says so, "" where there are none."""
        if not registry.check(self.config.model).first_weights:
            return ""
        batch = next(iter(pipeline.evaluation(self.source, self.augmentation, replicas=1, local_replicas=1,
                                              batch_size=min(registry.FIRST_IMAGES, len(self.source)))))
        registry.first_weights(self.config.model, self.model, batch["input"].numpy())
        return f", first filters from {len(batch['input'])} training images"

    def batches(self, start_step: int):
        """The iterator of training batches from batch number `start_step` on; it lives as long as the process."""
        batches = iter(pipeline.distribute(self.strategy, lambda context: pipeline.training(
            self.source, self.augmentation, seed=self.config.seed, batch_size=self.config.global_batch_size,
            start_step=start_step, **pipeline.share(context))))
        _kept.append(batches)
        return batches

    def weights(self) -> dict[str, dict[str, tf.Variable]]:
        """The kinds of weights there are to evaluate, by path: raw, and ema where averages are kept."""
        variables = self.state.variables()
        kinds = {"raw": variables["model"]}
        if variables["ema"]:
            kinds = {"ema": variables["model"] | variables["ema"], **kinds}
        return kinds


def write_config(config: Config, info: datasets.Info) -> None:
    """config.json: the resolved configuration, the data set's facts (so that a network answers where the data are not),
    package versions, git revision."""
    folder = place(config.model_dir)
    folder.mkdir(parents=True, exist_ok=True)
    values = {name: value for name, value in vars(config).items() if name not in TRANSIENT}
    versions = {name: metadata.version(name) for name in ("tensorflow", "keras", "numpy", "absl-py", "tensorboard")}
    data = {"name": info.name, "input_shape": info.input_shape, "target_shape": info.target_shape,
            "classes": info.classes, "examples": info.examples, "train_digest": info.train_digest}
    text = json.dumps({"config": values, "data": data, "versions": {"python": platform.python_version(), **versions},
                       "git_revision": _git_revision()}, indent=1)
    watch.write_whole(folder / "config.json", text + "\n")


def _git_revision() -> str | None:
    """The revision of this checkout, with + where files were changed; None outside one."""
    here = os.path.dirname(os.path.abspath(__file__))
    try:
        answer = subprocess.run(["git", "-C", here, "describe", "--always", "--abbrev=40", "--dirty=+"],
                                capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
