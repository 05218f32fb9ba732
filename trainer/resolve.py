"""From a command to a run: recipe, recorded configuration and flags merged, checked together, epochs turned to steps.

    run = resolve.resolve(flags.parse(sys.argv))     # Run(config, info, plan, recorded)

Nothing is written here, and TensorFlow is not imported.
"""
import dataclasses
import math
import os
import pathlib
import re

from input_pipeline import augment, datasets
from models import registry
from trainer import devices, manifest, names, recipes
from trainer.config import FIELDS, Config, UserError
from trainer.recorded import check_absent, merge, read_recorded
from trainer.rules import LARGEST_INTEGER, shown, suggestion, text_of

# Which sums over replicas a strategy can be told to use; the other strategies have one of their own.
ALL_REDUCE = {"mirrored": ("nccl", "hierarchical_copy", "reduction_to_one_device"),
              "multi_worker": ("nccl", "ring")}


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
    if name not in recipes.RECIPES:
        raise UserError(f"--recipe={shown(name)} must be one of {', '.join(recipes.RECIPES)}"
                        f"{suggestion(name, recipes.RECIPES)}")
    model_dir = given.get("model_dir") or f"runs/{name}"
    _check_model_dir(model_dir)
    recorded = read_recorded(model_dir)
    if recorded is None:
        check_absent(model_dir)
        config = _start(recipes.RECIPES[name](), given)
    else:
        config = merge(recorded, given, model_dir)
    config = dataclasses.replace(config, model_dir=model_dir)
    _check_pairs(config, given)
    try:
        plan = devices.plan(config)
        _check_devices(config, plan)
    except UserError as error:
        told = [name for name in given if FIELDS[name].metadata["group"] == FIELDS["num_gpus"].metadata["group"]]
        raise UserError(f"{error} (as {shown(model_dir)}/config.json says)") if recorded and not told else error
    info = _describe(config)
    config = _durations(config, given, info, fresh=recorded is None)
    return Run(config=_last_checks(config, info, plan), info=info, plan=plan, recorded=recorded)


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
    if config.optimizer != recipe.optimizer:
        gone += ["nesterov"] + ["momentum"] * (config.optimizer not in names.MOMENTUM)
        # Decay in the loss and decay in the update are not on one scale.
        gone += ["weight_decay"] * ((config.optimizer in names.DECOUPLED) != (recipe.optimizer in names.DECOUPLED))
    gone += [name for name in ("head", "local") if name not in registry.NETWORKS[config.model].options]
    return dataclasses.replace(config, **{name: FIELDS[name].default for name in gone if name not in given})


def _check_model_dir(model_dir: str) -> None:
    """UserError unless `model_dir` is a folder that can be written, or can be made."""
    def wrong(why: str):
        raise UserError(f"--model_dir={shown(model_dir)} must be a folder that can be written, {why}; give another")

    if re.match(r"[a-z][a-z0-9+.-]*://", model_dir):
        wrong("not an address: mount what is there")
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


