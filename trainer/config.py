"""What a run is: one frozen dataclass, every field documented, with its unit and its rule.

A recipe (trainer.recipes) gives every value, a flag overrides it (trainer.flags), trainer.resolve checks the
combination and turns epochs into steps, and `config.json` records the result. Plain Python: no TensorFlow, so that a
wrong command fails at once.

    config = dataclasses.replace(recipes.RECIPES["digits"](), train_steps=100)
"""
import dataclasses

from input_pipeline import datasets
from input_pipeline.rules import Rule, UserError  # noqa: F401  UserError is what other modules take from here
from models import registry
from trainer import names


def option(default, help_text, *, group="", kind=None, choices=None, may_change=False, **bounds):
    """A dataclass field with what the flags, the checks and `--help` need to know about it.

    kind, choices and bounds (at_least, above, at_most, below, filled, pattern, form): see `rules.Rule`; the kind is the
    default's type where it is not given. may_change: whether a resumed run may be given another value.
    """
    rule = Rule(kind=kind or type(default), default=default, choices=tuple(choices) if choices else None, **bounds)
    return dataclasses.field(default=default, metadata=dict(help=help_text, group=group, rule=rule,
                                                            may_change=may_change))


WHAT, LONG, OPTIMISATION, AUGMENTATION = "what", "how long", "optimisation", "augmentation"
DEVICES, NUMERICS, CADENCE, TRYING = "devices", "numerics", "cadence", "trying out"
INT32 = 2**31 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Every setting of a run. A recipe gives its values; what it does not say has these defaults."""

    recipe: str = option("digits", "a named configuration that gives every other value", group=WHAT)
    model: str = option("digits_cnn", "the network", group=WHAT, choices=registry.NAMES)
    dataset: str = option("digits", "the data set", group=WHAT, choices=datasets.DATASETS)
    data_dir: str = option("data", "the folder that holds the data set's own folder", group=WHAT, kind="path",
                           filled=True, may_change=True)
    download: bool = option(False, "fetch the data set, and the weights of --pretrained_weights=imagenet, into --data_dir if "
                            "they are not there", group=WHAT, may_change=True)
    model_dir: str = option("", "where checkpoints, summaries and metrics go (default: runs/<recipe>)", group=WHAT,
                            kind="path", filled=True, may_change=True)
    seed: int = option(0, "of initial weights, order, distortions and dropout; any whole number from 0", group=WHAT,
                       at_least=0)
    init_from: str = option("", "another run's --model_dir (or a checkpoint prefix): start from its weights (moving "
                            "averages where it has them), step 0", group=WHAT, kind="path", may_change=True)
    pretrained_weights: str = option("", "weights of the network below its head: an .h5 or .npz file, or imagenet "
                                     "(looked for in --data_dir/weights, downloaded with --download)", group=WHAT,
                                     kind="path")
    freeze: bool = option(False, "train the head alone; the layers below it and their batch statistics stay as they are",
                          group=WHAT)
    unfreeze_steps: int = option(0, "with --freeze: steps after which the layers below the head are trained too, their "
                                 "batch statistics still frozen (0: --unfreeze_epochs, else never)", group=WHAT,
                                 at_least=0)
    unfreeze_epochs: float = option(0.0, "--unfreeze_steps in passes over the training set (0: --unfreeze_steps says it)",
                                    group=WHAT, at_least=0)
    image_size: int = option(0, "side of the square that photos of any size are cut and resized to (0: the data set's "
                             "own)", group=WHAT, at_least=0, at_most=4096)
    classes: int = option(0, "outputs of the network (0: as many as the data set has)", group=WHAT, at_least=0,
                          at_most=INT32)
    head: str = option("logits", "what the tutorial network's last layer gives", group=WHAT,
                       choices=("logits", "softmax"))
    top: str = option("average", "of a network of applications/: the mean over all positions and a dense layer, a dense "
                      "layer on all positions, or Keras's own last layers", group=WHAT,
                      choices=("average", "flatten", "own"))
    blocks: tuple = option((), "of each stage of a resnet or densenet, such as 2,2,2,2 (default: the network's own)", group=WHAT,
                           kind="ints", at_least=1)
    local: str = option("dense", "the tutorial network's local3 and local4", group=WHAT,
                        choices=("dense", "locally_connected"))

    train_steps: int = option(0, "optimizer updates of the whole run (0: --train_epochs says it)", group=LONG,
                              at_least=0, may_change=True)
    train_epochs: float = option(30.0, "passes over the training set, turned into steps (0: --train_steps says it)",
                                 group=LONG, at_least=0, may_change=True)
    global_batch_size: int = option(64, "examples a step, over all replicas and micro-batches", group=LONG, at_least=1,
                                    at_most=INT32)
    early_stop_evals: int = option(0, "stop after so many inline evaluations without a better one (0: off)",
                                   group=LONG, at_least=0, may_change=True)

    optimizer: str = option("adam", "the optimizer", group=OPTIMISATION, choices=names.OPTIMIZERS)
    learning_rate: float = option(0.002, "the rate that the schedule starts from (0: the weights stay as they are)",
                                  group=OPTIMISATION, at_least=0)
    lr_schedule: str = option("cosine", "how the rate changes with the step", group=OPTIMISATION,
                              choices=names.SCHEDULES)
    decay_steps: tuple = option((), "steps a decay (exponential), steps to zero (cosine, linear), comma-separated "
                                "boundaries (piecewise); 0: --decay_epochs, else where --freeze ends (piecewise) or "
                                "the whole run", group=OPTIMISATION,
                                kind="ints", at_least=0)
    decay_epochs: float = option(0.0, "--decay_steps in passes over the training set (0: --decay_steps says it)",
                                 group=OPTIMISATION, at_least=0)
    decay_rate: float = option(0.1, "factor of one decay (exponential, piecewise)", group=OPTIMISATION, above=0)
    staircase: bool = option(False, "exponential decay in jumps instead of smoothly", group=OPTIMISATION)
    head_learning_rate: float = option(0.0, "of the last layer under muon_sgd; it follows --lr_schedule (0: "
                                       "--learning_rate)", group=OPTIMISATION, at_least=0)
    bias_learning_rate: float = option(0.0, "of all but the last layer and the filters under muon_sgd; it follows "
                                       "--lr_schedule (0: --learning_rate)", group=OPTIMISATION, at_least=0)
    whiten_epochs: float = option(0.0, "passes over the training set in which the whitening layer's bias learns under "
                                  "muon_sgd, its rate falling to 0 (0: all, as --lr_schedule says)", group=OPTIMISATION,
                                  at_least=0)
    warmup_steps: int = option(0, "steps of linear warm-up (0: none; a recipe's is at most a tenth of the run)",
                               group=OPTIMISATION, at_least=0)
    momentum: float = option(0.0, "of sgd, lars, rmsprop, muon and muon_sgd (0: none)", group=OPTIMISATION, at_least=0,
                             below=1)
    nesterov: bool = option(False, "Nesterov's form of the momentum of sgd and muon", group=OPTIMISATION)
    weight_decay: float = option(0.0, "wd in wd * sum(w^2) / 2 of the decayed kernels: added to the loss; inside the "
                                 "update for adamw, lamb, lars, muon, muon_sgd (0: none)", group=OPTIMISATION, at_least=0)
    label_smoothing: float = option(0.0, "share of the target spread evenly over the classes (0: none)",
                                    group=OPTIMISATION, at_least=0, below=1)
    clip_norm: float = option(0.0, "largest global norm of the reduced gradient (0: no clipping)", group=OPTIMISATION,
                              at_least=0)
    grad_accum_steps: int = option(1, "micro-batches a step", group=OPTIMISATION, at_least=1)
    ema_decay: float = option(0.99, "decay of the weights' moving averages, min(this, (1+n)/(10+n)) at step n "
                              "(0: none are kept)", group=OPTIMISATION, at_least=0, below=1)
    max_skipped_steps: int = option(10, "stop with code 3 after more than so many steps in a row that were not finite "
                                    "(0: at the first)", group=OPTIMISATION, at_least=0, may_change=True)

    augment: str = option("normalize:0:16", "comma-separated distortions with colon-separated arguments",
                          group=AUGMENTATION)
    test_time_augmentation: str = option("none", "views of an image whose outputs are averaged in evaluation and use: its "
                                         "mirror image, that and both shifted by one pixel",
                                         group=AUGMENTATION, choices=("none", "mirror", "mirror_shift"))

    num_gpus: int | None = option(None, "replicas: GPUs, or logical CPU devices with --emulate (default: every "
                                  "visible GPU; 0: the CPU)", group=DEVICES, kind=int, at_least=0, may_change=True)
    emulate: bool = option(False, "the --num_gpus replicas are logical CPU devices", group=DEVICES, may_change=True)
    tpu: str = option("", "a TPU's name, grpc://HOST:PORT, local, or auto (none found: as without)", group=DEVICES,
                      may_change=True)
    tpu_zone: str = option("", "the TPU's zone (default: the environment's)", group=DEVICES, may_change=True)
    gcp_project: str = option("", "the TPU's project (default: the environment's)", group=DEVICES, may_change=True)
    strategy: str = option("auto", "the tf.distribute strategy", group=DEVICES, may_change=True,
                          choices=("auto", "one_device", "mirrored", "central_storage", "multi_worker", "tpu"))
    all_reduce: str = option("auto", "how gradients are summed over replicas", group=DEVICES, may_change=True,
                            choices=("auto", "nccl", "hierarchical_copy", "reduction_to_one_device", "ring"))
    intra_op_threads: int = option(
        0, "threads inside an operation (0: TensorFlow's choice, but 1 where replicas on CPUs keep all cores busy)",
        group=DEVICES, at_least=0, at_most=INT32, may_change=True)
    inter_op_threads: int = option(0, "operations at a time (0: TensorFlow's choice)", group=DEVICES, at_least=0,
                                   at_most=INT32, may_change=True)
    hang_timeout_secs: float | None = option(
        None, "seconds without progress of any worker, or without a word of one, after which the run ends with code 75 and says "
        "whose fault it is (default: 300 for several workers; one process only says so; 0: off)", group=DEVICES, kind=float,
        at_least=0, at_most=86400, may_change=True)

    precision: str = option("auto", "of the layers' arithmetic; weights stay float32. auto: bfloat16 where the device "
                            "computes it fast, else float32", group=NUMERICS,
                           choices=("auto", "float32", "bfloat16", "float16"))
    xla: bool = option(False, "compile the forward and backward pass with XLA", group=NUMERICS, may_change=True)
    deterministic: bool = option(False, "equal runs are equal bit for bit", group=NUMERICS, may_change=True)
    sync_batch_norm: bool = option(True, "batch statistics over all replicas", group=NUMERICS)
    batch_norm_momentum: float = option(0.0, "share of the moving statistics of batch normalisation that a step keeps (0: the "
                                        "network's own, which may be made for longer runs)", group=NUMERICS, at_least=0,
                                        below=1)

    log_steps: int = option(10, "steps between lines on the console and in metrics.jsonl", group=CADENCE, at_least=1,
                            may_change=True)
    summary_steps: int = option(100, "steps between TensorBoard scalars and images (0: none)", group=CADENCE,
                                at_least=0, may_change=True)
    histogram_steps: int = option(100, "steps between TensorBoard histograms and sparsities (0: none)", group=CADENCE,
                                  at_least=0, may_change=True)
    checkpoint_steps: int = option(1000, "steps between checkpoints (0: only the last)", group=CADENCE, at_least=0,
                                   may_change=True)
    keep_checkpoints: int = option(5, "newest whole checkpoints that are kept", group=CADENCE, at_least=1,
                                   may_change=True)
    eval_steps: int = option(0, "steps between evaluations inside the trainer (0: only the separate evaluator)",
                             group=CADENCE, at_least=0, may_change=True)
    steps_per_loop: int = option(0, "most steps of one call into TensorFlow (0: chosen at run time)", group=CADENCE,
                                 at_least=0, may_change=True)

    dry_run: bool = option(False, "print configuration, devices, batch arithmetic and layers; train and write nothing",
                           group=TRYING, may_change=True)
    fast_dev_run: bool = option(False, "one step of everything in a temporary folder", group=TRYING, may_change=True)
    profile_steps: tuple = option((), "A,B: profile steps A to B for TensorBoard", group=TRYING, kind="ints",
                                  at_least=1, may_change=True)
    progress: str = option("auto", "what the console shows: a bar on a terminal, lines, or nothing between messages",
                           group=TRYING, choices=("auto", "bar", "lines", "none"), may_change=True)


FIELDS = {field.name: field for field in dataclasses.fields(Config)}
TRANSIENT = ("download", "dry_run", "fast_dev_run", "progress", "profile_steps")  # of one command, not of the run


def data_options(config: Config) -> dict:
    """The options of the data set that were chosen, as `datasets.describe` takes them."""
    return {"image_size": config.image_size} if config.image_size else {}


def rule(name: str) -> Rule:
    """What option `name` may be."""
    return FIELDS[name].metadata["rule"]


def may_change(name: str) -> bool:
    """Whether a resumed run may be given another value of option `name`."""
    return FIELDS[name].metadata["may_change"]
