"""Where the bytes of sharded data sets come from: the only functions that touch their files.

Everything that reads shards, indexes and descriptions goes through these, so that another store than a folder
needs nothing more than their counterparts. What is published is whole or absent: written under another name,
flushed, renamed.

    names = storage.listing("flowers")      # sorted file names
    with storage.Reader("flowers/train-00000-of-00001.tfrecord") as file:
        content = file.read(4096, 1000)     # bytes 4096 to 5095

(The records of a running training are read by TensorFlow, which knows gs:// by itself.)
"""

import os
import threading
from typing import NamedTuple


def listing(folder: str) -> list[str]:
    """The names of the files in `folder`, sorted. OSError: it cannot be listed."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_file())


class Status(NamedTuple):
    """Bytes of a file, and when it was last changed, in nanoseconds: by its own account, by the system's."""

    size: int
    modified: int
    changed: int


def status(path: str) -> Status:
    """What changes when a file does. OSError: there is none."""
    found = os.stat(path)
    return Status(found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def read_whole(path: str, limit: int) -> bytes:
    """The content of a file of at most `limit` bytes; ValueError: it has more."""
    with open(path, "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path}: has more than {limit:,} bytes; it cannot be what its name says")
    return content


def publish(path: str, content: bytes) -> None:
    """Writes a small file, whole or not at all."""
    temporary = f"{path}.part-{os.getpid()}-{threading.get_ident()}"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except OSError:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def sync_folder(folder: str) -> None:
    """The names in `folder` are on the disk too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Reader:
    """Reads parts of one file: a context manager. OSError: it cannot be opened or read."""

    def __init__(self, path: str):
        self.path = path

    def __enter__(self) -> "Reader":
        self._number = os.open(self.path, os.O_RDONLY)
        return self

    def __exit__(self, *_) -> None:
        os.close(self._number)

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from byte `offset` on, fewer where the file ends."""
        content = os.pread(self._number, length, offset)
        while 0 < len(content) < length:  # one call reads 2 GB at most
            more = os.pread(self._number, length - len(content), offset + len(content))
            if not more:
                break
            content += more
        return content
