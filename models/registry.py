"""Every network by name: what it is, what it understands, how to build it.

Plain Python until `build`, so that a wrong name or option fails before TensorFlow is imported. To add a
network, write its module (a function of keyword arguments that returns a keras.Model) and one entry here.

    check("cifar10_tutorial", head="softmax")                                   # no TensorFlow
    model = build("cifar10_tutorial", input_shape=(24, 24, 3), classes=10)
    kernels = decayed_kernels("cifar10_tutorial", model)
"""

import dataclasses
import difflib
import importlib
import typing

if typing.TYPE_CHECKING:
    import keras

# Values of each option, the default first.
OPTIONS = {"head": ("logits", "softmax"), "local": ("dense", "locally_connected")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """One entry.

    builder: "module:function"; the function takes input_shape, classes, the options below and, with
    batch_norm,
        sync_batch_norm.
    decayed: layers whose kernels get weight decay; None for every kernel.
    summary: one line, what the network is.
    options: those of `OPTIONS` that it understands.
    batch_norm, dropout: whether it has such layers.
    """

    builder: str
    decayed: tuple[str, ...] | None = None
    summary: str
    options: tuple[str, ...] = ()
    batch_norm: bool = False
    dropout: bool = False


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
}


def check(name: str, *, head: str = "logits", local: str = "dense") -> Network:
    """The entry called `name`; ValueError if there is none, or it does not understand an option that was
    set."""
    network = NETWORKS.get(name)
    if network is None:
        close = difflib.get_close_matches(name, NETWORKS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"model={name!r}: must be one of {', '.join(sorted(NETWORKS))}{hint}")
    for option, value in {"head": head, "local": local}.items():
        if value not in OPTIONS[option]:
            raise ValueError(f"{option}={value!r}: must be one of {', '.join(OPTIONS[option])}")
        if value != OPTIONS[option][0] and option not in network.options:
            able = ", ".join(known for known, other in NETWORKS.items() if option in other.options)
            raise ValueError(f"model={name!r} has no option {option}={value!r}; leave it out, or use {able}")
    return network


def build(
    name: str,
    *,
    input_shape: tuple[int, ...],
    classes: int,
    head: str = "logits",
    local: str = "dense",
    sync_batch_norm: bool = True,
) -> "keras.Model":
    """Builds the network called `name` under the current dtype policy; initial weights follow Keras's global
    seed.

    input_shape: of one example, (height, width, channels) for images. Output: [b, classes], float32.
    sync_batch_norm: statistics of all replicas together; means nothing to a network without batch
    normalisation. Raises ValueError as `check` does.
    """
    network = check(name, head=head, local=local)
    given = {"head": head, "local": local}
    options = {option: given[option] for option in network.options}
    if network.batch_norm:
        options["sync_batch_norm"] = sync_batch_norm
    module, function = network.builder.split(":")
    builder = getattr(importlib.import_module(module), function)
    return builder(input_shape=tuple(input_shape), classes=classes, **options)


def decayed_kernels(name: str, model: "keras.Model") -> list["keras.Variable"]:
    """The kernels of `model`, built as `name`, that get weight decay: trainable, never a bias or a scale."""
    decayed = check(name).decayed
    if decayed is not None:
        return [model.get_layer(layer).kernel for layer in decayed]
    return [v for v in model.trainable_variables if v.name == "kernel" and len(v.shape) >= 2]
