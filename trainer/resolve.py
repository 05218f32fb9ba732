"""From a command to a run: recipe, recorded configuration and flags merged, checked together, epochs turned to steps.

    run = resolve.resolve(flags.parse(sys.argv))     # Run(config, info, plan, recorded)

Nothing is written here, and TensorFlow is not imported.
"""
import dataclasses
import json
import math
import os
import pathlib

from input_pipeline import augment, datasets
from models import registry
from trainer import config as config_lib
from trainer import devices, recipes
from trainer.config import FIELDS, TRANSIENT, Config, UserError, text_of

MOMENTUM_OPTIMIZERS = ("sgd", "lars", "rmsprop", "muon")
MULTI_REPLICA = {"mirrored": ("nccl", "hierarchical_copy", "reduction_to_one_device"), "multi_worker": ("nccl", "ring")}
RESOLVED = {"train_steps": 0, "decay_steps": (), "precision": "auto", "classes": 0, "model_dir": ""}


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
    name = given.get("recipe")
    if name is not None and name not in recipes.RECIPES:
        raise UserError(f"--recipe={name} must be one of {', '.join(recipes.RECIPES)}"
                        f"{config_lib.suggestion(name, recipes.RECIPES)}")
    recipe = recipes.RECIPES[name or "digits"]()
    model_dir = given.get("model_dir") or f"runs/{recipe.recipe}"
    _check_model_dir(model_dir)
    recorded = read_recorded(model_dir)
    config = _merge(recorded, given, model_dir) if recorded else dataclasses.replace(recipe, **given)
    config = dataclasses.replace(config, model_dir=model_dir, recipe=name or config.recipe)
    _check_pairs(config, given)
    plan = devices.plan(config)
    _check_devices(config, plan)
    info = _describe(config)
    config = _durations(config, given, info, fresh=recorded is None)
    return Run(config=_last_checks(config, info, plan), info=info, plan=plan, recorded=recorded)


def read_recorded(model_dir: str) -> dict | None:
    """The options in `model_dir`/config.json, None where there is none. UserError if it is not such a file."""
    path = pathlib.Path(model_dir, "config.json")
    try:
        values = json.loads(path.read_text())["config"]
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        for name, value in values.items():
            if name not in FIELDS:
                raise ValueError(f"has an unknown option {name!r}")
            kind = FIELDS[name].metadata["kind"]
            wanted = {float: (int, float), "ints": tuple}.get(kind, kind)
            if not (isinstance(value, wanted) and isinstance(value, bool) == (kind is bool)
                    or value is None and FIELDS[name].default is None):
                raise ValueError(f"{name} is {value!r}")
            config_lib.check_value(name, value)
        return values
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise UserError(f"{path} is not a run's configuration ({error}); "
                        "restore it, or give another --model_dir") from None


def _merge(recorded: dict, given: dict, model_dir: str) -> Config:
    """The recorded configuration with what may change taken from the command."""
    for name, value in given.items():
        free = FIELDS[name].metadata["may_change"] or (name in RESOLVED and value in (RESOLVED[name], (0,)))
        if name in recorded and not free and value != recorded[name]:
            raise UserError(f"--{name}={text_of(value)}, but the run in {model_dir} has {text_of(recorded[name])}, which "
                            "cannot change on the way; give another --model_dir to start afresh")
    changes = {name: value for name, value in given.items()
               if FIELDS[name].metadata["may_change"] and name not in ("train_epochs",)
               and not (name in RESOLVED and value == RESOLVED[name])}
    base = {name: value for name, value in recorded.items() if name not in TRANSIENT}
    return Config(**{**base, **changes, **({"train_epochs": given["train_epochs"]} if "train_epochs" in given else {})})


def _check_model_dir(model_dir: str) -> None:
    path = pathlib.Path(model_dir).absolute()
    while not path.exists():
        path = path.parent
    if not path.is_dir():
        raise UserError(f"--model_dir={model_dir} must be a folder, {path} is a file; give another one")
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"--model_dir={model_dir} must be writable, {path} is not; give another one")


