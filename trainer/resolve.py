"""From a command to a run: recipe, recorded configuration and flags merged, checked together, epochs turned to steps.

    run = resolve.resolve(flags.parse(sys.argv))     # Run(config, info, plan, recorded)

Nothing is written here, and TensorFlow is not imported.
"""
import dataclasses
import math
import os
import pathlib
import re

from input_pipeline import bucket, datasets
from input_pipeline.rules import LARGEST_INTEGER, shown
from models import registry
from trainer import checks, devices, files, manifest, names, recipes, transfer
from trainer.config import FIELDS, Config, UserError, data_options
from trainer.places import place
from trainer.recorded import check_absent, check_data, merge, read_recorded


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A checked command. config: every value resolved. info: the data set's facts. plan: the devices.
    recorded: the configuration in --model_dir, None where no run was started there."""

    config: Config
    info: datasets.Info
    plan: devices.Plan
    recorded: dict | None


def resolve(given: dict) -> Run:
    """The run that the flags `given` ask for. UserError for what cannot work."""
    name = given.get("recipe", "digits")
    recipe = recipes.named(name)
    model_dir = given.get("model_dir") or f"runs/{name}"
    _check_model_dir(model_dir)
    recorded = read_recorded(model_dir)
    if recorded is None:
        check_absent(model_dir)
        config = _start(recipe, given)
    else:
        config = merge(recorded, given, model_dir)
    config = dataclasses.replace(config, model_dir=model_dir)
    checks.pairs(config, given)
    try:
        plan = devices.plan(config)
        checks.on_devices(config, plan)
    except UserError as error:
        told = [name for name in given if FIELDS[name].metadata["group"] == FIELDS["num_gpus"].metadata["group"]]
        raise UserError(f"{error} (as {shown(model_dir)}/config.json says)") if recorded and not told else error
    info = _describe(config)
    if recorded and has_checkpoint(model_dir):
        check_data(model_dir, info)
    config = _durations(config, given, info, fresh=recorded is None)
    return Run(config=_last_checks(config, given, info, plan), info=info, plan=plan, recorded=recorded)


def _start(recipe: Config, given: dict) -> Config:
    """The recipe with the flags. What belongs to a value of the recipe that a flag replaces goes with that value."""
    config = dataclasses.replace(recipe, **given)
    gone = []
    if config.lr_schedule != recipe.lr_schedule:
        gone += ["decay_steps", "decay_epochs", "staircase"]
    if given.get("decay_epochs"):
        gone += ["decay_steps"]
    if any(given.get("decay_steps", ())):
        gone += ["decay_epochs"]
    if config.init_from:
        gone += ["pretrained_weights"]
    if given.get("unfreeze_steps") or not config.freeze:
        gone += ["unfreeze_epochs"]
    if given.get("unfreeze_epochs") or not config.freeze:
        gone += ["unfreeze_steps"]
    if config.optimizer != recipe.optimizer:
        gone += ["nesterov", "head_learning_rate", "bias_learning_rate", "whiten_epochs"]
        gone += ["momentum"] * (config.optimizer not in names.MOMENTUM)
        # Decay in the loss and decay in the update are not on one scale.
        gone += ["weight_decay"] * ((config.optimizer in names.DECOUPLED) != (recipe.optimizer in names.DECOUPLED))
    gone += [name for name in registry.OPTIONS if name not in registry.NETWORKS[config.model].options]
    config = dataclasses.replace(config, **{name: FIELDS[name].default for name in gone if name not in given})
    if config.lr_schedule == "piecewise" and "lr_schedule" not in given and not checks.has_boundaries(config):  # all stay frozen
        config = dataclasses.replace(config, lr_schedule="constant")
    return config


def _check_model_dir(model_dir: str) -> None:
    """UserError unless `model_dir` is a folder that can be written, or can be made, here or at gs://."""
    def wrong(why: str):
        raise UserError(f"--model_dir={shown(model_dir)} must be a folder that can be written, {why}; give another")

    if bucket.is_address(model_dir):
        return files.check(model_dir, "model_dir", write=True)
    if re.match(r"[a-z][a-z0-9+.-]*://", model_dir):
        raise UserError(f"--model_dir={shown(model_dir)} must be a folder, or an address at gs://; mount what is there, and "
                        "give its folder")
    path = pathlib.Path(model_dir).absolute()
    while True:
        try:
            os.stat(path)
            break
        except (FileNotFoundError, NotADirectoryError):
            if path.is_symlink():
                wrong(f"{shown(str(path))} is a link to nothing")
            path = path.parent
        except (OSError, ValueError) as error:
            wrong(str(getattr(error, "strerror", None) or error))
    if not path.is_dir():
        wrong(f"{shown(str(path))} is a file")
    if not os.access(path, os.W_OK | os.X_OK):
        wrong(f"{shown(str(path))} is not")


