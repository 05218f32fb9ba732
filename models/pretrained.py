"""Weights of a network below its head, from a file: numbers only, nothing in the file is executed.

    loaded = load(model, "mobilenet_v2_1.0_224_no_top.weights.h5")
    print(loaded)          # 260 variables of 104 layers; the head keeps its first weights
    freeze(model)          # only the head learns; batch statistics stay as they are

Three kinds of files: `.weights.h5` of Keras 3, the older `.h5` of Keras's own downloads, and `.npz` with an
array for each variable under its path ("Conv1/kernel"). The head is the last layer with weights, and takes
part where the file has weights of its shape for it. Every array is measured against the network before it is
read, so that a file costs no more memory than the network; links, references, and anything but numbers are
refused.
"""

import dataclasses
import zipfile

import keras

from models import layers, weight_files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded:
    """What came from a file: variables, the layers that they belong to, whether the head is among them, and
    the names of what the file has beyond that."""

    variables: int
    layers: int
    head: bool
    ignored: tuple[str, ...] = ()

    def __str__(self):
        text = f"{self.variables} variables of {self.layers} layers; the head "
        text += "is among them" if self.head else "keeps its first weights"
        more = f" and {len(self.ignored) - 3} more" if len(self.ignored) > 3 else ""
        return text + (f"; not used of the file: {', '.join(self.ignored[:3])}{more}" if self.ignored else "")


def head(model) -> keras.layers.Layer:
    """The last layer with weights: what a network for other classes has anew."""
    return [layer for layer in model.layers if layer.weights][-1]


def load(model, path: str) -> Loaded:
    """Assigns the weights in the file `path` to `model`; its dtype policy does not matter, nor a strategy.

    Raises ValueError, and has changed nothing, for a file that is no such file, or of another network: the
    message names the file, the layer, both shapes.
    """
    try:
        with weight_files.open_file(path) as file:
            pairs, ignored = _matched(model, file)
            values = [file.read(entry, variable.shape) for variable, entry in pairs]
    except (OSError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: cannot be read as weights ({error}); give a .weights.h5, .h5 or .npz "
                         "file") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    for (variable, _), value in zip(pairs, values, strict=True):
        variable.assign(value)
    return _loaded(model, [variable for variable, _ in pairs], ignored)


def freeze(model) -> None:
    """Lets only the head learn. Batch normalisation uses its moving statistics then, and does not move
    them."""
    last = head(model)
    for layer in model.layers:
        layer.trainable = layer is last


def unfreeze(model) -> None:
    """Lets every layer learn but batch normalisation, which stays as `freeze` left it: a few small batches
    would spoil the statistics that all the other weights were made for."""
    for layer in model.layers:
        layer.trainable = not isinstance(layer, layers.BatchNormalization)


def _matched(model, file):
    """Pairs (variable, entry of the file), and the names of the entries that are in no pair."""
    needed = [layer for layer in model.layers if layer.weights]
    body, last = needed[:-1], needed[-1]
    entries = file.entries(body, last)
    pairs = []
    for layer in body:
        found, wanted = entries.pop(layer.name, None), layer.weights
        if found is None:
            raise ValueError(f"has no weights for layer {layer.name!r}; are they of this network?")
        pairs += _fitting(layer, wanted, found)
    found = entries.get(last.name)
    if found and [entry.shape for entry in found] == [tuple(v.shape) for v in last.weights]:
        pairs += zip(last.weights, entries.pop(last.name), strict=True)
    return pairs, tuple(entries)


def _fitting(layer, wanted, found):
    shapes = [tuple(v.shape) for v in wanted], [entry.shape for entry in found]
    if shapes[0] != shapes[1]:
        raise ValueError(f"layer {layer.name!r} has weights of shapes {_text(shapes[0])}, the file's are "
                         f"{_text(shapes[1])}; are they of this network, with this image size?")
    return zip(wanted, found, strict=True)


def _text(shapes):
    return ", ".join("x".join(map(str, shape)) or "a number" for shape in shapes) or "none"


def _loaded(model, variables, ignored):
    known = {id(v) for v in variables}
    touched = [layer for layer in model.layers if any(id(v) in known for v in layer.weights)]
    return Loaded(variables=len(variables), layers=len(touched), head=touched[-1] is head(model), ignored=ignored)
