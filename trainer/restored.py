"""A trained network from a --model_dir: which checkpoint, its configuration, its weights, and what answers.

    found = restored.find("runs/digits", "best")     # plain Python: a wrong path or step fails at once
    ready = restored.load(found)                     # imports TensorFlow, on the CPU
    ready.serve(images)                              # {"probabilities": [b, classes]}

It needs the run's folder and nothing else: the data set's facts are those that the run recorded. `settings`,
`strategy` and `weights` are the parts that the separate evaluator shares.
"""
import dataclasses
import os
import pathlib
import sys
import typing

from absl import flags

from input_pipeline import datasets
from input_pipeline.rules import shown
from trainer import devices, files, manifest, quiet, watch
from trainer.config import Config, UserError
from trainer.places import place
from trainer.recorded import read_recorded

if typing.TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf

    from trainer.task import Task

SPLITS = ("validation", "test")  # whose best checkpoint --step=best means: of the first that was evaluated


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """A whole checkpoint of a run. config, info: the run's and its data set's. notes: for the user."""

    config: Config
    info: datasets.Info
    step: int
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """A name for each of the network's outputs, which may be more than the data set has classes."""
        named = self.info.classes
        return named + tuple(f"class {k}" for k in range(len(named), self.config.classes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restored:
    """A network with its weights. kind: which weights, "ema" or "raw".

    model: takes what the augmentation gives. serve: a tf.function from a batch in the data set's raw units to
    {task.output_name: answers}.
    """

    found: Found
    task: "Task"
    kind: str
    model: "keras.Model"
    serve: "tf.types.experimental.PolymorphicFunction"

    def __str__(self) -> str:
        kind = self.kind.replace("ema", "EMA")
        return f"step {self.found.step} of {shown(self.found.config.model_dir)}, {kind} weights"


def define(values: flags.FlagValues) -> None:
    """The flags that say which checkpoint."""
    flags.DEFINE_string("model_dir", None, "the run that made the checkpoint", flag_values=values)
    flags.DEFINE_string("step", None, "the checkpoint: its step, best (of the evaluations) or latest "
                        "(default: best if there was an evaluation, else latest)", flag_values=values)


def find(model_dir: str | None, step: str | None = None) -> Found:
    """The checkpoint that `step` means: a number as text, "best" or "latest"; None: best if there is one,
    else latest.

    UserError where there is no run, no such checkpoint, or it is damaged. A damaged latest one gives way to
    the newest whole one, with a note.
    """
    if not model_dir:
        raise UserError("--model_dir must name a run, such as --model_dir=runs/digits")
    if step not in (None, "best", "latest") and not (step.isascii() and step.isdigit()):
        raise UserError(f"--step={shown(step)} must be the number of a step, best or latest")
    model_dir = os.path.expanduser(model_dir)
    files.check(model_dir, "model_dir")
    recorded = read_recorded(model_dir)
    if recorded is None:
        raise UserError(f"--model_dir={shown(model_dir)} has no config.json: no run was started there; "
                        "give another")
    folder = place(model_dir, "checkpoints")
    published = manifest.published(folder)
    if not published:
        raise UserError(f"--model_dir={shown(model_dir)} has no checkpoint yet; wait for one, "
                        "or give another")
    notes = []
    best = None if step not in (None, "best") else _best_step(model_dir)
    if step == "best" and best is None:
        raise UserError(f"--step=best, but {shown(model_dir)} has no evaluation; give --step=latest, or run "
                        f"python -m trainer.evaluator --model_dir={shown(model_dir)} --run_once")
    if step == "latest" or step is None and best is None:
        number, wrong = manifest.newest_whole(folder)
        notes = [f"{note}; step {number} is used" for note in wrong]
    else:
        number = best if best is not None else int(step)
        if number not in published:
            known = ", ".join(map(str, published[-10:]))
            raise UserError(f"--step={step or 'best'}: {shown(folder)} has no checkpoint {number}; "
                            f"there are {known}")
        wrong = manifest.damage(folder, number)
        if wrong:
            raise UserError(f"--step={step or 'best'}: checkpoint {number} is damaged: {wrong}; "
                            "give --step=latest")
    return Found(config=settings(recorded, model_dir), info=_read_info(model_dir), step=number,
                 notes=tuple(notes))


def settings(recorded: dict, model_dir: str, **changes) -> Config:
    """The recorded configuration as a process beside the trainer takes it: on the CPU, without XLA."""
    return Config(**{**recorded, "model_dir": model_dir, "xla": False, "intra_op_threads": 0,
                     "inter_op_threads": 0, **changes})


def strategy(config: Config):
    """Imports TensorFlow and sets it up for the run's precision on one CPU, whatever it was trained on."""
    quiet.import_tensorflow(errors=False)
    from trainer import distribution
    return distribution.build(config, devices.Plan(strategy="one_device", kind="CPU", replicas=1))


def weights(folder: pathlib.Path, step: int) -> dict[str, dict[str, "np.ndarray"]]:
    """The kinds of weights in a checkpoint, by path of the network's variables: "ema", where there are
    averages, and "raw".

    Raises what TensorFlow raises where it cannot be read.
    """
    from trainer import checkpoint
    found = checkpoint.tensors(folder, step)
    kinds = {"ema": {**found["model"], **found["ema"]}} if found.get("ema") else {}
    return {**kinds, "raw": found["model"]}


def load(found: Found) -> Restored:
    """Builds the network and fills in the averages of its weights, or the weights where there are none.

    UserError where the checkpoint cannot be read any more, or does not fit.
    """
    config, info = found.config, found.info
    scope = strategy(config)
    import tensorflow as tf

    from input_pipeline import augment
    from trainer import capacity, evaluate, experiment, task
    folder = place(config.model_dir, "checkpoints")
    try:
        kind, values = next(iter(weights(folder, found.step).items()))
    except Exception as error:  # TensorFlow raises several kinds; the trainer may have retired it meanwhile
        wrong = manifest.damage(folder, found.step) or f"{type(error).__name__}: {error}"
        raise UserError(f"checkpoint {found.step} of {shown(config.model_dir)} cannot be read: {wrong}; "
                        "give another --step") from error
    with scope.scope(), capacity.building(config):
        model = experiment.build_model(config, info)
    for variable in model.variables:
        value = values.get(variable.path)
        if value is None or value.shape != tuple(variable.shape):
            raise UserError(f"checkpoint {found.step} of {shown(config.model_dir)} does not fit "
                            f"--model={config.model}: {variable.path} is "
                            f"{'absent' if value is None else value.shape} there and {tuple(variable.shape)} "
                            "here; use the program that trained it")
        variable.value.assign(value)
    what, augmentation = task.build(config, info), augment.parse(config.augment)

    @tf.function(autograph=False, input_signature=[
        tf.TensorSpec([None, *info.input_shape], tf.float32, name=what.input_name)])
    def serve(batch):
        outputs = evaluate.answer(model, augmentation.evaluate(batch), config.test_time_augmentation)
        return {what.output_name: what.predictions(outputs)}

    return Restored(found=found, task=what, kind=kind, model=model, serve=serve)


def say(command: str, found: Found) -> None:
    """The notes, on stderr."""
    for note in found.notes:
        print(f"{command}: {note}", file=sys.stderr, flush=True)


def _best_step(model_dir: str) -> int | None:
    """The step of the best evaluation, None where there was none."""
    for split in SPLITS:
        ledger = watch.Ledger(model_dir, split)
        try:
            best = ledger.best()
            if best:
                return int(best["step"])
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(f"{shown(ledger.folder / 'best.json')} cannot be read ({type(error).__name__}: "
                            f"{error}); give --step=latest") from None
    return None


def _read_info(model_dir: str) -> datasets.Info:
    """The data set's facts as experiment.write_config recorded them. UserError if absent or wrong."""
    path = place(model_dir, "config.json")
    try:
        data = files.read_json(path)["data"]
        shape, classes = tuple(data["input_shape"]), tuple(data["classes"])
        target = tuple(data["target_shape"]) if data.get("target_shape") else None
        for name, sizes, ranks in ("input_shape", shape, (2, 3)), ("target_shape", target or (1,), (1,)):
            if len(sizes) not in ranks or not all(type(size) is int and size > 0 for size in sizes):
                raise ValueError(f"{name} is {sizes}")
        if not (classes or target) or not all(isinstance(name, str) for name in classes):
            raise ValueError(f"classes is {classes}")
        examples = {"test_examples": 0, **{f"{split}_examples": count for split, count in data["examples"].items()}}
        return datasets.Info(name=data["name"], input_shape=shape, target_shape=target, classes=classes,
                             splits=tuple(data["examples"]), **examples)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{shown(str(path))} does not describe the data set ({type(error).__name__}: {error}); "
                        "give the training command once more, which writes it") from None
