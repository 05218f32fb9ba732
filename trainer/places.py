"""Where a run's files are: a folder of this machine, or one at gs://. Who has a place need not know which.

    folder = places.place("gs://bucket/run", "checkpoints")     # an Address; of a local folder a pathlib.Path
    (folder / "ckpt-00001000.json").exists()

At gs:// there are objects with names and no folders: one is "there" as long as something is in it, and none has to be made.
"""
import functools
import os
import pathlib
import posixpath
import stat
import types

from input_pipeline import bucket, storage


def place(path: str | os.PathLike, *parts: str) -> "pathlib.Path | Address":
    """The file or folder `path`/`parts`."""
    if bucket.is_address(path):
        return functools.reduce(lambda folder, part: folder / part, parts, Address(path))
    return pathlib.Path(path, *parts)


class Address(os.PathLike):
    """An object or a folder at gs://, with the methods of pathlib.Path that a run needs."""

    def __init__(self, path: str | os.PathLike):
        self._path = os.fspath(path).rstrip("/")

    def __fspath__(self) -> str:
        return self._path

    __str__ = __fspath__

    def __repr__(self) -> str:
        return f"Address({self._path!r})"

    def __eq__(self, other) -> bool:
        return isinstance(other, Address) and self._path == other._path

    def __hash__(self) -> int:
        return hash(self._path)

    def __truediv__(self, name: str | os.PathLike) -> "Address":
        return Address(f"{self._path}/{os.fspath(name)}")

    @property
    def name(self) -> str:
        """What stands behind the last slash."""
        return posixpath.basename(self._path)

    @property
    def parent(self) -> "Address":
        """The folder that it lies in."""
        return Address(posixpath.dirname(self._path))

    def with_name(self, name: str) -> "Address":
        """Its neighbour of this name."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> "Address":
        """Its neighbour with another ending."""
        return self.with_name(posixpath.splitext(self.name)[0] + suffix)

    def stat(self) -> types.SimpleNamespace:
        """What changes when the object does. FileNotFoundError: there is none."""
        entry = bucket.stat(self)
        nanoseconds = int(entry.modified * 1e9)
        return types.SimpleNamespace(st_mode=stat.S_IFREG, st_size=entry.size, st_mtime=entry.modified, st_dev=0,
                                     st_mtime_ns=nanoseconds, st_ctime_ns=nanoseconds, st_ino=entry.generation,
                                     crc32c=entry.crc32c)

    def exists(self) -> bool:
        """Whether there is such an object."""
        return storage.is_file(self)

    is_file = exists

    def is_dir(self) -> bool:
        """Whether anything lies below it."""
        return storage.is_folder(self)

    def mkdir(self, **_) -> None:
        """Nothing has to be made."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Deletes the object. FileNotFoundError: there is none."""
        if not bucket.delete(self) and not missing_ok:
            raise FileNotFoundError(2, "there is no such object", self._path)

    def rename(self, to: "Address") -> None:
        """Copies the object and deletes it: a kill in between leaves both."""
        bucket.copy(self, to)
        bucket.delete(self)


def names(folder: str | os.PathLike) -> list[str]:
    """The names of what lies in a folder, sorted. FileNotFoundError: there is none, on this machine."""
    if isinstance(folder, Address):
        return sorted(sum(storage.children(folder), []))
    return sorted(os.listdir(folder))
