"""Where the bytes of data sets come from: the only functions that touch their files, in a folder or at gs://.

Everything that reads them goes through these, and does not know which it is. What is published is whole or absent: in a folder
it is written under another name, flushed, renamed; an object is written whole by one request.

    names = storage.listing("flowers")      # sorted file names
    content = storage.read_whole("gs://bucket/data/dataset.json", 1 << 20)
    with storage.Reader("flowers/train-00000-of-00001.tfrecord") as file:
        content = file.read(4096, 1000)     # bytes 4096 to 5095
    storage.read_ranges([("gs://bucket/a.tfrecord", 0, 4096), ...])     # many at once

Image files and records of a running training TensorFlow reads one by one from a folder; from gs://, where each takes tens of
milliseconds, `read_ranges` reads those of a batch together (`is_remote` says which).
"""

import concurrent.futures
import contextlib
import io
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from input_pipeline import bucket
from input_pipeline.bucket import is_address as is_remote

THREADS = 16  # of `each`
READ_AHEAD = 1 << 23  # bytes of an object that a Reader and a stream fetch at a time


def check(path: str) -> None:
    """ValueError, in one line, where `path` is at gs:// and cannot be read there."""
    if is_remote(path):
        try:
            bucket.check(path, write=False)
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None


def absolute(path: str) -> str:
    """`path` without regard to the current folder, and ~ as it is meant."""
    return path.rstrip("/") if is_remote(path) else os.path.abspath(os.path.expanduser(path))


def children(folder: str) -> tuple[list[str], list[str]]:
    """The names of the folders and of the files in `folder`, each sorted. OSError: it cannot be listed."""
    if is_remote(folder):
        folders, entries = bucket.children(folder)
        return folders, [entry.name for entry in entries]
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(), entry.is_file()) for entry in entries]
    return sorted(name for name, is_dir, _ in found if is_dir), sorted(name for name, _, is_file in found if is_file)


def listing(folder: str) -> list[str]:
    """The names of the files in `folder`, sorted. OSError: it cannot be listed."""
    return children(folder)[1]


def is_file(path: str) -> bool:
    """Whether there is such a file. OSError: the storage does not answer."""
    if not is_remote(path):
        return os.path.isfile(path)
    try:
        bucket.stat(path)
    except FileNotFoundError:
        return False
    return True


def is_folder(path: str) -> bool:
    """Whether there is such a folder; at gs:// one is there as long as something is in it. OSError as `is_file`."""
    return any(bucket.children(path)) if is_remote(path) else os.path.isdir(path)


class Status(NamedTuple):
    """Bytes of a file, and when it was last changed, in nanoseconds: by its own account, by the system's (of an object: its
    generation)."""

    size: int
    modified: int
    changed: int


def status(path: str) -> Status:
    """What changes when a file does. OSError: there is none."""
    if is_remote(path):
        entry = bucket.stat(path)
        return Status(entry.size, int(entry.modified * 1e9), entry.generation)
    found = os.stat(path)
    return Status(found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def read_whole(path: str, limit: int) -> bytes:
    """The content of a file of at most `limit` bytes; ValueError: it has more."""
    if is_remote(path):
        content = bucket.read_ranges([(path, 0, limit + 1)])[0] if limit < READ_AHEAD else bucket.read(path)
    else:
        with open(path, "rb") as file:
            content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path}: has more than {limit:,} bytes; it cannot be what its name says")
    return content


def open_file(path: str) -> BinaryIO:
    """The file, to be read from its beginning; a context manager. OSError: it cannot be opened or read."""
    return io.BufferedReader(_Stream(path), READ_AHEAD) if is_remote(path) else open(path, "rb")


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
    """A file with this content that any program can open: itself, or a copy for as long as it is needed."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, os.path.basename(path))
        bucket.download(path, copy)
        yield copy


def read_ranges(ranges: list[tuple[str, int, int]]) -> list[bytes]:
    """Bytes start to end - 1 of each (path, start, end) at gs://, many at a time. OSError: one cannot be read."""
    return bucket.read_ranges(ranges)


def make_folder(path: str) -> None:
    """There is a folder `path`, where folders are things of their own."""
    if not is_remote(path):
        os.makedirs(path, exist_ok=True)


def each(function: Callable, paths: list[str]) -> list:
    """function(path) of all paths, several at a time where each waits for the network. Raises what the first one raises."""
    if not any(map(is_remote, paths)):
        return list(map(function, paths))
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(function, paths))


def publish(path: str, content: bytes) -> None:
    """Writes a small file, whole or not at all."""
    if is_remote(path):
        bucket.write(path, content)
        return
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
        self._ahead, self._start = b"", 0  # what was fetched of an object, and where it lies

    def __enter__(self) -> "Reader":
        if is_remote(self.path):
            self._size, self._number = bucket.stat(self.path).size, None
        else:
            self._number = os.open(self.path, os.O_RDONLY)
        return self

    def __exit__(self, *_) -> None:
        if self._number is not None:
            os.close(self._number)

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from byte `offset` on, fewer where the file ends."""
        if self._number is None:
            return self._read_object(offset, length)
        content = os.pread(self._number, length, offset)
        while 0 < len(content) < length:  # one call reads 2 GB at most
            more = os.pread(self._number, length - len(content), offset + len(content))
            if not more:
                break
            content += more
        return content

    def _read_object(self, offset: int, length: int) -> bytes:
        """As `read`. Headers of records follow each other: fetched one by one they would take as many requests."""
        end = min(offset + length, self._size)
        if offset >= end:
            return b""
        if not self._start <= offset <= end <= self._start + len(self._ahead):
            until = min(max(end, offset + READ_AHEAD), self._size)
            self._ahead, self._start = bucket.read_ranges([(self.path, offset, until)])[0], offset
        return self._ahead[offset - self._start:end - self._start]


class _Stream(io.RawIOBase):
    """An object as a stream of bytes, for a buffer."""

    def __init__(self, path: str):
        self._path, self._place, self._size = path, 0, bucket.stat(path).size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, into) -> int:
        end = min(self._place + len(into), self._size)
        if end <= self._place:
            return 0
        content = bucket.read_ranges([(self._path, self._place, end)])[0]
        into[:len(content)] = content
        self._place += len(content)
        return len(content)
