"""What TensorBoard shows of a run: the tutorial's scalars, histograms, images, the graph, the configuration.

    forward = summaries.observed(model)          # images -> (outputs, {"conv1": activations, ..., "images": images})
    summaries.write(events, step, ...)
"""
import json
import os
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import tensorflow as tf

from trainer import events as events_lib

IMAGES = 3  # of a batch, as in the tutorial


def observed(model: keras.Model):
    """A forward pass in training mode that also returns every layer's output and the first images."""
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)
              and isinstance(layer.output, keras.KerasTensor)]
    every = keras.Model(model.inputs, [model.output, [layer.output for layer in layers]])

    def forward(images):
        outputs, activations = every(images, training=True)
        shown = {"images": images[:IMAGES]} if len(images.shape) == 4 else {}
        return outputs, shown | {f"{layer.name}/activations": value for layer, value in zip(layers, activations)}

    return forward


def displayable(images: np.ndarray) -> np.ndarray:
    """Images [n, h, w, c] in any units as uint8 [n, h, w, 1 or 3], each stretched to its own range."""
    images = np.asarray(images, np.float32)
    low, high = images.min((1, 2, 3), keepdims=True), images.max((1, 2, 3), keepdims=True)
    scaled = 255 * (images - low) / np.maximum(high - low, 1e-12)
    return (scaled if images.shape[3] in (1, 3) else scaled[..., :1]).astype(np.uint8)


def histograms(events: events_lib.Events, step: int, metrics: dict, model: keras.Model) -> None:
    """Activations and sparsity of every layer, every variable and its gradient, counted by a thread a core. metrics: of an
    observed step."""
    values = {tag: value for tag, value in metrics["extras"].items() if tag != "images"}
    for variable, gradient in zip(model.trainable_variables, metrics["gradients"]):
        values |= {variable.path: variable.value.read_value(), f"{variable.path}/gradients": gradient}

    def count(value):
        value = np.asarray(tf.cast(value, tf.float32))  # no copy, as numpy() would make one
        return events_lib.histogram_table(value), events_lib.sparsity(value)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        counted = list(zip(values, threads.map(count, values.values())))
    for tag, (table, _) in counted:
        events.histogram(step, tag, *table)
    events.scalars(step, {tag.replace("/activations", "/sparsity"): sparsity for tag, (_, sparsity) in counted
                          if tag.endswith("/activations")})


def start(events: events_lib.Events, step: int, model: keras.Model, configuration: dict, table: str) -> None:
    """The graph of the network, the configuration, the table of layers. step: where this process starts."""
    forward = tf.function(lambda images: model(images, training=False), autograph=False)
    signature = tf.TensorSpec([None, *model.input_shape[1:]], tf.float32, name="images")
    events.graph(forward.get_concrete_function(signature).graph.as_graph_def().SerializeToString())
    rows = "\n".join(f"| {name} | `{json.dumps(value)}` |" for name, value in configuration.items())
    events.text(step, "configuration", f"| option | value |\n|---|---|\n{rows}")
    events.text(step, "parameters", "```\n" + table + "\n```")


def layer_table(model: keras.Model) -> str:
    """A table of layers with output shapes (without the batch) and parameters."""
    rows = [("layer", "output", "parameters")]
    for layer in model.layers:
        shape = getattr(layer.output, "shape", None)
        rows.append((layer.name, "x".join(map(str, shape[1:])) if shape is not None else "several",
                     f"{layer.count_params():,}"))
    trainable = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    rows.append(("total", "", f"{model.count_params():,}"))
    rows.append(("trainable", "", f"{trainable:,}"))
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}".rstrip() for a, b, c in rows)
