"""Fetches a data set over HTTP: verified, restartable, whole or absent.

Every file goes to `<data_dir>/.download/`, where a cut connection or a killed process is resumed, and is
compared with its published size and sha256. Only then is it unpacked, into a sibling folder that one rename
publishes as `<data_dir>/<folder>`. So the folder is either complete or not there, whenever the process dies.

    from input_pipeline import download
    download.fetch("cifar10", "data")     # data/cifar-10-batches-bin; at once, offline, if it is there

`LOCKSTEP_MIRROR=URL` in the environment takes every file from that one folder instead (http, https or file),
with the same digests. Proxies are those of `urllib` (`https_proxy`, `no_proxy`).
"""

import contextlib
import errno
import fcntl
import hashlib
import http.client
import os
import pathlib
import re
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

from input_pipeline.archives import ARCHIVES, Archive, Remote
from input_pipeline.progress import Progress
from input_pipeline.unpack import unpack_tar

ATTEMPTS = 4                # in a row that bring less than PROGRESS_BYTES each; then the caller is told
PROGRESS_BYTES = 1 << 20
TIMEOUT_SECONDS = 30.0      # without a single byte
_CHUNK_BYTES = 1 << 16
# Not worth another attempt. The last three: of a file:/// mirror.
_LASTING = (ssl.SSLCertVerificationError, FileNotFoundError, IsADirectoryError, PermissionError)


def fetch(archive: Archive | str, data_dir: str | os.PathLike, *, progress: Progress | None = None,
          wait: Callable[[float], None] = time.sleep) -> pathlib.Path:
    """Makes `<data_dir>/<archive.folder>` unless it is there, and returns its path.

    `archive`: a name of ARCHIVES, or one of the caller's own. `wait(seconds)` is called between two attempts.
    A second process that fetches the same waits for the first. ValueError: what the server sent, or the name,
    is wrong (nothing is published). ConnectionError: the server cannot be reached or broke off (the part
    stays, the next call resumes it). Other OSErrors: the disk, or something else stands where the folder
    should.
    """
    if isinstance(archive, str):
        if archive not in ARCHIVES:
            names = ", ".join(ARCHIVES)
            raise ValueError(f"data set {archive!r} cannot be downloaded: it must be one of {names}")
        archive = ARCHIVES[archive]
    data_dir = pathlib.Path(data_dir)
    target = data_dir / archive.folder
    if is_there(archive, data_dir):
        return target
    progress = progress or Progress(sys.stderr)
    parts_dir = data_dir / ".download"
    parts_dir.mkdir(parents=True, exist_ok=True)
    for link in filter(pathlib.Path.is_symlink, parts_dir.iterdir()):  # nobody's of here: it would lead the writing elsewhere
        link.unlink()
    with locked(parts_dir / f"{archive.name}.lock", progress):
        if is_there(archive, data_dir):      # another process made it while this one waited
            return target
        for leftover in data_dir.iterdir():  # of a process that died: a live one would hold the lock
            if re.fullmatch(re.escape(archive.folder) + r"\.part-\d+", leftover.name):
                shutil.rmtree(leftover)
        parts = {remote: parts_dir / f"{archive.name}.{remote.name}.part" for remote in archive.files}
        _check_space(archive, parts, data_dir)
        for remote, part in parts.items():
            with _named(remote, target):
                _transfer(remote, part, progress, wait)
                _verify(remote, part)
        progress.note(f"{archive.name}: unpacking")
        _publish(archive, parts, target)
        for part in parts.values():
            part.unlink()
    return target


def is_there(archive: Archive, data_dir: str | os.PathLike) -> bool:
    """Whether the data set's folder is there. FileExistsError where something else, or only a piece of it,
    is."""
    target = pathlib.Path(data_dir) / archive.folder
    if not os.path.lexists(target):
        return False
    if not target.is_dir():
        raise FileExistsError(f"{target} is not a folder: move it away, the data set belongs there")
    if not any(target.iterdir()):
        return False
    # Whoever unpacked the .gz files has the data too.
    missing = [name for name in archive.holds
               if not (target / name).exists() and not (target / name.removesuffix(".gz")).exists()]
    if missing:
        raise FileExistsError(f"{target} is there but holds no {', '.join(missing)}: "
                              "complete it, or move it away and run again")
    return True


