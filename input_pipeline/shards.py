"""A folder of TFRecord shards as a set: what it holds, and where each record lies.

A set that `prepare` made has `dataset.json`: classes, shape of the images, each shard's split, records, bytes and
sha256. Any other folder of TFRecord files is taken as it comes:

- a shard is a file named like `train-00000-of-00008`, `x.tfrecord`, `x.tfrec` or `x.tfrecord-00000-of-00008`;
- its split is the word train, validation (val, valid, dev) or test (eval) in its name. Where no name has one, each
  record's split is drawn by hash, 80 % train, 10 % validation, 10 % test;
- the image is the feature `image/encoded` or `image`, the label `image/class/label`, `label` or `class`;
- class names are the lines of `labels.txt`, `label.labels.txt` or `classes.txt`; without them, numbers.

The index of a shard (see `record_index`) is made at first use: beside it, or below `~/.cache/lockstep` where that
cannot be written.

    found = shards.find("flowers-tfrecord")     # ValueError, which names the file, the fault and a fix
    found.classes, found.counts, found.image_shape
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import re
import sys
import time
from collections.abc import Iterator

import numpy as np

from input_pipeline import description, examples, images, record_index, storage
from input_pipeline.datasets import SPLIT_WORDS, SPLITS
from input_pipeline.progress import Progress

CONVERTING = ".converting"  # at the end of the name of a folder that a conversion has not finished
IMAGE_FEATURES = ("image/encoded", "image")
LABEL_FEATURES = ("image/class/label", "label", "class")
LABEL_FILES = ("labels.txt", "label.labels.txt", "classes.txt")
QUIET_SECONDS = 2.0       # work that takes longer shows how far it is
_SHARD_NAME = re.compile(r".*(\.tfrec(ord)?s?(-\d+-of-\d+)?|-\d{5,}-of-\d{5,})", re.DOTALL | re.IGNORECASE)
_OF = re.compile(r"(.*)-(\d+)-of-(\d+)(\..*)?", re.DOTALL)
_PARTS = (0, 0, 0, 0, 0, 0, 0, 0, 1, 2)  # of ten parts by hash: the place in SPLITS


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Shard:
    """One file of a set. split: of all its records; None: each record's is drawn."""

    path: str
    split: str | None
    index: record_index.Index


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Shards:
    """A whole set.

    image_shape: height, width, channels where all images have the same, else None. encoding: of these, png or jpeg.
    """

    folder: str
    shards: tuple[Shard, ...]
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int] | None = None
    encoding: str | None = None
    image_feature: str = examples.IMAGE
    label_feature: str = examples.LABEL
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def splits(self) -> list[np.ndarray]:
        """For each shard its records' splits: places in SPLITS as uint8 [n]."""
        return [np.full(len(shard.index.lengths), SPLITS.index(shard.split), np.uint8) if shard.split
                else _drawn(os.path.basename(shard.path), len(shard.index.lengths)) for shard in self.shards]

    @functools.cached_property
    def train_digest(self) -> str:
        """The sha256 of the training records' lengths, shard by shard, as 64 hexadecimal digits: of no other set, nor order,
        as long as images are compressed."""
        digest = hashlib.sha256()
        for shard, part in zip(self.shards, self.splits):
            digest.update(shard.index.lengths[part == SPLITS.index("train")].astype("<i8").tobytes())
        return digest.hexdigest()

    @functools.cached_property
    def counts(self) -> dict[str, int]:
        """The number of records of each split of SPLITS."""
        counts = sum(np.bincount(part, minlength=len(SPLITS)) for part in self.splits)
        return dict(zip(SPLITS, counts.tolist()))


def _drawn(name: str, records: int) -> np.ndarray:
    """The splits of the records of a shard whose name says none; no record moves when others come."""
    digests = (hashlib.sha256(f"{name}/{number}".encode("utf-8", "surrogateescape")).digest()
               for number in range(records))
    return np.array([_PARTS[int.from_bytes(digest[:8], "big") % len(_PARTS)] for digest in digests], np.uint8)


def find(folder: str, progress: Progress | None = None) -> Shards:
    """The set in `folder`, all sizes and indexes checked; reads no image. `progress`: of making indexes.

    Raises ValueError where there is no set, or a damaged one: one line that names file, fault and fix.
    """
    progress = _Patient(progress or Progress(sys.stderr))
    try:
        names = storage.listing(folder)
    except OSError as error:
        more = f"; {folder}{CONVERTING} is an unfinished conversion: run it again" * os.path.isdir(folder + CONVERTING)
        raise ValueError(f"tfrecord: {folder!r} cannot be read ({error.strerror}){more}; give the folder that holds "
                         "the .tfrecord files") from None
    if os.path.basename(folder.rstrip("/")).endswith(CONVERTING):
        raise ValueError(f"tfrecord: {folder!r} is an unfinished conversion: run it again, then give its --output")
    try:
        if description.FILE in names:
            return _described(folder, progress)
        return _foreign(folder, names, progress)
    except OSError as error:
        raise ValueError(f"{error.filename or folder}: cannot be read ({error.strerror})") from None


