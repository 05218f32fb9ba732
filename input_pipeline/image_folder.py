"""Folders of images as a data set: `image_folder`, and what others are made of (`flowers`, conversions).

`--data_dir` has a sub-folder of images for each class. Which split an image belongs to is drawn from its name (80 %
train, 10 % validation, 10 % test): the sha256 of "class/file", so that new files move no others, and every machine
agrees. Where the sub-folders are called train, validation and test (or another of `datasets.SPLIT_WORDS`, in any case),
these are the splits, and the class folders lie in them.

    listing = image_folder.listing("/photos")          # names and labels of all; nothing is opened
    listing.names[listing.split == 0]                  # bytes [n], "daisy/1.jpg", those of SPLITS[0], "train"
    source = image_folder.load("train", "/photos", image_size=192)

An image is a file whose name ends as one (`images.ENDINGS`). Names that begin with a dot do not count. Links are
followed within the folder, never out of it. Everything else is left out, and a note says so.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from typing import TYPE_CHECKING

import numpy as np

from input_pipeline import images, storage
from input_pipeline.datasets import SPLIT_WORDS, SPLITS, Info, check_split

if TYPE_CHECKING:
    from input_pipeline.sources import Files

IMAGE_SIZE = 224
MAX_IMAGE_SIZE = 4096
SHOWN = 3  # entries that a note names
_ENDINGS = tuple(os.fsencode(ending) for ending in images.ENDINGS)
# Of ten parts by the hash: the place in SPLITS.
_PARTS = (0, 0, 0, 0, 0, 0, 0, 0, 1, 2)


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """The images of a folder, by class and then by name. n: how many."""

    folder: str  # absolute, without links
    classes: tuple[str, ...]  # the names of the class folders, sorted
    names: np.ndarray  # bytes [n], paths below `folder`
    labels: np.ndarray  # int32 [n], places in `classes`
    split: np.ndarray  # uint8 [n], places in SPLITS
    notes: tuple[str, ...]

    @functools.cached_property
    def train_digest(self) -> str:
        """The sha256 of the names and labels of the training images, in their order, as 64 hexadecimal digits."""
        names, labels = self.of(SPLITS[0])
        return hashlib.sha256(b"\0".join(names.tolist()) + labels.tobytes()).hexdigest()

    def path(self, index: int) -> str:
        """Where image number `index` lies."""
        return os.path.join(self.folder, os.fsdecode(bytes(self.names[index])))

    def of(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """(names, labels) of the images of `split`."""
        chosen = self.split == SPLITS.index(split)
        return self.names[chosen], self.labels[chosen]


def facts(*, image_size: int = 0) -> Info:
    """What is known of any folder with this option; `image_size`: side of the squares in pixels, 0 for 224."""
    return folder_facts("image_folder", image_size=image_size)


def describe(data_dir: str | None = None, **options) -> Info:
    """The facts of the images in `data_dir`, with the options of `facts`. Raises ValueError as `listing` does."""
    return folder_info(facts(**options), _listing(data_dir))


def load(split: str, data_dir: str | None = None, **options) -> Files:
    """The source of `split`: images uint8 [size, size, 3]. Raises ValueError as `listing` does."""
    return load_folder(facts(**options), _listing(data_dir), split)


def folder_facts(name: str, *, image_size: int, **known) -> Info:
    """The facts `known` of the data set `name`, whose images are made squares of `image_size`."""
    if not 0 <= image_size <= MAX_IMAGE_SIZE:
        raise ValueError(f"dataset={name!r}: image_size={image_size} must be 1 to {MAX_IMAGE_SIZE} pixels, or 0 for "
                         f"{IMAGE_SIZE}")
    size = image_size or IMAGE_SIZE
    return Info(**{"name": name, "train_examples": 0, "test_examples": 0, "splits": SPLITS, "classes": (),
                   "input_shape": (size, size, 3)} | known)


def folder_info(info: Info, found: Listing) -> Info:
    """`info` with what `found` adds: the classes, the splits that are not empty, their examples."""
    counts = dict(zip(SPLITS, np.bincount(found.split, minlength=len(SPLITS)).tolist()))
    return dataclasses.replace(
        info, classes=found.classes, splits=tuple(split for split in SPLITS if counts[split]), files=(found.folder,),
        train_digest=found.train_digest, notes=found.notes,
        **{f"{split}_examples": count for split, count in counts.items()})


def load_folder(info: Info, found: Listing, split: str) -> Files:
    """The source of `split` of `found`, in the shape that `info` says."""
    from input_pipeline.sources import Files

    check_split(folder_info(info, found), split)
    return Files(found.folder, *found.of(split), found.classes, image_size=info.input_shape[0])


def listing(folder: str) -> Listing:
    """The images of `folder`. Opens none of them; 1.2 million take some seconds.

    Raises ValueError where there is no such folder, no image to train on, or a class name that cannot be shown.
    """
    root = folder.rstrip("/") if storage.is_remote(folder) else os.path.realpath(os.path.expanduser(folder))
    if not storage.is_folder(root):
        raise ValueError(f"{folder!r} is no folder; give the one that holds a folder of images for each class")
    scan = _Scan(root)
    tops = _tops(root, scan)
    classes, parts = _split_folders(root, tops, scan) if tops else _class_folders(b"", scan)
    lengths = [len(part) for part in parts]
    if not any(lengths):
        raise ValueError(f"{folder!r} has no images; it must hold a folder for each class, with files that end in "
                         f"{', '.join(images.ENDINGS)}")
    found = Listing(root, classes, np.concatenate([part.names for part in parts]),
                    np.repeat(np.array([part.label for part in parts], np.int32), lengths),
                    np.concatenate([part.split for part in parts]), scan.notes())
    if not (found.split == 0).any():
        raise ValueError(f"{folder!r} has {len(found.names)} images, and none of them to train on; add more")
    return found


@functools.lru_cache(maxsize=4)
def listing_once(folder: str) -> Listing:
    """As `listing`; a process looks into a folder once, so that it reads the images that it has counted."""
    return listing(folder)


@dataclasses.dataclass(frozen=True)
class _Part:
    """The images of a class, or of a class in a split."""

    label: int
    names: np.ndarray
    split: np.ndarray

    def __len__(self) -> int:
        return len(self.names)


def _listing(data_dir: str | None) -> Listing:
    if not data_dir:
        raise ValueError("image_folder: no data_dir is given; give the folder that holds a folder of images for each "
                         "class")
    return listing_once(storage.absolute(data_dir))


def _class_folders(below: bytes, scan: _Scan) -> tuple[tuple[str, ...], list[_Part]]:
    """The classes in the folder `below`, and their images in splits by their hash."""
    found = [(name, scan.images(os.path.join(below, name))) for name in scan.folders(below)]
    found = [(name, names) for name, names in found if len(names)]
    return (tuple(os.fsdecode(name) for name, _ in found),
            [_Part(label, names, _drawn(names)) for label, (_, names) in enumerate(found)])


def _tops(root: str, scan: _Scan) -> dict[str, bytes]:
    """The folder of each split; none where the folders are classes. ValueError: two of them mean the same."""
    splits = {name: SPLIT_WORDS.get(os.fsdecode(name).lower()) for name in scan.folders(b"")}
    tops = {split: name for name, split in splits.items() if split}
    if "train" not in tops or None in splits.values() and not scan.has_folders_alone(tops["train"]):  # a class may be called so
        return {}
    for name, split in splits.items():
        if not split:
            scan.leave(name, "beside the splits' folders")
        elif tops[split] != name:
            raise ValueError(f"{root!r} has folders {os.fsdecode(name)} and {os.fsdecode(tops[split])}, which mean the same; "
                             "rename one")
    return tops


def _split_folders(root: str, tops: dict[str, bytes], scan: _Scan) -> tuple[tuple[str, ...], list[_Part]]:
    """The classes in the folder of training images, and the images of all splits. ValueError where others have other
    classes."""
    classes, parts = _class_folders(tops["train"], scan)
    parts = [_Part(part.label, part.names, np.zeros(len(part), np.uint8)) for part in parts]
    for split in sorted(set(tops) - {"train"}, key=tops.get):
        theirs, more = _class_folders(tops[split], scan)
        unknown = sorted(set(theirs) - set(classes))
        if unknown:
            train, top = os.fsdecode(tops["train"]), os.fsdecode(tops[split])
            raise ValueError(f"{root!r} has images of class {unknown[0]!r} in {top} and none in {train}; every class must be "
                             f"in {train}")
        place = SPLITS.index(split)
        parts += [_Part(classes.index(theirs[part.label]), part.names, np.full(len(part), place, np.uint8))
                  for part in more]
    return classes, parts


def _drawn(names: np.ndarray) -> np.ndarray:
    """The split of each of `names`, places in SPLITS as uint8 [n]."""
    digests = (hashlib.sha256(name).digest() for name in names.tolist())
    return np.array([_PARTS[int.from_bytes(digest[:8], "big") % len(_PARTS)] for digest in digests], np.uint8)


class _Scan:
    """Looks into the folders below `root`, and keeps account of what is left out."""

    def __init__(self, root: str):
        self._root = os.fsencode(root)
        self._inside = os.path.join(self._root, b"")
        self._left_out = {}  # why, by path below the root

    def folders(self, below: bytes) -> list[bytes]:
        """The names of the folders in the folder `below`, sorted. Images that lie beside them are left out."""
        folders, files = self._entries(below)
        for name in files:
            if name.lower().endswith(_ENDINGS):
                self.leave(os.path.join(below, name), "in no class folder")
        for name in folders:
            if not os.fsdecode(name).isprintable():
                raise ValueError(f"{self._root + b'/' + name!r}: the name of a class must be printable; rename it")
        return folders

    def images(self, below: bytes) -> np.ndarray:
        """The images in the class folder `below`, paths below the root, sorted, as bytes [n]."""
        folders, files = self._entries(below)
        for name in folders:
            self.leave(os.path.join(below, name), "a folder in a class folder")
        chosen = []
        for name in files:
            if name.lower().endswith(_ENDINGS):
                chosen.append(below + b"/" + name)
            else:
                self.leave(os.path.join(below, name), "no image by its name")
        if not chosen:
            self.leave(below, "a folder without images")
        return np.array(chosen, np.bytes_)

    def notes(self) -> tuple[str, ...]:
        """One line on all that is left out, where there is something."""
        if not self._left_out:
            return ()
        shown = [f"{os.fsdecode(name)!r} ({why})" for name, why in sorted(self._left_out.items())[:SHOWN]]
        more = len(self._left_out) - len(shown)
        return (f"{os.fsdecode(self._root)}: left out {', '.join(shown)}" + f" and {more} more" * bool(more),)

    def has_folders_alone(self, below: bytes) -> bool:
        """Whether the folder `below` has folders, and no images."""
        folders, files = self._entries(below)
        return bool(folders) and not any(name.lower().endswith(_ENDINGS) for name in files)

    def leave(self, name: bytes, why: str) -> None:
        """Takes note of what is left out."""
        self._left_out[name] = why

    def _entries(self, below: bytes) -> tuple[list[bytes], list[bytes]]:
        """The names of folders and of files in the folder `below`, each sorted, but for hidden ones."""
        if storage.is_remote(os.fsdecode(self._root)):
            names = storage.children(os.fsdecode(os.path.join(self._root, below)))
            return tuple([os.fsencode(name) for name in part if not name.startswith(".")] for part in names)
        folders, files = [], []
        with os.scandir(os.path.join(self._root, below)) as entries:
            for entry in entries:
                if entry.name.startswith(b"."):
                    continue
                if entry.is_symlink() and not os.path.realpath(entry.path).startswith(self._inside):
                    self.leave(os.path.join(below, entry.name), "a link that leads out of the folder")
                else:
                    kind = _kind(entry)
                    if kind is None:
                        self.leave(os.path.join(below, entry.name), "no file")
                    else:
                        (folders if kind == "folder" else files).append(entry.name)
        return sorted(folders), sorted(files)


def _kind(entry: os.DirEntry) -> str | None:
    """"folder", "file", or None where it is neither."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else None
    except OSError:  # a link to itself
        return None
