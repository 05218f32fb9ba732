"""Every network of keras.applications by its name, with the layers of `models.layers` where Keras's own would
differ between replicas.

    model = build(application="MobileNetV2", input_shape=(224, 224, 3), classes=5)   # images to logits [b, 5]

The network is Keras's, cloned layer by layer: batch normalisation and dropout (stochastic depth too) are
replaced, with the same names, variables and constants, so that weights made for Keras's network fit this one
(`models.pretrained`). The images are what Keras's documentation of the network asks for: some hold their own
preprocessing, some take -1 to 1 (`application_names.IMAGENET_VALUES`).
"""

import concurrent.futures
import math
import re

import keras
import tensorflow as tf

from models import layers, parts

IMAGENET_DEVIATION = (0.229, 0.224, 0.225)  # of the channels R, G, B in 0 to 1, by which the EfficientNets divide


class Normalization(keras.layers.Layer):
    """(x - mean) / sqrt(variance), for each channel of [b, h, w, c], with variables that only a file of
    weights sets.

    Keras's layer copies them into constants when they are set, which a checkpoint read later does not change.
    """

    def build(self, input_shape):
        options = {"trainable": False, "autocast": False}
        self.mean = self.add_weight(name="mean", shape=input_shape[-1:], initializer="zeros", **options)
        self.variance = self.add_weight(name="variance", shape=input_shape[-1:], initializer="ones", **options)
        self.count = self.add_weight(name="count", shape=(), dtype="int32", initializer="zeros", trainable=False)

    def compute_output_shape(self, input_shape):
        return input_shape

    def call(self, inputs):
        deviation = tf.maximum(tf.sqrt(self.variance), keras.config.epsilon())
        return tf.cast((tf.cast(inputs, tf.float32) - self.mean) / deviation, inputs.dtype)


def original(application, *, include_top=False, input_shape=None, classes=1000, weights=None):
    """Keras's own network, without a strategy's copies. weights: None, or "imagenet" to download them.

    A strategy's scope belongs to the thread that entered it: a thread of its own is outside any.
    """
    options = {"include_top": include_top, "weights": weights, "input_shape": input_shape}
    if include_top:
        options |= {"classes": classes, "classifier_activation": None}
    with concurrent.futures.ThreadPoolExecutor(1) as outside:
        return outside.submit(getattr(keras.applications, application), **options).result()


def named(source) -> dict[str, keras.layers.Layer]:
    """The layers of Keras's network, in order, under the names that they have in ours, also those of a
    Sequential in it.

    Names that Keras counted up in this process are counted anew, from the network's first layer on, since
    variables (and dropout masks) go by their layer's name.
    """
    found, counts = {}, {}
    for layer in (inner for layer in source.layers for inner in _flat(layer)):
        name = layer.name
        usual = re.sub(r"_[0-9]+$", "", name)
        if usual.replace("_", "") == type(layer).__name__.lower():
            name = f"{usual}_{counts[usual]}" if usual in counts else usual
            counts[usual] = counts.get(usual, 0) + 1
        assert name not in found, f"two layers called {name}"
        found[name] = layer
    return found


def build(*, application, input_shape, classes, top="average", sync_batch_norm=True):
    """The network called `application`, from random weights, with an output for each class.

    top: "average", the mean over all positions and a dense layer; "flatten", a dense layer on all positions;
    "own", the layers that Keras puts there (include_top=True), without their softmax. Raises ValueError for
    images that the network does not take, or a layer that cannot be made alike on all replicas.
    """
    source = original(application, include_top=top == "own", input_shape=input_shape, classes=classes)
    images = keras.Input(input_shape, name="image")
    x = _clone(source, images, float32_end=top == "own", sync_batch_norm=sync_batch_norm)
    if top != "own":
        x = parts.pooled(x) if top == "average" else keras.layers.Flatten(name="flatten")(x)
        x = parts.logits(x, classes)
    return keras.Model(images, x, name=source.name)


def _clone(source, images, *, float32_end, sync_batch_norm):
    """The outputs of `source`'s layers, made anew under the current dtype policy, for `images`. float32_end:
    the last layer with weights, and what follows it, are float32."""
    names = {id(layer): name for name, layer in named(source).items()}
    every = list(names)
    last = max(k for k, layer in enumerate(named(source).values()) if layer.weights)
    policy = keras.config.dtype_policy()
    copies = {}

    def copy(layer):
        if id(layer) not in copies:
            dtype = "float32" if float32_end and every.index(id(layer)) >= last else policy
            copies[id(layer)] = _copy(layer, names[id(layer)], dtype, sync_batch_norm)
        return copies[id(layer)]

    def call(layer, *args, **kwargs):
        kwargs = {key: value for key, value in kwargs.items() if value is not None}  # training, mask: not given
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            # An EfficientNet. Keras puts this rescaling in together with the weights of ImageNet, which need it.
            scale = [1 / math.sqrt(deviation) for deviation in IMAGENET_DEVIATION]
            return keras.layers.Rescaling(scale, name="imagenet_rescaling")(copy(layer)(*args, **kwargs))
        if not isinstance(layer, keras.Sequential):
            return (copy(layer) if isinstance(layer, keras.layers.Layer) else layer)(*args, **kwargs)
        (x,) = args
        for inner in layer.layers:
            x = copy(inner)(x)
        return x

    clone = keras.models.clone_model(source, input_tensors=images, clone_function=lambda layer: layer,
                                     call_function=call)
    return clone.output


def _copy(layer, name, dtype, sync_batch_norm):
    config = layer.get_config() | {"name": name, "dtype": dtype}
    if isinstance(layer, keras.layers.BatchNormalization):
        assert layer.axis in (-1, 3), f"{name} normalises axis {layer.axis}"
        kept = {key: config[key] for key in ("name", "dtype", "momentum", "epsilon", "center", "scale")}
        return layers.BatchNormalization(synchronized=sync_batch_norm, **kept)
    if isinstance(layer, keras.layers.Dropout):
        return layers.Dropout(layer.rate, noise_shape=layer.noise_shape, name=name, dtype=dtype)
    if isinstance(layer, keras.layers.Normalization) and layer.weights:
        return Normalization(name=name, dtype=dtype)
    if any("seed_generator" in variable.path for variable in layer.variables):
        raise ValueError(f"layer {name!r} ({type(layer).__name__}) draws random numbers of its own, which would differ "
                         "between one replica and several; use another network")
    return type(layer).from_config(config)


def _flat(layer):
    """The layers of `layer`: itself, or those of a Sequential inside the network."""
    if isinstance(layer, keras.Sequential):
        return [deeper for inner in layer.layers for deeper in _flat(inner)]
    return [layer]
