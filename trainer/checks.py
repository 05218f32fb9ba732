"""Options that do not go together: with each other, with the devices, with the data set. Both are named.

    checks.pairs(config, given)          # only what the command gives is held against it
    checks.on_devices(config, plan)
    checks.fit(config, info, given, workers)
    checks.values(config, info)                  # of a run that begins
"""
from input_pipeline import augment, datasets, test_time
from input_pipeline.rules import shown
from models import registry
from trainer import devices, names, transfer
from trainer.config import FIELDS, Config, UserError

NEAR = 0.1  # of their range: values that a network may be given in place of those that it is made for
PROBES = ([0.0, 0.0, 0.0], [255.0, 255.0, 255.0], [255.0, 0.0, 0.0])  # colours: black, white, red
# Which sums over replicas a strategy can be told to use; the other strategies have one of their own.
ALL_REDUCE = {"mirrored": ("nccl", "hierarchical_copy", "reduction_to_one_device"),
              "multi_worker": ("nccl", "ring")}


def pairs(config: Config, given: dict) -> None:
    """UserError for two options that do not go together. Only what the command gives is held against it."""
    def conflict(name: str, other: str, why: str):
        one, two = (shown(getattr(config, option)) for option in (name, other))
        raise UserError(f"--{name}={one} with --{other}={two}: {why}")

    if given.get("train_steps") and given.get("train_epochs"):
        conflict("train_steps", "train_epochs", "both say how long to train; give one of them")
    if not config.train_steps and not config.train_epochs:
        conflict("train_steps", "train_epochs",
                 "one of them must say how long to train; give --train_steps=1000, say")
    _decay(config, given, conflict)
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
    for name in ("head_learning_rate", "bias_learning_rate", "whiten_epochs"):
        if given.get(name) and config.optimizer != "muon_sgd":
            conflict(name, "optimizer", "only muon_sgd has such groups of weights; leave it out")
    if config.early_stop_evals and not config.eval_steps:
        conflict("early_stop_evals", "eval_steps",
                 "it counts evaluations inside the trainer; give --eval_steps=1000")
    span = config.profile_steps
    if span and (len(span) != 2 or span[0] >= span[1]):
        raise UserError(f"--profile_steps={shown(span)} must be A,B with A less than B, such as 100,110")
    for name in registry.OPTIONS:
        known = name in registry.NETWORKS[config.model].options
        if not known and getattr(config, name) != FIELDS[name].default:
            able = [model for model, network in registry.NETWORKS.items() if name in network.options and "/" not in model]
            able = able or ["applications/MobileNetV2"]
            conflict(name, "model",
                     f"this network has no such option; leave it out, or use --model={' or '.join(able)}")
    if given.get("unfreeze_steps") and given.get("unfreeze_epochs"):
        conflict("unfreeze_steps", "unfreeze_epochs", "both say when; give one of them")
    if not config.freeze and (given.get("unfreeze_steps") or given.get("unfreeze_epochs")):
        conflict("unfreeze_steps" if given.get("unfreeze_steps") else "unfreeze_epochs", "freeze",
                 "nothing is frozen; give --freeze too")
    if config.freeze and not config.pretrained_weights and not config.init_from:
        raise UserError("--freeze=true without --pretrained_weights or --init_from: random layers would stay random; "
                        "give one of them")
    if config.optimizer == "muon_sgd" and config.freeze and (config.unfreeze_steps or config.unfreeze_epochs):
        conflict("optimizer", "freeze", "muon_sgd holds the norm of all filters, also of those that do not learn yet; give another "
                 "--optimizer, or leave out --unfreeze_steps and --unfreeze_epochs")
    if given.get("pretrained_weights") and given.get("init_from"):
        conflict("pretrained_weights", "init_from", "both give first weights; give one of them")
    if given.get("batch_norm_momentum") and not registry.check(config.model).batch_norm:
        raise UserError(f"--batch_norm_momentum={config.batch_norm_momentum:g} with --model={config.model}: this network has no "
                        "batch normalisation; leave it out")
    for name in ("tpu_zone", "gcp_project"):
        if given.get(name) and not config.tpu:
            raise UserError(f"--{name}={shown(given[name])} without --tpu: it is for finding a TPU by its name; "
                            "give --tpu=NAME too, or leave it out")


def _decay(config: Config, given: dict, conflict) -> None:
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
    if schedule == "piecewise" and not has_boundaries(config):
        raise UserError("--lr_schedule=piecewise needs boundaries; give --decay_steps=100,200, say")
    if schedule != "piecewise" and len(boundaries) > 1:
        conflict("decay_steps", "lr_schedule", "several boundaries belong to piecewise; give one number")
    if tuple(sorted(set(boundaries))) != boundaries or len(boundaries) > 1 and not boundaries[0]:
        raise UserError(f"--decay_steps={shown(boundaries)} must rise from boundary to boundary, from 1 on; "
                        "write such as 100,200")
    if "decay_rate" in given and schedule in ("cosine", "linear"):
        conflict("decay_rate", "lr_schedule",
                 "it falls to zero whatever the rate of decay; leave one of them out")


def has_boundaries(config: Config) -> bool:
    """Whether something says where a piecewise rate changes."""
    return bool(any(config.decay_steps) or config.decay_epochs or config.unfreeze_steps or config.unfreeze_epochs)


def on_devices(config: Config, plan: devices.Plan) -> None:
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
        batch(config, plan.replicas)


