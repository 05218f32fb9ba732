"""Reads arrays of numbers from `.h5` and `.npz` files of strangers: bounded in memory, and nothing in them is
run.

    with open_file("mobilenet.weights.h5") as file:
        entries = file.entries(body, head)             # {layer name: [Entry, ...]}, nothing read yet
        value = file.read(entries["Conv1"][0], (3, 3, 3, 32))

HDF5 can point to other files (external links, external storage, virtual data sets), hold references and
objects, and ask for filters that are loaded as code from a folder: all of these are refused.
"""

import contextlib
import dataclasses
import math
import os
import re
import zipfile

import h5py
import numpy as np

MAX_OBJECTS, MAX_DEPTH = 100_000, 12  # groups and data sets in a file, and groups inside each other
FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}  # the library's own
MAX_NAMES = 2**20  # bytes of an attribute with names
CHUNK = 2**24  # most values of a chunk, which is read as a whole


@dataclasses.dataclass(frozen=True)
class Entry:
    """An array in a file: where it lies, and its shape, known before it is read."""

    where: str
    shape: tuple[int, ...]


@contextlib.contextmanager
def open_file(path: str):
    """The weights in the file `path`, `.npz` or HDF5. Raises ValueError, OSError or zipfile.BadZipFile."""
    if path.endswith(".npz"):
        with zipfile.ZipFile(path) as archive:
            yield _Npz(archive)
    else:
        if not os.path.isfile(path):
            raise FileNotFoundError("no such file")
        with h5py.File(path, "r") as file:
            yield _Legacy(file) if "layer_names" in file.attrs or "model_weights" in file else _Keras3(file)


class _Hdf5:
    """What both layouts share. Entries lie at a path from the root."""

    def __init__(self, file):
        self._file = file

    def read(self, entry: Entry, shape: tuple[int, ...]) -> np.ndarray:
        """The values, float32 or an integer type. ValueError unless they have `shape`, are numbers, and
        finite."""
        dataset = self._at(entry.where)
        _check_dataset(entry.where, dataset)
        if tuple(dataset.shape) != tuple(shape):
            raise ValueError(f"{entry.where!r} has shape {dataset.shape}, not {tuple(shape)}")
        return _numbers(entry.where, dataset[()])

    def _at(self, where):
        """The object at a path, reached by hard links alone."""
        found = self._file
        for part in where.split("/"):
            if not isinstance(found, h5py.Group) or not isinstance(found.get(part, getlink=True), h5py.HardLink):
                raise ValueError(f"{where!r} is missing, or a link")
            found = found[part]
        return found

    def _entry(self, where):
        dataset = self._at(where)
        _check_dataset(where, dataset)
        return Entry(where, tuple(dataset.shape))


class _Keras3(_Hdf5):
    """`.weights.h5` of Keras 3: a group a layer, named by its class and counted, in it vars/0, vars/1, ...

    The group `vars` carries the layer's name in an attribute. Where the names do not fit (Keras counts those
    that nobody gave), the layers of each class are taken in their order.
    """

    def entries(self, layers, head) -> dict[str, list[Entry]]:
        """The entries of each layer with weights in the file, by the layer's name in the network where it has
        it."""
        groups = dict(self._groups())
        names = {str(self._at(place).attrs.get("name", place)): place for place in groups}
        if all(layer.name in names for layer in layers):
            return {name: groups[place] for name, place in names.items()}
        counts, found = {}, {}
        for layer in (*layers, head):
            kind = _snake(type(layer).__name__)
            number = counts[kind] = counts.get(kind, -1) + 1
            place = f"layers/{kind}_{number}/vars" if number else f"layers/{kind}/vars"
            if place not in groups:
                if layer is head:
                    continue
                raise ValueError(f"has no weights for layer {layer.name!r}; are they of this network?")
            found[layer.name] = groups.pop(place)
        return found | {place.removesuffix("/vars"): entries for place, entries in groups.items()}

    def _groups(self):
        """(path, entries) of every group called vars that holds arrays."""
        todo, seen = [("", self._file, 0)], 0
        while todo:
            place, group, depth = todo.pop()
            for name in group:
                seen += 1
                if seen > MAX_OBJECTS or depth > MAX_DEPTH:
                    raise ValueError(f"holds more than {MAX_OBJECTS} objects, or groups {MAX_DEPTH} deep; it is no "
                                     "file of weights")
                where = f"{place}/{name}" if place else name
                child = self._at(where)
                if isinstance(child, h5py.Group):
                    todo.append((where, child, depth + 1))
            if (place == "vars" or place.endswith("/vars")) and len(group):
                yield place, [self._entry(f"{place}/{k}") for k in range(len(group))]