def _check_pairs(config: Config, given: dict) -> None:
    """UserError for two options that do not go together. Only what the command gives is held against it."""
    def conflict(name: str, other: str, rule: str):
        raise UserError(f"--{name}={text_of(getattr(config, name))} with --{other}={text_of(getattr(config, other))}: "
                        f"{rule}")

    if given.get("train_steps") and given.get("train_epochs"):
        conflict("train_steps", "train_epochs", "both say how long to train; give one of them")
    if any(given.get("decay_steps", ())) and given.get("decay_epochs"):
        conflict("decay_steps", "decay_epochs", "both say when the rate decays; give one of them")
    if config.dry_run and config.fast_dev_run:
        conflict("dry_run", "fast_dev_run", "one runs nothing, the other one step of everything; give one of them")
    if config.lr_schedule == "constant":
        for name in ("decay_steps", "decay_epochs", "decay_rate"):
            if given.get(name) not in (None, (), (0,), 0):
                conflict(name, "lr_schedule", "a constant rate does not decay; leave one of them out")
    if given.get("staircase") and config.lr_schedule != "exponential":
        conflict("staircase", "lr_schedule", "only an exponential decay has stairs; leave one of them out")
    if config.lr_schedule != "piecewise" and len(config.decay_steps) > 1:
        conflict("decay_steps", "lr_schedule", "several boundaries belong to piecewise; give one number")
    if tuple(sorted(set(config.decay_steps))) != config.decay_steps:
        raise UserError(f"--decay_steps={text_of(config.decay_steps)} must rise from boundary to boundary")
    if "decay_rate" in given and config.lr_schedule in ("cosine", "linear"):
        conflict("decay_rate", "lr_schedule", "it falls to zero whatever the rate of decay; leave one of them out")
    if given.get("momentum") and config.optimizer not in MOMENTUM_OPTIMIZERS:
        conflict("momentum", "optimizer", f"only {', '.join(MOMENTUM_OPTIMIZERS)} take it; leave one of them out")
    if given.get("nesterov") and (config.optimizer not in ("sgd", "muon") or not config.momentum):
        conflict("nesterov", "momentum" if config.optimizer in ("sgd", "muon") else "optimizer",
                 "it is a form of the momentum of sgd and muon; give --momentum=0.9 with one of them")
    if config.early_stop_evals and not config.eval_steps:
        conflict("early_stop_evals", "eval_steps", "it counts evaluations inside the trainer; give --eval_steps=1000")
    if config.profile_steps and (len(config.profile_steps) != 2 or config.profile_steps[0] >= config.profile_steps[1]):
        raise UserError(f"--profile_steps={text_of(config.profile_steps)} must be A,B with A less than B, such as 100,110")
    for name in ("head", "local"):
        if name not in registry.NETWORKS[config.model].options and getattr(config, name) != FIELDS[name].default:
            conflict(name, "model", "this network has no such option; leave one of them out")
    for name in ("tpu_zone", "gcp_project"):
        if given.get(name) and not config.tpu:
            conflict(name, "tpu", "it belongs to a TPU; give --tpu too, or leave it out")


def _check_devices(config: Config, plan: devices.Plan) -> None:
    if config.all_reduce != "auto":
        if config.all_reduce not in MULTI_REPLICA.get(plan.strategy, ()):
            fits = [name for name, known in MULTI_REPLICA.items() if config.all_reduce in known]
            raise UserError(f"--all_reduce={config.all_reduce} does not work with --strategy={plan.strategy}; "
                            f"use --all_reduce=auto, or --strategy={' or '.join(fits)}")
        if config.all_reduce == "nccl" and plan.kind != "GPU":
            raise UserError(f"--all_reduce=nccl needs GPUs, --num_gpus={config.num_gpus} --emulate={config.emulate} "
                            "gives CPU devices; use --all_reduce=auto")
    if config.precision == "float16" and plan.kind != "GPU":
        raise UserError(f"--precision=float16 needs a GPU, the devices are {plan.kind}s (--num_gpus={config.num_gpus}); "
                        "use --precision=bfloat16 or auto")
    if config.xla and plan.kind == "CPU" and plan.replicas > 1 and config.sync_batch_norm \
            and registry.NETWORKS[config.model].batch_norm:
        raise UserError(f"--xla with --sync_batch_norm=true and {plan.replicas} CPU replicas: XLA has no all-reduce "
                        "between CPU devices; leave --xla out, or give --nosync_batch_norm")
    parts = plan.replicas * config.grad_accum_steps
    if parts and config.global_batch_size % parts:
        check_batch(config, plan.replicas)