def _instead(config: Config) -> str:
    """Why the devices are no GPUs."""
    if config.tpu and config.tpu != "auto":
        return f"--tpu={shown(config.tpu)} gives a TPU"
    if config.num_gpus is None:
        return "none is visible here"
    return f"--num_gpus={config.num_gpus}{' with --emulate' * config.emulate} gives CPU devices"


def batch(config: Config, replicas: int) -> None:
    """UserError unless the global batch divides by replicas x micro-batches; names the nearest sizes that do."""
    parts = replicas * config.grad_accum_steps
    rest = config.global_batch_size % parts
    if rest:
        below, above = config.global_batch_size - rest, config.global_batch_size - rest + parts
        sizes = f"{below} or {above}" if below else f"{above}"
        raise UserError(f"--global_batch_size={config.global_batch_size} must divide by {parts} ({replicas} "
                        f"replica{'s' * (replicas > 1)} x --grad_accum_steps={config.grad_accum_steps}); "
                        f"the nearest that do: {sizes}; or change the number of replicas")


def values(config: Config, info: datasets.Info) -> None:
    """UserError where images become other numbers than the network's weights of ImageNet are made for, or than it can restore."""
    network, augmentation = registry.check(config.model), augment.parse(config.augment)
    said = f"--augment={shown(config.augment)} with"
    if config.pretrained_weights == transfer.IMAGENET and network.imagenet_values is not None:
        found, wanted = ([by.pixel(color) for color in PROBES] for by in (augmentation, augment.parse(network.imagenet_values)))
        near = NEAR * (wanted[1][0] - wanted[0][0])
        if None in found or max(abs(a - b) for one, other in zip(found, wanted) for a, b in zip(one, other)) > near:
            right = network.imagenet_values
            fix = f"made by {right}; end the list with it" if right else "of 0 to 255; leave out what changes them"
            raise UserError(f"{said} --pretrained_weights={transfer.IMAGENET}: the weights of --model={config.model} are for values "
                            f"{fix}, or give the weights' file itself to do otherwise")
    if network.restores and len(info.input_shape) == 3:
        least, most = network.restores
        found = [value for level in (0, info.brightest) for value in augmentation.pixel([level] * info.input_shape[2]) or ()]
        near = NEAR * (most - least)
        if found and not least - near <= min(found) <= max(found) <= most + near:
            std = info.brightest / (most - least)
            raise UserError(f"{said} --model={config.model}: images become {min(found):.3g} to {max(found):.3g}, and this network "
                            f"restores {least} to {most}; give normalize:{-least * std:g}:{std:g}")


# What only some tasks know: the option, and the task that does.
TASK_OPTIONS = {"label_smoothing": "classification", "classes": "classification",
                "test_time_augmentation": "classification"}


def fit(config: Config, info: datasets.Info, given: dict, workers: int) -> None:
    """UserError unless network, data set and augmentation go together."""
    if config.eval_steps and info.selection_split not in info.splits:
        raise UserError(f"--eval_steps={config.eval_steps} with --dataset={config.dataset}: all its examples are for training; "
                        "leave it out, or set some apart in a folder called validation or test")
    task = registry.check(config.model).task
    if (task == "forecasting") != (info.target_shape is not None):
        wanted = "a series" if task == "forecasting" else "images"
        able = "co2" if task == "forecasting" else "cifar10, or another set of images"
        raise UserError(f"--model={config.model} with --dataset={config.dataset}: this network takes {wanted}; give "
                        f"--dataset={able}, or another --model")
    if task == "classification" and len(info.classes) == 1:
        raise UserError(f"--data_dir={shown(config.data_dir)} with --dataset={config.dataset}: all its images are of one class, "
                        f"{shown(info.classes[0])}; give a folder with at least two classes")
    for name, its_task in TASK_OPTIONS.items():
        if task != its_task and given.get(name):
            raise UserError(f"--{name}={shown(given[name])} with --model={config.model}: it belongs to {its_task}, and "
                            f"this network's task is {task}; leave it out")
    if len(info.input_shape) != 3:
        if config.augment:
            raise UserError(f"--augment={shown(config.augment)} with --dataset={config.dataset}: its examples are no "
                            "images; leave it out")
        return
    try:
        augment.check(config.augment, info.input_shape)
    except (ValueError, OverflowError) as error:
        raise UserError(f"--augment={shown(config.augment)} with --dataset={config.dataset}: {error}") from None
    augmentation = augment.parse(config.augment)
    try:
        test_time.check(config.test_time_augmentation, augmentation.output_shape(info.input_shape))
    except ValueError as error:
        raise UserError(f"--test_time_augmentation={config.test_time_augmentation}: {error}") from None
    if augmentation.mixes and task != "classification" or augmentation.corrupts and task != "reconstruction":
        raise UserError(f"--augment={shown(config.augment)} with --model={config.model}: mixing is for classification, "
                        f"spoiling the input for reconstruction, and this network's task is {task}; leave it out")
    if task == "reconstruction":
        try:
            augment.check_inverse(config.augment)
        except ValueError as error:
            raise UserError(f"--augment={shown(config.augment)} with --model={config.model}: {error}") from None
    if augmentation.mixes and config.global_batch_size // workers % 2:
        raise UserError(f"--global_batch_size={config.global_batch_size} on {workers} worker{'s' * (workers > 1)} with "
                        f"--augment={shown(config.augment)}: examples are mixed in pairs; give a multiple of {2 * workers}")