class _Legacy(_Hdf5):
    """`.h5` of earlier Kerases, as keras.applications downloads: attributes give the names of layers and
    their arrays, in order; layers are taken in this order, whatever their names."""

    def entries(self, layers, head) -> dict[str, list[Entry]]:
        """The entries of each layer with weights in the file, under the names of `layers` as far as these go;
        if one is left, it is the head's."""
        root = "" if "layer_names" in self._file.attrs else "model_weights"
        found = []
        for name in _names(self._at(root) if root else self._file, "layer_names"):
            place = f"{root}/{name}" if root else name
            arrays = [self._entry(f"{place}/{array}") for array in _names(self._at(place), "weight_names")]
            if arrays:
                found.append((name, arrays))
        # Layers inside a layer (Keras's ConvNeXt) share its entry: arrays are dealt out in order.
        arrays = [(name, entry) for name, entries in found for entry in entries]
        dealt, start = {}, 0
        for layer in layers:
            count = len(layer.weights)
            dealt[layer.name] = [entry for _, entry in arrays[start:start + count]]
            start += count
        rest = {}
        for name, entry in arrays[start:]:
            rest.setdefault(name, []).append(entry)
        if len(rest) == 1:
            (dealt[head.name],) = rest.values()
            return dealt
        return rest | dealt


class _Npz:
    """`.npz`: an array for each variable, under its path."""

    def __init__(self, archive):
        self._archive = archive

    def entries(self, layers, head) -> dict[str, list[Entry]]:
        """The entries of each layer in the file, by the layer's name; those of `layers` and `head` among
        them."""
        places = {info.filename.removesuffix(".npy"): info for info in self._archive.infolist()}
        found = {}
        for layer in (*layers, head):
            wanted = [v.path for v in layer.weights]
            if all(path in places for path in wanted):
                found[layer.name] = [Entry(path, self._shape(places.pop(path))) for path in wanted]
        for path, info in places.items():
            found.setdefault(path.rpartition("/")[0] or path, []).append(Entry(path, self._shape(info)))
        return found

    def read(self, entry: Entry, shape: tuple[int, ...]) -> np.ndarray:
        """As of HDF5."""
        if entry.shape != tuple(shape):
            raise ValueError(f"{entry.where!r} has shape {entry.shape}, not {tuple(shape)}")
        with self._archive.open(f"{entry.where}.npy") as file:
            return _numbers(entry.where, np.lib.format.read_array(file, allow_pickle=False))

    def _shape(self, info):
        """Of an array, from its header; nothing is read or made room for."""
        with self._archive.open(info) as file:
            version = np.lib.format.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"{info.filename!r} is written in version {version} of numpy's format, must be 1 or 2")
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        if dtype.hasobject or dtype.kind not in "fiu" or math.prod(shape) * dtype.itemsize > info.file_size:
            raise ValueError(f"{info.filename!r} must hold numbers, not {dtype} of shape {shape}")
        return shape


def _check_dataset(where, dataset):
    """ValueError for what is no plain array of numbers in this file."""
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{where!r} must be an array")
    if dataset.dtype.kind not in "fiu":
        raise ValueError(f"{where!r} must hold numbers, not {dataset.dtype}")
    creation = dataset.id.get_create_plist()
    if dataset.is_virtual or creation.get_external_count():
        raise ValueError(f"{where!r} points to another file")
    filters = {creation.get_filter(k)[0] for k in range(creation.get_nfilters())}
    if not filters <= FILTERS or (dataset.chunks and math.prod(dataset.chunks) > max(CHUNK, dataset.size)):
        raise ValueError(f"{where!r} is compressed in a way that is not read here; save it without")


def _numbers(where, values):
    if values.dtype.kind == "f":
        values = np.asarray(values, np.float32)
        if not np.isfinite(values).all():
            raise ValueError(f"{where!r} has values that are not finite")
    return values


def _names(group, attribute):
    """A list of names from an attribute, which Keras cuts into attribute0, attribute1, ... where it is
    long."""
    parts = [attribute] if attribute in group.attrs else []
    while not parts or parts[0] != attribute:
        part = f"{attribute}{len(parts)}"
        if part not in group.attrs:
            break
        parts.append(part)
    stored = [group.attrs.get_id(part) for part in parts]
    if any(math.prod(found.shape) * found.dtype.itemsize > MAX_NAMES for found in stored):
        raise ValueError(f"attribute {attribute!r} holds more than {MAX_NAMES} bytes; it is no list of names")
    names = [name for part in parts for name in np.asarray(group.attrs[part]).reshape(-1)]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _snake(name):
    """A class's name as Keras writes it in files: BatchNormalization is batch_normalization, Conv2D
    conv2d."""
    return re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z0-9]+)", r"\1_\2", name)).lower()