def _described(folder: str, progress: "_Patient") -> Shards:
    path = os.path.join(folder, description.FILE)
    values = description.parse(storage.read_whole(path, description.MAX_BYTES), path)

    def checked(shard: str, entry: dict) -> Shard:
        try:
            size = storage.status(shard).size
        except FileNotFoundError:
            raise ValueError(f"{shard}: is missing, {description.FILE} lists it; get the whole set again") from None
        if size != entry["bytes"]:
            raise ValueError(f"{shard}: has {size} bytes instead of {entry['bytes']}; get it again")
        index = _indexed(shard, progress)
        if len(index.lengths) != entry["records"]:
            raise ValueError(f"{shard}: has {len(index.lengths)} records, {description.FILE} says {entry['records']}; "
                             "get the set again")
        return Shard(path=shard, split=entry["split"], index=index)

    entries = {os.path.join(folder, entry["file"]): entry for entry in values["shards"]}
    found = storage.each(lambda shard: checked(shard, entries[shard]), list(entries))
    shape = values["image_shape"]
    return Shards(folder=folder, shards=tuple(found), classes=tuple(values["classes"]),
                  image_shape=tuple(shape) if shape else None, encoding=values["encoding"])


def _foreign(folder: str, names: list[str], progress: "_Patient") -> Shards:
    chosen = [name for name in names if _SHARD_NAME.fullmatch(name) and not name.startswith(".")]
    if not chosen:
        raise ValueError(f"tfrecord: {folder!r} holds no TFRecord files (named train-00000-of-00008 or x.tfrecord); "
                         "give the folder that does, or make one: python -m input_pipeline.prepare "
                         "--dataset=image_folder --from=PHOTOS --output=FOLDER")
    if len(chosen) > description.MAX_SHARDS:
        raise ValueError(f"{folder!r} holds {len(chosen)} TFRecord files; at most {description.MAX_SHARDS} are read")
    _check_numbers(folder, chosen)
    words = [_split_word(name, folder) for name in chosen]
    if any(words) and not all(words):
        raise ValueError(f"{os.path.join(folder, chosen[words.index(None)])!r}: its name has no word train, validation "
                         "or test, as others have; rename it, or move it away")
    paths = [os.path.join(folder, name) for name in chosen]
    indexes = storage.each(lambda path: _indexed(path, progress), paths)
    image_feature, label_feature = _features(paths[0], indexes[0])
    notes = []
    if not any(words):
        notes.append(f"{folder}: no file name says a split: 80 % train, 10 % validation, 10 % test, drawn by record")
    classes = _class_names(folder, names)
    if classes is None:
        indexes = [_with_labels(path, index, label_feature, progress) for path, index in zip(paths, indexes)]
        largest = max(index.largest_label for index in indexes)
        classes = tuple(str(label) for label in range(largest + 1))
        notes.append(f"{folder}: no {LABEL_FILES[0]} with a name for each class, a line each: they are numbers")
    found = Shards(
        folder=folder, classes=classes, image_feature=image_feature, label_feature=label_feature, notes=tuple(notes),
        shards=tuple(Shard(path=path, split=split, index=index) for path, split, index in zip(paths, words, indexes)))
    if not found.counts["train"]:
        raise ValueError(f"{folder!r} has no records for training; a file must have train in its name")
    return found


def _check_numbers(folder: str, names: list[str]) -> None:
    """ValueError where a file is missing by the names of the others, x-00000-of-00003."""
    sets: dict[tuple, set[int]] = {}
    for found in filter(None, map(_OF.fullmatch, names)):
        sets.setdefault((found[1], int(found[3]), found[4]), set()).add(int(found[2]))
    for (start, count, end), numbers in sets.items():
        if len(numbers) < count <= description.MAX_SHARDS:
            missing = next(number for number in range(count) if number not in numbers)
            raise ValueError(f"{folder!r} has {len(numbers)} of the {count} files {start}-NUMBER-of-{count:05d}{end or ''}: "
                             f"number {missing} is missing; get it too, or rename the others")


