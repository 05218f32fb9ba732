"""The small files of a run: read with suspicion, replaced as a whole, locked; and what a disk that fails makes of them.

    facts = files.read_json("runs/digits/DONE")           # ValueError: why it is none
    files.write_whole("runs/digits/DONE", text)
    with files.exclusive("runs/digits/train/.lock", "another trainer works on runs/digits"): ...
    files.held("runs/digits/train/.lock")                 # whether a living process holds it
    with files.writing("runs/digits/train"): ...          # an OSError becomes one line that says what to do
    files.check("gs://bucket/run", "model_dir")           # a place at gs:// that cannot be used: one line, at once

All of them take a folder of this machine or one at gs:// (`places`), where an object is written whole by one request.
"""
import contextlib
import errno
import fcntl
import json
import os
import re
import stat
import time

from input_pipeline import bucket
from input_pipeline.rules import UserError, shown
from trainer import lease
from trainer.lease import Held
from trainer.places import Address, place

LARGEST_BYTES = 1 << 20  # of a small file
PATIENCE_SECS = 3  # for a lock whose holder is just ending

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_OURS = (errno.EROFS, errno.EACCES, errno.EPERM)


class Unreachable(UserError):
    """Storage at gs:// that does not give or take what it should. If it does not answer, the exit code is that of a crash: the
    same command may work later, so a launcher may restart it."""

    def __init__(self, path: str | os.PathLike, verb: str, error: OSError):
        super().__init__(f"{os.fspath(path)} cannot be {verb}: {error.strerror or error}; see to that, then give the same command "
                         "again: what was saved is untouched")
        self.exit_code = 1 if isinstance(error, ConnectionError) else 2


def check(path: str | os.PathLike, flag: str, *, write: bool = False) -> None:
    """UserError, which names the flag, if `path` is at gs:// and cannot be read there, or with `write` be written."""
    if bucket.is_address(path):
        try:
            bucket.check(path, write=write)
        except OSError as error:
            raise UserError(f"--{flag}={shown(os.fspath(path))} cannot be {'written' if write else 'read'}: "
                            f"{error.strerror}") from None


def read_json(path: str | os.PathLike):
    """What a small file holds. FileNotFoundError: there is none. ValueError: what is wrong with it, in words."""
    path = place(path)
    try:
        if isinstance(path, Address):
            data = bucket.read_ranges([(path, 0, LARGEST_BYTES + 1)])[0]
        else:
            data = _read_file(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        if isinstance(path, Address):
            raise Unreachable(path, "read", error) from None
        raise ValueError(error.strerror) from None
    if len(data) > LARGEST_BYTES:
        raise ValueError(f"it has more than {LARGEST_BYTES} bytes")
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested without end") from None


def _read_file(path: str | os.PathLike) -> bytes:
    """The first bytes of a small file of this machine, which may be a pipe, say."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:  # a pipe, say
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is not a file")
        return file.read(LARGEST_BYTES + 1)


def write_whole(path: str | os.PathLike, text: str) -> None:
    """Replaces a small file as a whole or not at all. For one writer at a time."""
    path = place(path)
    if isinstance(path, Address):
        with writing(path):
            bucket.write(path, text.encode())
        return
    temporary = path.with_name(f".{path.name}.writing")
    with writing(path):
        try:
            with open(temporary, "w", opener=no_link) as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


def no_link(path: str | os.PathLike, flags: int) -> int:
    """For open(opener=) of a file to write: a link, which may lead out of the run's folder, is an OSError."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            error.strerror = "it is a link, which is not followed"
        raise


def sync(path: str | os.PathLike) -> None:
    """Flushes a file or a folder to the disk. (What was written to gs:// is there.)"""
    if isinstance(path, Address):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writing(path: str | os.PathLike):
    """Turns an OSError into the UserError that names the file, `path` where the error names none."""
    try:
        yield
    except OSError as error:
        if bucket.is_address(error.filename or path):
            raise Unreachable(error.filename or path, "written", error) from error
        raise cannot_write(error.filename or path, error.strerror or str(error)) from error


def cannot_write(path: str | os.PathLike, reason: str) -> UserError:
    """What to raise where `path` cannot be written. reason: as the system says it, also within TensorFlow's
    "{node} name; reason [Op:SaveV2]"."""
    reason = re.sub(r" \[Op:\w+\]$", "", reason.rsplit("; ", 1)[-1])
    if any(os.strerror(number) in reason for number in NO_ROOM):
        fix = "make room"
    elif any(os.strerror(number) in reason for number in NOT_OURS):
        fix = "make it writable, or give another --model_dir"
    else:
        fix = "look after the disk"
    return UserError(f"{os.fspath(path)} cannot be written: {reason}; {fix}, then give the same command again: what was "
                     "saved is untouched")


@contextlib.contextmanager
def exclusive(path: str | os.PathLike, message: str, *, patience: float = PATIENCE_SECS):
    """Holds a lock that a dead process does not hold. Held, with `message`, if a living one keeps it for so many seconds;
    UserError if the file system has no locks, or no room."""
    path = place(path)
    if isinstance(path, Address):
        with contextlib.ExitStack() as stack:
            with writing(path):
                stack.enter_context(lease.hold(path, message, patience=patience))
            yield
        return
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+b", buffering=0, opener=no_link)
    with file:
        end = time.monotonic() + patience
        while not _lock(file, fcntl.LOCK_EX):
            if time.monotonic() > end:
                raise Held(f"{message} ({_holder(file)}); wait for it, or end it")
            time.sleep(0.01)
        with writing(path):
            file.truncate(0)
            file.write(f"{os.getpid()} on {os.uname().nodename}\n".encode())
        yield


def held(path: str | os.PathLike) -> bool:
    """Whether a living process, on this machine or one that shares its locks, holds the lock of `exclusive`."""
    if isinstance(path, Address):
        return lease.held(path)
    try:
        with open(path, "rb") as file:
            return not _lock(file, fcntl.LOCK_SH)  # for microseconds: a process that wants it just then is patient
    except OSError:  # nobody ever made it, or it is not ours to read
        return False


def _lock(file, kind: int) -> bool:
    """Whether the lock could be taken. It lasts until the file is closed."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError as error:
        raise UserError(f"{file.name} cannot be locked: {error.strerror}; keep --model_dir on a file system with locks, "
                        "such as a local disk") from error


def _holder(file) -> str:
    """Who wrote itself into a lock file: "process 123 on host"."""
    file.seek(0)
    found = re.match(rb"[0-9]{1,10}( on [\w.-]{1,100})?\n", file.read(200))
    return f"process {found[0].decode().strip()}" if found else "process unknown"