@contextlib.contextmanager
def locked(path: pathlib.Path, progress: Progress) -> Iterator[None]:
    """Holds an exclusive lock, which the system frees when the process ends, however it ends. The file stays:
    removing it would let two processes lock two files of one name."""
    with open(path, "a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            owner = stream.read().strip() or "?"
            progress.note(f"process {owner} is fetching the same: waiting for it ({path})")
            fcntl.flock(stream, fcntl.LOCK_EX)
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        yield


@contextlib.contextmanager
def _named(remote: Remote, target: pathlib.Path) -> Iterator[None]:
    """Adds to an error which file it is about, and what to do."""
    url = _address(remote)
    fix = f"run again, set LOCKSTEP_MIRROR to a folder that has the file, or fill {target} yourself"
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{url}: {error}; {fix}") from error
    except ConnectionError as error:
        raise ConnectionError(f"{url}: {error}; {fix}") from error


def _size(part: pathlib.Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _check_space(archive: Archive, parts: dict[Remote, pathlib.Path], data_dir: pathlib.Path) -> None:
    missing = sum(remote.size - _size(part) for remote, part in parts.items())
    needed = missing + archive.unpacked_limit
    free = shutil.disk_usage(data_dir).free
    if needed > free:
        message = (f"{archive.name} needs {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free: "
                   "make room or choose another folder")
        raise OSError(errno.ENOSPC, message, str(data_dir))


def _address(remote: Remote) -> str:
    """The URL to ask: the published one, or the same file name below LOCKSTEP_MIRROR."""
    mirror = os.environ.get("LOCKSTEP_MIRROR", "")
    if not mirror:
        return remote.url
    if not re.fullmatch(r"(https?://|file:///)[!-~]+", mirror):
        raise ValueError(f"LOCKSTEP_MIRROR={mirror!r} must be a URL that begins with http://, https:// or "
                         "file:///")
    return f"{mirror.rstrip('/')}/{remote.url.rsplit('/', 1)[1]}"


class _Broken(Exception):
    """The network's fault, or the server's for the moment: worth another attempt."""


def _transfer(remote: Remote, part: pathlib.Path, progress: Progress, wait: Callable[[float], None]) -> None:
    """Brings the whole file to `part`, resuming what is there, over as many connections as it takes."""
    failures, furthest = 0, _size(part)
    while True:
        if _size(part) > remote.size:
            part.unlink()
        have = _size(part)
        if remote.sha256 and have == remote.size:
            return
        try:
            _attempt(remote, part, have, progress)
            return
        except _Broken as error:
            # Only bytes further than ever count, so that a server that always cuts at one place is given up.
            size = _size(part)
            failures = 0 if size >= furthest + PROGRESS_BYTES else failures + 1
            furthest = max(furthest, size)
            if failures >= ATTEMPTS:
                raise ConnectionError(f"{error}, after {size:,} bytes and {ATTEMPTS} attempts") from error
            seconds = 2 ** max(failures - 1, 0)
            progress.note(f"{remote.name}: {error}; again in {seconds} s")
            wait(seconds)


def _attempt(remote: Remote, part: pathlib.Path, have: int, progress: Progress) -> None:
    """One connection, which resumes at byte `have` if the server can. _Broken: it ended early."""
    # A server that compressed on the way would make another size; some refuse Python's own name.
    request = urllib.request.Request(_address(remote), headers={"Accept-Encoding": "identity",
                                                                "User-Agent": "lockstep-download"})
    if have and remote.sha256:                # what may have changed meanwhile begins anew
        request.add_header("Range", f"bytes={have}-")
    with _opened(request, part) as response:
        resumed = response.status == 206
        if resumed and not re.match(rf"bytes {have}-\d+/", response.headers.get("Content-Range", "")):
            part.unlink(missing_ok=True)
            raise _Broken("the server sent another range than was asked for")
        received = have if resumed else 0
        length = response.headers.get("Content-Length", "")
        total = received + int(length) if length.isdigit() else None
        if total is not None and (total > remote.size or remote.sha256 and total != remote.size):
            raise ValueError(f"the server offers {total:,} bytes, but the published file has "
                             f"{remote.size_rule}")
        with open(part, "ab" if resumed else "wb") as out:
            while chunk := _read(response):
                received += len(chunk)
                if received > remote.size:
                    break
                out.write(chunk)
                out.flush()
                progress.advance(remote.name, received, total or (remote.size if remote.sha256 else None))
    if received > remote.size:
        part.unlink()
        raise ValueError(f"the server sends more bytes than the published file has ({remote.size_rule})")
    if received < (total or (remote.size if remote.sha256 else 0)):
        raise _Broken(f"the connection ended after {received:,} bytes")


def _opened(request: urllib.request.Request, part: pathlib.Path):
    try:
        # An opener of its own: urlopen() keeps the proxies of its first call in the process.
        return urllib.request.build_opener().open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:                 # no use in a part that is longer than the server's file
            part.unlink(missing_ok=True)
            raise _Broken(f"the server's file is shorter than {request.get_header('Range')}") from error
        # Not the server's own words, which could be anything.
        answer = f"the server answers {error.code} {http.client.responses.get(error.code, '')}".rstrip()
        if error.code in (408, 429) or error.code >= 500:
            raise _Broken(answer) from error
        raise ConnectionError(answer) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, _LASTING):
            raise ConnectionError(f"no connection: {reason}") from error
        raise _Broken(f"no connection: {reason}") from error


def _read(response) -> bytes:
    """The next bytes, as soon as some are there; b"" at the end."""
    try:
        return response.read1(_CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(f"the connection broke ({str(error) or type(error).__name__})") from error


def _verify(remote: Remote, part: pathlib.Path) -> None:
    if remote.sha256 is None:
        return
    with open(part, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != remote.sha256:
        part.unlink()
        raise ValueError(f"sha256 {digest}, expected {remote.sha256}: not the published file, so it was "
                         "removed")


def _publish(archive: Archive, parts: dict[Remote, pathlib.Path], target: pathlib.Path) -> None:
    """Unpacks or copies the verified files into a sibling folder and renames it to `target`, last."""
    staging = target.with_name(f"{target.name}.part-{os.getpid()}")
    try:
        staging.mkdir()
        for remote, part in parts.items():
            with _named(remote, target):
                try:
                    _fill(archive, remote, part, staging)
                except ValueError:
                    part.unlink()      # as it is it can never be used
                    raise
        assert all((staging / name).exists() for name in archive.holds), archive
        _sync(staging)
        os.rename(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)   # what stays, the next call removes
        raise
    _sync_one(target.parent)


def _fill(archive: Archive, remote: Remote, part: pathlib.Path, staging: pathlib.Path) -> None:
    if archive.kind == "tar":
        with open(part, "rb") as stream:
            unpack_tar(stream, staging, top=archive.folder, bytes_limit=archive.unpacked_limit,
                       members_limit=archive.members_limit)
    elif remote.convert:
        (staging / remote.name).write_bytes(remote.convert(part.read_bytes()))
    else:
        shutil.copyfile(part, staging / remote.name)


def _sync(folder: pathlib.Path) -> None:
    """Everything below `folder` is on the disk, so that no power cut leaves a published folder of empty
    files."""
    for path, _, names in os.walk(folder):
        for name in names:
            _sync_one(os.path.join(path, name))
        _sync_one(path)


def _sync_one(path: str | os.PathLike) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