def _split_word(name: str, folder: str) -> str | None:
    found = {SPLIT_WORDS[word] for word in re.findall("[a-z]+", name.lower()) if word in SPLIT_WORDS}
    if len(found) > 1:
        raise ValueError(f"{os.path.join(folder, name)!r}: its name says {' and '.join(sorted(found))}; rename it")
    return found.pop() if found else None


def _features(path: str, index: record_index.Index) -> tuple[str, str]:
    """The names of the features of image and label, of those that record 0 has."""
    with named(path, 0), storage.Reader(path) as file:
        record = record_index.content(file, 0, int(index.lengths[0]))
        found = sorted(examples.names(record))
        chosen = [next((name for name in usual if name in found), None) for usual in (IMAGE_FEATURES, LABEL_FEATURES)]
        for usual, name in zip((IMAGE_FEATURES, LABEL_FEATURES), chosen):
            if name is None:
                raise ValueError(f"has no feature {' or '.join(usual)}; it has {', '.join(found[:20])[:300] or 'none'}")
        image, _ = examples.image_and_label(record, *chosen, description.MAX_CLASSES)
        if images.kind(image) is None:
            raise ValueError(f"feature {chosen[0]} holds no {', '.join(images.FORMATS.values())} file; images must be "
                             "encoded")
    return tuple(chosen)


@contextlib.contextmanager
def named(path: str, number: int) -> Iterator[None]:
    """Makes of a ValueError or OSError raised within a ValueError that names shard and record."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path}: record {number}: {error.strerror or error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: record {number}: {error}") from None


def _class_names(folder: str, names: list[str]) -> tuple[str, ...] | None:
    """The lines of the file of labels: a name each, or "0:name"; None where there is no such file."""
    file = next((name for name in LABEL_FILES if name in names), None)
    if file is None:
        return None
    path = os.path.join(folder, file)
    try:
        text = storage.read_whole(path, description.MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no UTF-8 text ({error.reason} at byte {error.start}); write it as such") from None
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if lines and all(re.fullmatch(rf"0*{number}:.+", line) for number, line in enumerate(lines)):
        lines = [line.split(":", 1)[1].strip() for line in lines]
    if not 0 < len(lines) <= description.MAX_CLASSES or not all(line and line.isprintable() for line in lines):
        raise ValueError(f"{path}: must have a printable name for each class, a line each, 1 to "
                         f"{description.MAX_CLASSES} lines")
    return tuple(lines)


def _with_labels(path: str, index: record_index.Index, feature: str, progress: "_Patient") -> record_index.Index:
    """`index` with its largest label, which takes a pass over the whole shard, once."""
    if index.largest_label >= 0:
        return index
    largest = 0
    with storage.Reader(path) as file:
        for number, (offset, length) in enumerate(zip(index.offsets.tolist(), index.lengths.tolist())):
            with named(path, number):
                record = record_index.content(file, offset, length)
                largest = max(largest, examples.label_only(record, feature, description.MAX_CLASSES))
            progress.advance(f"{os.path.basename(path)}, labels", offset, index.shard.size)
    index = dataclasses.replace(index, largest_label=largest)
    _save(path, index)
    return index


def _indexed(path: str, progress: "_Patient") -> record_index.Index:
    """The index of a shard: the one that lies beside it or in the cache, if it still fits, or a new one."""
    shard = storage.status(path)
    for place in (path + record_index.SUFFIX, _cached(path)):
        try:
            return record_index.load(place, shard)
        except (OSError, ValueError):
            continue  # there is none, or none of this file: it is made again
    index = record_index.scan(path, lambda done: progress.advance(f"{os.path.basename(path)}, index", done, shard.size))
    _save(path, index)
    return index


def _save(path: str, index: record_index.Index) -> None:
    for place in (path + record_index.SUFFIX, _cached(path)):
        try:
            storage.make_folder(os.path.dirname(place))
            return record_index.save(place, index)
        except OSError:
            continue  # not writable, or full: it stays in memory, and the next process makes it again


def _cached(path: str) -> str:
    """Where the index of a shard lies whose folder cannot be written."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    identity = hashlib.sha256(ascii((storage.absolute(path), *storage.status(path))).encode()).hexdigest()
    return os.path.join(home, "lockstep", "tfrecord", identity[:32] + record_index.SUFFIX)


class _Patient:
    """A Progress that says nothing of what is done within QUIET_SECONDS."""

    def __init__(self, progress: Progress):
        self._progress, self._begun = progress, time.monotonic()

    def advance(self, name: str, done: int, total: int) -> None:
        if time.monotonic() - self._begun > QUIET_SECONDS:
            self._progress.advance(name, done, total)