def _describe(config: Config) -> datasets.Info:
    """The data set's facts. UserError where its files are missing (and --download does not get them) or wrong."""
    options = data_options(config)
    unknown = [name for name in options if name not in datasets.options(config.dataset)]
    if unknown:
        raise UserError(f"--{unknown[0]}={shown(options[unknown[0]])} with --dataset={config.dataset}: its examples have "
                        f"one size; leave it out, or give --augment=resize:{shown(options[unknown[0]])}")
    try:
        return datasets.describe(config.dataset, config.data_dir, **options)
    except datasets.MissingData as error:
        if config.download and bucket.is_address(config.data_dir):
            raise UserError(f"--download with --data_dir={shown(config.data_dir)}: a download goes to a folder of this machine; "
                            "download there, and copy it with gcloud storage cp -r") from None
        if config.download and not config.dry_run:
            return datasets.facts(config.dataset, **options)
        raise UserError(f"--data_dir={shown(config.data_dir)}: {error}") from None
    except (ValueError, OSError) as error:
        raise UserError(f"--data_dir={shown(config.data_dir)}: {error}") from None


def _durations(config: Config, given: dict, info: datasets.Info, *, fresh: bool) -> Config:
    """`config` with its epochs turned into steps."""
    def steps(name: str) -> float:
        exact = getattr(config, name) * info.train_examples / config.global_batch_size
        if exact * config.global_batch_size > LARGEST_INTEGER:
            raise UserError(f"--{name}={shown(getattr(config, name))} must be fewer epochs: of "
                            f"{info.train_examples} examples they are more than 2^63 examples")
        return exact

    if given.get("train_steps"):
        config = dataclasses.replace(config, train_epochs=0.0)
    elif config.train_epochs and (fresh or "train_epochs" in given):
        config = dataclasses.replace(config, train_steps=max(1, math.ceil(round(steps("train_epochs"), 6))))
    if config.train_steps * config.global_batch_size > LARGEST_INTEGER:
        raise UserError(f"--train_steps={config.train_steps} with --global_batch_size={config.global_batch_size}: "
                        "these are more than 2^63 examples; lower one of them")
    if not fresh:
        return config
    if config.unfreeze_epochs and not config.unfreeze_steps:
        config = dataclasses.replace(config, unfreeze_steps=max(1, int(steps("unfreeze_epochs"))))
    decay = tuple(step for step in config.decay_steps if step)
    if not decay and config.decay_epochs:
        decay = (max(1, int(steps("decay_epochs"))),)
    elif not decay and config.lr_schedule == "piecewise":
        decay = (config.unfreeze_steps,)
    config = dataclasses.replace(config, decay_steps=decay or (config.train_steps,))
    if "warmup_steps" not in given and config.lr_schedule in ("cosine", "linear"):  # a recipe's, in a shorter run
        config = dataclasses.replace(config, warmup_steps=min(config.warmup_steps, config.decay_steps[0] // 10))
    return config


def _last_checks(config: Config, given: dict, info: datasets.Info, plan: devices.Plan) -> Config:
    """`config` with its last values resolved. UserError for what does not fit the data set or the number of steps."""
    if config.classes and config.classes < len(info.classes):
        raise UserError(f"--classes={config.classes} must be at least {len(info.classes)}, the classes of "
                        f"--dataset={config.dataset}; leave it out")
    if config.lr_schedule in ("cosine", "linear") and config.warmup_steps >= config.decay_steps[0]:
        raise UserError(f"--warmup_steps={config.warmup_steps} must be less than the {config.decay_steps[0]} steps of "
                        f"--lr_schedule={config.lr_schedule}; lower it, or give more --decay_steps")
    if config.profile_steps and config.profile_steps[1] > config.train_steps:
        raise UserError(f"--profile_steps={shown(config.profile_steps)} must end within the run, "
                        f"--train_steps={config.train_steps}; lower it")
    checks.fit(config, info, given, plan.workers)
    if not has_checkpoint(config.model_dir):
        checks.values(config, info)
        transfer.check(config)
    if config.init_from:
        files.check(config.init_from, "init_from")
    if config.init_from and not has_checkpoint(config.model_dir) and not has_checkpoint(config.init_from):
        raise UserError(f"--init_from={shown(config.init_from)} must be a --model_dir with a checkpoint, or the "
                        "prefix of one (M/checkpoints/ckpt-00001000); nothing is there")
    precision = config.precision
    if precision == "auto":
        precision = "bfloat16" if devices.has_fast_bfloat16(plan.kind) else "float32"
    return dataclasses.replace(config, precision=precision, classes=config.classes or len(info.classes))


def has_checkpoint(path: str) -> bool:
    """Whether `path` is a run's folder with a published checkpoint, or the prefix of a checkpoint."""
    folder, name = place(path, "checkpoints"), os.path.basename(path)
    try:
        if folder.is_dir() and manifest.published(folder):
            return True
        return place(f"{path}.index").is_file() and re.fullmatch(r"ckpt-[0-9]{8,}", name) is not None
    except OSError:
        if not isinstance(folder, pathlib.Path):
            raise  # a storage that does not answer
        return False  # a name that is too long, say
