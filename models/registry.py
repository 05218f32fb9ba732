"""Every network by name: what it is, what it understands, how to build it.

Plain Python until `build`, so that a wrong name or option fails before TensorFlow is imported. To add a
network, write its module (a function of keyword arguments that returns a keras.Model) and one entry here.

    check("cifar10_tutorial", head="softmax")                                   # no TensorFlow
    model = build("cifar10_tutorial", input_shape=(24, 24, 3), classes=10)
    model = build("resnet18", input_shape=(32, 32, 3), classes=10, blocks=(1, 1, 1, 1))
    model = build("applications/MobileNetV2", input_shape=(224, 224, 3), classes=5, top="flatten")
    kernels = decayed_kernels("cifar10_tutorial", model)
"""

import dataclasses
import difflib
import importlib
import inspect
import typing

from models import application_names

if typing.TYPE_CHECKING:
    import keras

# Values of each option, the default first. `blocks` takes any numbers; its default is the network's own.
OPTIONS = {
    "head": ("logits", "softmax"),
    "local": ("dense", "locally_connected"),
    "top": ("average", "flatten", "own"),
    "blocks": ((),),
}
FIRST_IMAGES = 5000  # that `first_weights` looks at
MAX_STAGES, MAX_BLOCKS = 5, 200  # of blocks, in one network and in one stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """One entry.

    builder: "module:function"; the function takes input_shape, classes or outputs if it names them, the options below, the
        arguments below and, with batch_norm, sync_batch_norm.
    arguments: of the builder, always the same.
    decayed: layers whose kernels get weight decay; None for every kernel.
    summary: one line, what the network is.
    task: a name of trainer.task: "classification" (logits or probabilities [b, classes]), "reconstruction" (an image of its
        input's shape), "forecasting" (the next values [b, outputs]).
    options: those of `OPTIONS` that it understands.
    batch_norm, dropout: whether it has such layers.
    imagenet_values: how images of 0 to 255 become what weights of ImageNet were made for, written as --augment; None where
        there are no such weights.
    restores: the least and the largest value that a reconstruction can give.
    first_weights: "module:function", which sets weights of the new network from training images (see `first_weights`).
    """

    builder: str
    arguments: dict = dataclasses.field(default_factory=dict)
    decayed: tuple[str, ...] | None = None
    summary: str
    task: str = "classification"
    options: tuple[str, ...] = ()
    batch_norm: bool = False
    dropout: bool = False
    imagenet_values: str | None = None
    restores: tuple[float, float] | None = None
    first_weights: str = ""


NETWORKS: dict[str, Network] = {
    "digits_cnn": Network(
        builder="models.digits:build",
        summary="three convolutions and a dense layer for 8x8 digits",
    ),
    "digits_cnn_dropout": Network(
        builder="models.digits:build_dropout",
        summary="digits_cnn with dropout",
        dropout=True,
    ),
    "digits_cnn_regularized": Network(
        builder="models.digits:build_regularized",
        summary="digits_cnn with batch normalisation and dropout",
        batch_norm=True,
        dropout=True,
    ),
    "cifar10_tutorial": Network(
        builder="models.cifar10_tutorial:build",
        decayed=("local3", "local4"),
        summary="the TensorFlow CIFAR-10 tutorial's network, 1,068,298 parameters",
        options=("head", "local"),
    ),
    "cifar10_book": Network(
        builder="models.cifar10_book:build",
        summary="the CIFAR-10 network of TensorFlow in Action, for pixels 0 to 255, 40,330 parameters",
    ),
    "cifar10_fast": Network(
        builder="models.fast:build",
        summary="whitened patches and three groups of two convolutions, 1,973,944 parameters",
        batch_norm=True,
        first_weights="models.fast:first_weights",
    ),
    "lenet5": Network(
        builder="models.lenet:build",
        summary="LeNet-5, 61,706 parameters for 28x28 digits",
    ),
    **{
        f"resnet{depth}": Network(
            builder="models.resnet:build",
            arguments={"blocks": blocks, "bottleneck": bottleneck},
            summary=f"ResNet-{depth}; below 64x64 with a stem that keeps the resolution",
            options=("blocks",),
            batch_norm=True,
        )
        for depth, blocks, bottleneck in (
            (18, (2, 2, 2, 2), False), (34, (3, 4, 6, 3), False), (50, (3, 4, 6, 3), True))
    },
    "alexnet": Network(
        builder="models.alexnet:build",
        summary="AlexNet on one device, for photos, 62,378,344 parameters",
        dropout=True,
    ),
    "alexnet_small": Network(
        builder="models.alexnet:build_small",
        summary="AlexNet for 32x32 images",
        dropout=True,
    ),
    **{
        f"vgg{depth}": Network(
            builder="models.vgg:build",
            arguments={"depth": depth},
            summary=f"VGG-{depth} for photos",
            dropout=True,
        )
        for depth in (16, 19)
    },
    **{
        f"vgg{depth}_small": Network(
            builder="models.vgg:build_small",
            arguments={"depth": depth},
            summary=f"VGG-{depth} for 32x32 images, with batch normalisation and one dense layer",
            batch_norm=True,
        )
        for depth in (16, 19)
    },
    "googlenet": Network(
        builder="models.googlenet:build",
        summary="GoogLeNet for photos, 6,998,552 parameters",
        dropout=True,
    ),
    "googlenet_small": Network(
        builder="models.googlenet:build_small",
        summary="GoogLeNet for 32x32 images, with batch normalisation",
        batch_norm=True,
    ),
    **{
        f"densenet{depth}": Network(
            builder="models.densenet:build",
            arguments={"blocks": blocks, "growth": growth},
            summary=f"DenseNet-BC of depth {depth}, growth {growth}; below 64x64 with a stem that keeps the resolution",
            options=("blocks",),
            batch_norm=True,
        )
        for depth, blocks, growth in (
            (40, (6, 6, 6), 12), (100, (16, 16, 16), 12), (121, (6, 12, 24, 16), 32))
    },
    "flowers_cnn": Network(
        builder="models.flowers:build",
        summary="six convolutions for flower photos, from scratch, 300,033 parameters",
    ),
    "flowers_cnn_flatten": Network(
        builder="models.flowers:build_flatten",
        summary="four convolutions (24, 24, 12, 6) for flower photos, flattened",
    ),
    "flowers_cnn_1x1": Network(
        builder="models.flowers:build_1x1",
        summary="3x3 and 1x1 convolutions in turn for flower photos, flattened",
    ),
    "flowers_dense": Network(
        builder="models.flowers:build_dense",
        summary="dense layers alone (500, 50) for flower photos",
    ),
    "autoencoder": Network(
        builder="models.autoencoder:build",
        task="reconstruction",
        restores=(-1, 1),
        summary="dense 64, 32, 64, tanh: for images of -1 to 1",
    ),
    "autoencoder_sigmoid": Network(
        builder="models.autoencoder:build_sigmoid",
        task="reconstruction",
        restores=(0, 1),
        summary="dense 32, 16, sigmoid: for images of 0 to 1",
    ),
    **{
        f"autoencoder_conv_{interpolation}": Network(
            builder="models.autoencoder:build_convolutional",
            arguments={"interpolation": interpolation},
            task="reconstruction",
            restores=(-1, 1),
            summary=f"convolutions and {interpolation} upsampling, tanh: for images of -1 to 1",
        )
        for interpolation in ("nearest", "bilinear")
    },
    **{
        f"forecaster_{cell}": Network(
            builder="models.forecaster:build",
            arguments={"cell": cell},
            task="forecasting",
            summary=f"the naive forecast of a yearly series, and what {cell.upper()} adds to it",
        )
        for cell in ("gru", "lstm")
    },
}

NETWORKS |= {
    f"applications/{application}": Network(
        builder="models.applications:build",
        arguments={"application": application},
        summary=f"Keras's {application}",
        options=("top",),
        batch_norm=not application.startswith(("ConvNeXt", "VGG")),
        dropout=application.startswith("EfficientNet"),
        imagenet_values=application_names.imagenet_values(application),
    )
    for application in application_names.APPLICATIONS
}
NAMES = tuple(NETWORKS)  # what --model may be


def check(
    name: str, *, head: str = "logits", local: str = "dense", top: str = "average", blocks: tuple[int, ...] = ()
) -> Network:
    """The entry called `name`; ValueError if there is none, or it does not understand an option that was set."""
    network = NETWORKS.get(name)
    if network is None:
        near = {known.lower(): known for known in NETWORKS}
        near |= {known.lower().removeprefix("applications/"): known for known in NETWORKS if "/" in known} | near
        close = difflib.get_close_matches(name.lower(), near, n=1)
        hint = f"; did you mean {near[close[0]]!r}?" if close else ""
        own = sorted(known for known in NETWORKS if "/" not in known)
        raise ValueError(f"model={name!r}: must be one of {', '.join(own)}, or applications/NAME with a name of "
                         f"keras.applications{hint}")
    for option, value in {"head": head, "local": local, "top": top, "blocks": tuple(blocks)}.items():
        if option != "blocks" and value not in OPTIONS[option]:
            raise ValueError(f"{option}={value!r}: must be one of {', '.join(OPTIONS[option])}")
        if value != OPTIONS[option][0] and option not in network.options:
            able = [known for known, other in NETWORKS.items() if option in other.options and "/" not in known]
            able = ", ".join(able) or "a network of applications/"
            raise ValueError(f"model={name!r} has no option {option}={value!r}; leave it out, or use {able}")
    if len(blocks) > MAX_STAGES or any(not 1 <= count <= MAX_BLOCKS for count in blocks):
        raise ValueError(f"blocks={','.join(map(str, blocks))}: must be 1 to {MAX_STAGES} numbers from 1 to "
                         f"{MAX_BLOCKS}, the blocks of each stage, such as 2,2,2,2")
    return network


def build(
    name: str,
    *,
    input_shape: tuple[int, ...],
    classes: int = 0,
    outputs: int = 0,
    head: str = "logits",
    local: str = "dense",
    top: str = "average",
    blocks: tuple[int, ...] = (),
    sync_batch_norm: bool = True,
) -> "keras.Model":
    """Builds the network called `name` under the current dtype policy; initial weights follow Keras's global seed.

    input_shape: of one example, (height, width, channels) for images, (past, 1) for series. Output: float32, [b, classes]
    of a classification, [b, *input_shape] of a reconstruction, [b, outputs] of a forecast: the next so many values. What
    a task does not have is ignored. blocks: of each stage, of networks that have such; () for the network's own.
    sync_batch_norm: statistics of all replicas together; means nothing to a network without batch normalisation.
    Raises ValueError as `check` does, and for an input that the network cannot take: one line that names the layer, and the
    smallest images that it can (shrinking.TooSmall).
    """
    network = check(name, head=head, local=local, top=top, blocks=blocks)
    given = {"head": head, "local": local, "top": top, "blocks": tuple(blocks)}
    options = {**network.arguments}
    options |= {option: given[option] for option in network.options if given[option] != OPTIONS[option][0]}
    builder = _function(network.builder)
    for size, value in ("classes", classes), ("outputs", outputs):
        if size in inspect.signature(builder).parameters:
            if value < 1:
                raise ValueError(f"model={name!r} was given {size}={value}, must be at least 1")
            options[size] = value
    if network.batch_norm:
        options["sync_batch_norm"] = sync_batch_norm
    shrinking = importlib.import_module("models.shrinking")  # imports Keras
    return shrinking.built(lambda shape: builder(input_shape=tuple(shape), **options), input_shape)


def first_weights(name: str, model: "keras.Model", images) -> None:
    """Sets the weights of a new `model`, built as `name`, that come from training images, float32 [n, h, w, c] as the
    network sees them. For networks whose entry has `first_weights`."""
    _function(check(name).first_weights)(model, images)


def _function(text: str):
    module, function = text.split(":")
    return getattr(importlib.import_module(module), function)


def decayed_kernels(name: str, model: "keras.Model") -> list["keras.Variable"]:
    """The kernels of `model`, built as `name`, that get weight decay: trainable, never a bias or a scale."""
    decayed = check(name).decayed
    if decayed is not None:
        return [model.get_layer(layer).kernel for layer in decayed]
    return [v for v in model.trainable_variables if v.name.endswith("kernel") and len(v.shape) >= 2]
