"""Unpacks a tar archive that nobody vouches for, or refuses it.

What is written are regular files and folders, below one folder, within stated numbers of bytes and members.
`tarfile` has a filter for some of this, but only in later releases of Python 3.11, and without a cap on size,
so every rule is checked here, before the member's first byte is written.

    with open("cifar-10-binary.tar.gz", "rb") as stream:
        unpack_tar(stream, Path("new-folder"), top="cifar-10-batches-bin",
                   bytes_limit=190_000_000, members_limit=16)
"""

import gzip
import io
import os
import pathlib
import shutil
import tarfile
import zlib
from typing import BinaryIO

_DEPTH_LIMIT = 8
# What `tarfile` and `gzip` raise on damaged or hostile bytes. RecursionError: a chain of long-name headers.
_DAMAGE = (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, OverflowError, RecursionError)


def unpack_tar(stream: BinaryIO, target: pathlib.Path, *, top: str, bytes_limit: int,
               members_limit: int) -> None:
    """Writes what lies under `top/` in the gzip-compressed tar `stream` to the empty folder `target`.

    `bytes_limit` bounds the bytes of all files together, `members_limit` the number of files and folders.
    ValueError, which names the member and the rule: a member that is neither a regular file nor a folder,
    lies outside `top`, appears twice, or passes a limit; or the archive is damaged. `target` is then half
    filled: the caller removes it.
    """
    # On top of the files come headers, also for long paths, and the padding of every file to 512 bytes.
    stream_limit = bytes_limit + (members_limit + 1) * 8192 + tarfile.RECORDSIZE
    try:
        with gzip.GzipFile(fileobj=stream) as plain, \
                tarfile.open(fileobj=_Capped(plain, stream_limit), mode="r|") as archive:
            _unpack_members(archive, target, top=top, bytes_limit=bytes_limit, members_limit=members_limit)
    except _DAMAGE as error:
        raise ValueError(f"the archive is damaged ({type(error).__name__}: {error})") from error


def _unpack_members(archive, target, *, top, bytes_limit, members_limit) -> None:
    written = 0
    for number, member in enumerate(archive, start=1):
        if number > members_limit:
            raise ValueError(f"the archive holds more than {members_limit} files and folders")
        path = target.joinpath(*_parts_below(member, top))
        written += 0 if member.isdir() else member.size
        if not 0 <= member.size <= bytes_limit or written > bytes_limit:
            raise ValueError(f"the archive unpacks to more than {bytes_limit:,} bytes, at {member.name!r}")
        try:
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "xb") as out, archive.extractfile(member) as content:
                    shutil.copyfileobj(content, out, 1 << 20)
        except (FileExistsError, NotADirectoryError):
            raise ValueError(f"the archive holds {member.name!r} twice, or as file and folder") from None


def _parts_below(member: tarfile.TarInfo, top: str) -> tuple[str, ...]:
    """The member's path below `top`, as parts; ValueError if it is no plain file or folder there."""
    path = pathlib.PurePosixPath(member.name)
    plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
    if not (plain or member.isdir()):
        raise ValueError(f"the archive's member {member.name!r} is a link, a device or the like, "
                         "not a file or folder")
    inside = path.parts[:1] == (top,) and ".." not in path.parts and (member.isdir() or len(path.parts) > 1)
    if not inside:
        raise ValueError(f"the archive's member {member.name!r} lies outside its folder {top!r}")
    if len(path.parts) > _DEPTH_LIMIT or any(len(os.fsencode(part)) > 255 for part in path.parts):
        raise ValueError(f"the archive's member {member.name[:80]!r}... lies too deep or has too long a name")
    if not member.name.isprintable():
        raise ValueError(f"the archive's member {member.name!r} has a name that cannot be printed")
    return path.parts[1:]


class _Capped(io.RawIOBase):
    """Reads `stream` up to `limit` bytes, so that headers, which `tarfile` reads whole, are bounded too."""

    def __init__(self, stream: BinaryIO, limit: int):
        self._stream, self._left = stream, limit

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(min(size, self._left + 1) if size >= 0 else self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("the archive unpacks to more bytes than it may")
        return data