def _check_pairs(config: Config, given: dict) -> None:
    """UserError for two options that do not go together. Only what the command gives is held against it."""
    def conflict(name: str, other: str, why: str):
        one, two = (shown(getattr(config, option)) for option in (name, other))
        raise UserError(f"--{name}={one} with --{other}={two}: {why}")

    if given.get("train_steps") and given.get("train_epochs"):
        conflict("train_steps", "train_epochs", "both say how long to train; give one of them")
    if not config.train_steps and not config.train_epochs:
        conflict("train_steps", "train_epochs",
                 "one of them must say how long to train; give --train_steps=1000, say")
    _check_decay(config, given, conflict)
    if config.dry_run and config.fast_dev_run:
        conflict("dry_run", "fast_dev_run",
                 "one runs nothing, the other one step of everything; give one of them")
    if given.get("momentum") and config.optimizer not in names.MOMENTUM:
        conflict("momentum", "optimizer", f"only {', '.join(names.MOMENTUM)} take it; leave one of them out")
    if given.get("nesterov") and config.optimizer not in ("sgd", "muon"):
        conflict("nesterov", "optimizer",
                 "it is a form of the momentum of sgd and muon; leave one of them out")
    if given.get("nesterov") and not config.momentum:
        conflict("nesterov", "momentum", "it is a form of the momentum; give --momentum=0.9")
    if config.early_stop_evals and not config.eval_steps:
        conflict("early_stop_evals", "eval_steps",
                 "it counts evaluations inside the trainer; give --eval_steps=1000")
    span = config.profile_steps
    if span and (len(span) != 2 or span[0] >= span[1]):
        raise UserError(f"--profile_steps={shown(span)} must be A,B with A less than B, such as 100,110")
    for name in ("head", "local"):
        known = name in registry.NETWORKS[config.model].options
        if not known and getattr(config, name) != FIELDS[name].default:
            able = [model for model, network in registry.NETWORKS.items() if name in network.options]
            conflict(name, "model",
                     f"this network has no such option; leave it out, or use --model={' or '.join(able)}")
    for name in ("tpu_zone", "gcp_project"):
        if given.get(name) and not config.tpu:
            raise UserError(f"--{name}={shown(given[name])} without --tpu: it is for finding a TPU by its name; "
                            "give --tpu=NAME too, or leave it out")


def _check_decay(config: Config, given: dict, conflict) -> None:
    """`_check_pairs` for the options of the learning rate's schedule."""
    boundaries, schedule = config.decay_steps, config.lr_schedule
    if any(given.get("decay_steps", ())) and given.get("decay_epochs"):
        conflict("decay_steps", "decay_epochs", "both say when the rate decays; give one of them")
    if schedule == "constant":
        for name in ("decay_steps", "decay_epochs", "decay_rate"):
            if given.get(name) not in (None, (), (0,), 0):
                conflict(name, "lr_schedule", "a constant rate does not decay; leave one of them out")
    if given.get("staircase") and schedule != "exponential":
        conflict("staircase", "lr_schedule", "only an exponential decay has stairs; leave one of them out")
    if schedule == "piecewise" and not any(boundaries) and not config.decay_epochs:
        raise UserError("--lr_schedule=piecewise needs boundaries; give --decay_steps=100,200, say")
    if schedule != "piecewise" and len(boundaries) > 1:
        conflict("decay_steps", "lr_schedule", "several boundaries belong to piecewise; give one number")
    if tuple(sorted(set(boundaries))) != boundaries or len(boundaries) > 1 and not boundaries[0]:
        raise UserError(f"--decay_steps={shown(boundaries)} must rise from boundary to boundary, from 1 on; "
                        "write such as 100,200")
    if "decay_rate" in given and schedule in ("cosine", "linear"):
        conflict("decay_rate", "lr_schedule",
                 "it falls to zero whatever the rate of decay; leave one of them out")


def _check_devices(config: Config, plan: devices.Plan) -> None:
    """UserError for options that the devices of `plan` cannot serve."""
    if config.all_reduce != "auto":
        if config.all_reduce not in ALL_REDUCE.get(plan.strategy, ()):
            fits = [name for name, known in ALL_REDUCE.items() if config.all_reduce in known]
            raise UserError(f"--all_reduce={config.all_reduce} does not work with --strategy={plan.strategy}; "
                            f"use --all_reduce=auto, or --strategy={' or '.join(fits)}")
        if config.all_reduce == "nccl" and plan.kind != "GPU":
            raise UserError(f"--all_reduce=nccl needs GPUs, but {_instead(config)}; use --all_reduce=auto")
    if config.all_reduce == "hierarchical_copy" and plan.replicas % 2 and plan.replicas > 1:
        # TensorFlow 2.21 sums two halves of replicas // 2 each: the last replica's gradient would be lost.
        raise UserError("--all_reduce=hierarchical_copy needs an even number of replicas, "
                        f"--num_gpus={plan.replicas} is odd; use --all_reduce=auto")
    if config.precision == "float16" and plan.kind != "GPU":
        raise UserError(f"--precision=float16 needs a GPU, but {_instead(config)}; use --precision=bfloat16 or auto")
    if config.xla and plan.kind == "CPU" and plan.replicas > 1 and config.sync_batch_norm \
            and registry.NETWORKS[config.model].batch_norm:
        raise UserError(f"--xla with --sync_batch_norm=true and {plan.replicas} CPU replicas: XLA has no all-reduce "
                        "between CPU devices; leave --xla out, or give --nosync_batch_norm")
    if plan.replicas:
        check_batch(config, plan.replicas)


