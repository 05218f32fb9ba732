"""Files that grow at their end: lines of metrics, records of events. In a folder they are appended to; an object at gs:// cannot be.

    file = growing.growing(path)             # of a folder; or at gs://, where what is appended waits for flush()
    file.append(b"...")
    file.flush()                             # who reads it now sees all of it
    with file.open() as stream: ...          # what is there, flushed or not
    file.replace([b"...", b"..."])           # as a whole

An object is written anew as a whole while it is small; later its end is written as an object of its own and joined to it by the
server, in one step. At any moment it is whole as of some flush. Storage takes about one write a second of an object: hence
flush(least=30), which writes only if the last one was so many seconds ago.
"""
import contextlib
import errno
import io
import os
import stat
import threading
import time
from collections.abc import Iterable
from typing import BinaryIO

from input_pipeline import bucket
from trainer import files
from trainer.places import Address

WHOLE_BYTES = 1 << 20  # up to this size an object is written anew


def growing(path: str | os.PathLike, *, shared: bool = False) -> "Local | Remote":
    """The file at `path`, which need not exist. shared: others write to it too, one at a time."""
    return Remote(Address(path), shared=shared) if bucket.is_address(path) else Local(os.fspath(path))


class Local:
    """A file in a folder. OSError: it cannot be read or written."""

    def __init__(self, path: str):
        self.path = path

    def size(self) -> int:
        """Bytes. FileNotFoundError: there is none. OSError too for a pipe, say, at which a reader would wait for ever."""
        status = os.stat(self.path)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no file", self.path)
        return status.st_size

    def open(self) -> BinaryIO:
        """The content, a context manager."""
        return open(self.path, "rb")

    def last_byte(self) -> bytes:
        """The last byte; b"" if the file is empty or missing."""
        try:
            with open(self.path, "rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
                return file.read()
        except FileNotFoundError:
            return b""

    def append(self, data: bytes) -> None:
        """Appends in one write, all of `data` or none of it."""
        os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
        descriptor = files.no_link(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            size = os.fstat(descriptor).st_size
            written = os.write(descriptor, data)
            if written != len(data):
                os.ftruncate(descriptor, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
        finally:
            os.close(descriptor)

    def flush(self, *, least: float = 0) -> None:
        """Nothing waits."""

    def replace(self, lines: Iterable[bytes]) -> None:
        """Makes `lines` the content, which at every moment, power cuts too, is the old or the new."""
        temporary = self.path + ".tmp"
        try:
            with open(temporary, "wb", opener=files.no_link) as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        files.sync(os.path.dirname(self.path) or ".")


class Remote:
    """An object at gs://. Several threads may call; OSError as in Local."""

    def __init__(self, path: Address, *, shared: bool = False):
        self.path, self._shared, self._lock = os.fspath(path), shared, threading.RLock()
        self._entry, self._content = None, None  # of the object as it was last seen; the content of a small one
        self._waiting, self._flushed = [], time.monotonic()

    def size(self) -> int:
        """Bytes, those that wait too. FileNotFoundError: there is none."""
        with self._lock:
            waiting = sum(map(len, self._waiting))
            try:
                return bucket.stat(self.path).size + waiting
            except FileNotFoundError:
                if waiting:
                    return waiting
                raise

    def open(self) -> BinaryIO:
        """The content, and what waits; a context manager."""
        with self._lock:
            waiting = b"".join(self._waiting)
            try:
                return io.BytesIO(bucket.read(self.path) + waiting)
            except FileNotFoundError:
                if waiting:
                    return io.BytesIO(waiting)
                raise

    def last_byte(self) -> bytes:
        """As if it were complete: an object is written as a whole."""
        return b"\n"

    def append(self, data: bytes) -> None:
        """Appends, in memory, at the next flush in the object."""
        with self._lock:
            self._waiting.append(data)

    def flush(self, *, least: float = 0) -> None:
        """Writes what waits; not if the last time was less than `least` seconds ago."""
        with self._lock:
            if not self._waiting or time.monotonic() - self._flushed < least:
                return
            data = b"".join(self._waiting)
            self._look()
            if self._entry is None or self._entry.size <= WHOLE_BYTES:
                self._write(self._content + data)
            else:
                self._entry = bucket.append(self.path, data, generation=self._entry.generation)
            self._waiting, self._flushed = [], time.monotonic()

    def replace(self, lines: Iterable[bytes]) -> None:
        """Makes `lines` the content; nothing waits then."""
        lines = b"".join(lines)
        with self._lock:
            self._look()
            self._write(lines)
            self._waiting, self._flushed = [], time.monotonic()

    def _look(self) -> None:
        """What there is: once, if nobody else writes to it."""
        if self._content is not None and not self._shared:
            return
        self._entry, self._content = None, b""
        with contextlib.suppress(FileNotFoundError):
            self._entry = bucket.stat(self.path)
            if self._entry.size <= WHOLE_BYTES:
                self._content = bucket.read(self.path)

    def _write(self, content: bytes) -> None:
        generation = self._entry.generation if self._entry else 0
        self._entry = bucket.write(self.path, content, generation=generation)
        self._content = content if len(content) <= WHOLE_BYTES else b""