def check_batch(config: Config, replicas: int) -> None:
    """UserError unless the global batch divides by replicas x micro-batches; names the nearest sizes that do."""
    parts = replicas * config.grad_accum_steps
    rest = config.global_batch_size % parts
    if rest:
        below, above = config.global_batch_size - rest, config.global_batch_size - rest + parts
        sizes = f"{below} or {above}" if below else f"{above}"
        raise UserError(f"--global_batch_size={config.global_batch_size} must divide by {parts} ({replicas} replicas x "
                        f"--grad_accum_steps={config.grad_accum_steps}); the nearest that do: {sizes}")


def _describe(config: Config) -> datasets.Info:
    """The data set's facts. UserError where its files are missing (and --download does not get them) or wrong."""
    try:
        return datasets.describe(config.dataset, config.data_dir)
    except datasets.MissingData as error:
        if not config.download:
            raise UserError(f"--data_dir={config.data_dir}: {error}") from None
        return datasets.facts(config.dataset)
    except (ValueError, OSError) as error:
        raise UserError(f"--data_dir={config.data_dir}: {error}") from None


def _durations(config: Config, given: dict, info: datasets.Info, *, fresh: bool) -> Config:
    """`config` with its epochs turned into steps."""
    def steps(epochs: float) -> int:
        return max(1, math.ceil(round(epochs * info.train_examples / config.global_batch_size, 6)))

    if given.get("train_steps"):
        config = dataclasses.replace(config, train_epochs=0.0)
    elif config.train_epochs and (fresh or "train_epochs" in given):
        config = dataclasses.replace(config, train_steps=steps(config.train_epochs))
    if not config.train_steps:
        raise UserError("--train_steps=0 and --train_epochs=0: one of them must say how long to train")
    if not fresh:
        return config
    decay = tuple(step for step in config.decay_steps if step)
    if not decay and config.decay_epochs:
        decay = (int(config.decay_epochs * info.train_examples / config.global_batch_size),)
    if not decay and config.lr_schedule == "piecewise":
        raise UserError("--lr_schedule=piecewise needs boundaries; give --decay_steps=A,B,...")
    return dataclasses.replace(config, decay_steps=decay or (config.train_steps,))


def _last_checks(config: Config, info: datasets.Info, plan: devices.Plan) -> Config:
    if config.classes and config.classes < len(info.classes):
        raise UserError(f"--classes={config.classes} must be at least {len(info.classes)}, the classes of "
                        f"--dataset={config.dataset}")
    if config.lr_schedule in ("cosine", "linear") and config.warmup_steps >= config.decay_steps[0]:
        raise UserError(f"--warmup_steps={config.warmup_steps} must be less than the {config.decay_steps[0]} steps of "
                        f"--lr_schedule={config.lr_schedule}")
    try:
        augment.check(config.augment, info.image_shape)
    except ValueError as error:
        raise UserError(f"--augment={config.augment}: {error}") from None
    if config.init_from and not _has_checkpoint(config.init_from):
        raise UserError(f"--init_from={config.init_from} must be a --model_dir with a checkpoint, or the prefix of one; "
                        "nothing is there")
    precision = config.precision
    if precision == "auto":
        precision = "bfloat16" if devices.has_fast_bfloat16(plan.kind) else "float32"
    return dataclasses.replace(config, precision=precision, classes=config.classes or len(info.classes))


def _has_checkpoint(path: str) -> bool:
    return pathlib.Path(path + ".index").exists() or any(pathlib.Path(path, "checkpoints").glob("ckpt-*.json"))