def _instead(config: Config) -> str:
    """Why the devices are no GPUs."""
    if config.tpu and config.tpu != "auto":
        return f"--tpu={shown(config.tpu)} gives a TPU"
    if config.num_gpus is None:
        return "none is visible here"
    return f"--num_gpus={config.num_gpus}{' with --emulate' * config.emulate} gives CPU devices"


def check_batch(config: Config, replicas: int) -> None:
    """UserError unless the global batch divides by replicas x micro-batches; names the nearest sizes that do."""
    parts = replicas * config.grad_accum_steps
    rest = config.global_batch_size % parts
    if rest:
        below, above = config.global_batch_size - rest, config.global_batch_size - rest + parts
        sizes = f"{below} or {above}" if below else f"{above}"
        raise UserError(f"--global_batch_size={config.global_batch_size} must divide by {parts} ({replicas} "
                        f"replica{'s' * (replicas > 1)} x --grad_accum_steps={config.grad_accum_steps}); "
                        f"the nearest that do: {sizes}; or change the number of replicas")


def _describe(config: Config) -> datasets.Info:
    """The data set's facts. UserError where its files are missing (and --download does not get them) or wrong."""
    try:
        return datasets.describe(config.dataset, config.data_dir)
    except datasets.MissingData as error:
        if config.download and not config.dry_run:
            return datasets.facts(config.dataset)
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
    decay = tuple(step for step in config.decay_steps if step)
    if not decay and config.decay_epochs:
        decay = (max(1, int(steps("decay_epochs"))),)
    return dataclasses.replace(config, decay_steps=decay or (config.train_steps,))


def _last_checks(config: Config, info: datasets.Info, plan: devices.Plan) -> Config:
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
    try:
        augment.check(config.augment, info.input_shape)
    except (ValueError, OverflowError) as error:
        raise UserError(f"--augment={shown(config.augment)} with --dataset={config.dataset}: {error}") from None
    if config.profile_steps and config.profile_steps[1] > config.train_steps:
        raise UserError(f"--profile_steps={text_of(config.profile_steps)} must end by the last step, "
                        f"{config.train_steps}")
    if config.init_from and not _has_checkpoint(config.model_dir) and not _has_checkpoint(config.init_from):
        raise UserError(f"--init_from={shown(config.init_from)} must be a --model_dir with a checkpoint, or the "
                        "prefix of one (M/checkpoints/ckpt-00001000); nothing is there")
    precision = config.precision
    if precision == "auto":
        precision = "bfloat16" if devices.has_fast_bfloat16(plan.kind) else "float32"
    return dataclasses.replace(config, precision=precision, classes=config.classes or len(info.classes))


def _has_checkpoint(path: str) -> bool:
    """Whether `path` is a run's folder with a published checkpoint, or the prefix of a checkpoint."""
    folder, name = os.path.join(path, "checkpoints"), os.path.basename(path)
    if os.path.isdir(folder) and manifest.published(pathlib.Path(folder)):
        return True
    return os.path.isfile(f"{path}.index") and re.fullmatch(r"ckpt-[0-9]{8,}", name) is not None
