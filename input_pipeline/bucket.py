"""Google Cloud Storage: the few operations on objects that files need, with errors that say what to do.

An object is written whole by one request or not at all, and a write or a deletion may be tied to a generation, the number of
an object's content: 0, there must be none. With that a file can be made by exactly one of several processes.

    bucket.write("gs://b/DONE", b"...")                      # Entry(size, generation, crc32c, ...)
    bucket.write("gs://b/lock", b"...", generation=0)        # FileExistsError: there is one
    bucket.read("gs://b/data.bin")                           # large ones in parallel parts
    bucket.read_ranges([("gs://b/x.tfrecord", 0, 100), ...]) # many parts at once
    folders, entries = bucket.children("gs://b/run")

Every error is an OSError whose strerror is a line for the user: FileNotFoundError, FileExistsError (another generation),
PermissionError, ConnectionError (not reached within a bound). The credentials are Google's application default ones, which
TensorFlow takes too; without any, requests are anonymous. gcsfs, which sends them, is imported by the first (0.7 s).
"""

import base64
import dataclasses
import datetime
import email.utils
import errno
import json
import os
import re

import google_crc32c

from input_pipeline.bucket_calls import call, client, explained

SCHEME = "gs://"
RANGES_SECS = 600  # of AT_ONCE ranges, as long as bytes come
CHECK_SECS = 15  # of the first look at a bucket
PART_BYTES = 1 << 23  # of a parallel read
CHUNK_BYTES = 1 << 24  # of an upload
PARTS_AT_ONCE = 8  # of a download: 64 MiB in memory
READ_TRIES = 3  # of an object that others write
AT_ONCE = 64  # ranges that are read at a time
_ADDRESS = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])(/.*)?", re.DOTALL)
_FIELDS = "name,size,generation,crc32c,updated"


@dataclasses.dataclass(frozen=True)
class Entry:
    """An object. modified: seconds since 1970; age: seconds from then to the answer, no part of what the object is. Both by the
    server's clock."""

    name: str
    size: int
    generation: int
    crc32c: str
    modified: float
    age: float = dataclasses.field(default=0.0, compare=False)


def is_address(path: str | os.PathLike) -> bool:
    """Whether `path` begins with gs://."""
    return os.fspath(path).startswith(SCHEME)


def split(path: str | os.PathLike) -> tuple[str, str]:
    """(bucket, name) of an object or a folder. OSError: it is no such address."""
    found = _ADDRESS.fullmatch(os.fspath(path))
    if not found:
        raise OSError(errno.EINVAL, "is no address of the form gs://BUCKET/FOLDER", os.fspath(path))
    return found[1], (found[2] or "").strip("/")


def stat(path: str | os.PathLike) -> Entry:
    """What is known of an object. FileNotFoundError: there is none."""
    headers, content = call(path, "GET", "b/{}/o/{}", *split(path), fields=_FIELDS)
    return _entry(json.loads(content), headers)


def children(path: str | os.PathLike) -> tuple[list[str], list[Entry]]:
    """The names of the folders, and the objects, right below `path`, each sorted; the entries have plain names."""
    bucket, folder = split(path)
    prefix = f"{folder}/" if folder else ""
    folders, entries, token = [], [], None
    while True:
        headers, content = call(path, "GET", "b/{}/o", bucket, prefix=prefix, delimiter="/", pageToken=token,
                                 fields=f"prefixes,items({_FIELDS}),nextPageToken")
        page = json.loads(content)
        folders += [name[len(prefix):].rstrip("/") for name in page.get("prefixes", ())]
        entries += [dataclasses.replace(_entry(item, headers), name=item["name"][len(prefix):])
                    for item in page.get("items", ()) if item["name"] != prefix]
        token = page.get("nextPageToken")
        if not token:
            return sorted(folders), sorted(entries, key=lambda entry: entry.name)


def read(path: str | os.PathLike) -> bytes:
    """The content of an object, held against the server's checksum."""
    for _ in range(READ_TRIES):
        entry = stat(path)
        parts = range(0, entry.size, PART_BYTES)
        content = b"".join(read_ranges([(path, start, min(start + PART_BYTES, entry.size)) for start in parts]))
        if not entry.crc32c or crc32c(content) == entry.crc32c:
            return content
    raise OSError(errno.EIO, "is changed while it is read", os.fspath(path))


def read_ranges(ranges: list[tuple[str | os.PathLike, int, int]]) -> list[bytes]:
    """Bytes start to end - 1 of each (path, start, end), many at a time; fewer where an object ends before."""
    parts = []
    for first in range(0, len(ranges), AT_ONCE):
        some = ranges[first:first + AT_ONCE]
        names = ["/".join(split(path)) for path, _, _ in some]
        with explained(some[0][0]):
            found = client().cat_ranges(names, [start for _, start, _ in some], [end for _, _, end in some],
                                         timeout=RANGES_SECS)
        for (path, start, end), part in zip(some, found):
            if isinstance(part, BaseException):
                if getattr(part, "code", None) == 416:
                    part = b""  # begins where the object has ended
                else:
                    with explained(path):
                        raise part
            parts.append(part[:end - start])
    return parts


def write(path: str | os.PathLike, content: bytes, *, generation: int | None = None) -> Entry:
    """Makes `content` the object's. generation: which it must have now (0: none), else FileExistsError.

    The server refuses what does not arrive as it was sent.
    """
    bucket, name = split(path)
    checksum = crc32c(content)
    about = json.dumps({"name": name, "crc32c": checksum})
    body = (b"--==0==\nContent-Type: application/json; charset=UTF-8\n\n" + about.encode()
            + b"\n--==0==\nContent-Type: application/octet-stream\n\n" + content + b"\n--==0==--")
    try:
        headers, answer = call(path, "POST", _upload_url(), bucket, uploadType="multipart", ifGenerationMatch=generation,
                                headers={"Content-Type": 'multipart/related; boundary="==0=="'}, data=body)
    except FileExistsError:
        return _already(path, checksum)
    return _entry(json.loads(answer), headers)


def download(path: str | os.PathLike, file: str | os.PathLike) -> None:
    """Makes the object's content a local file's, held against the server's checksum."""
    entry = stat(path)
    with open(file, "wb") as to:
        for first in range(0, entry.size, PARTS_AT_ONCE * PART_BYTES):
            end = min(first + PARTS_AT_ONCE * PART_BYTES, entry.size)
            to.writelines(read_ranges([(path, start, min(start + PART_BYTES, end))
                                       for start in range(first, end, PART_BYTES)]))
    if entry.crc32c and file_crc32c(file) != entry.crc32c:
        raise OSError(errno.EIO, "is changed while it is read", os.fspath(path))


def upload(file: str | os.PathLike, path: str | os.PathLike, checksum: str, *, generation: int | None = None) -> Entry:
    """Makes the local file the object's content, in parts. The server refuses it if its crc32c is not `checksum`.

    generation: as of `write`.
    """
    size = os.path.getsize(file)
    if size <= CHUNK_BYTES:
        with open(file, "rb") as source:
            entry = write(path, source.read(), generation=generation)
    else:
        bucket, name = split(path)
        headers, _ = call(path, "POST", _upload_url(), bucket, uploadType="resumable", name=name,
                           ifGenerationMatch=generation, headers={"X-Upload-Content-Length": str(size), "Content-Type": "application/json"}, data=json.dumps({"crc32c": checksum}).encode())
        place = headers["Location"]
        with open(file, "rb") as source:
            for start in range(0, size, CHUNK_BYTES):
                chunk = source.read(CHUNK_BYTES)
                said = {"Content-Range": f"bytes {start}-{start + len(chunk) - 1}/{size}"}
                headers, answer = call(path, "PUT", place, headers=said, data=chunk)
        entry = _entry(json.loads(answer), headers)
    if (entry.size, entry.crc32c) != (size, checksum):
        raise OSError(errno.EIO, f"arrived as {entry.size} bytes with crc32c {entry.crc32c}, sent were {size} with "
                      f"{checksum}", os.fspath(path))
    return entry


def append(path: str | os.PathLike, content: bytes, *, generation: int) -> Entry:
    """Joins `content` to the end of the object of this generation, in one step, without reading it."""
    bucket, name = split(path)
    tail = f"{os.fspath(path)}.tail"
    more = write(tail, content)
    about = {"sourceObjects": [{"name": name, "generation": str(generation)},
                               {"name": split(tail)[1], "generation": str(more.generation)}],
             "destination": {"contentType": "application/octet-stream"}}
    headers, answer = call(path, "POST", "b/{}/o/{}/compose", bucket, name, ifGenerationMatch=generation,
                            headers={"Content-Type": "application/json"}, data=json.dumps(about).encode())
    delete(tail)
    return _entry(json.loads(answer), headers)


def copy(path: str | os.PathLike, to: str | os.PathLike) -> None:
    """Copies an object, on the server."""
    token = None
    while True:
        _, answer = call(path, "POST", "b/{}/o/{}/rewriteTo/b/{}/o/{}", *split(path), *split(to), rewriteToken=token)
        answer = json.loads(answer)
        if answer["done"]:
            return
        token = answer["rewriteToken"]


def delete(path: str | os.PathLike, *, generation: int | None = None) -> bool:
    """Deletes an object, if it has this generation; whether there was one."""
    try:
        call(path, "DELETE", "b/{}/o/{}", *split(path), ifGenerationMatch=generation)
        return True
    except FileNotFoundError:
        return False


def check(path: str | os.PathLike, *, write: bool) -> None:
    """OSError, within CHECK_SECS, unless `path` lies in a bucket that can be read and, with `write`, written."""
    bucket, name = split(path)
    call(path, "GET", "b/{}/o", bucket, prefix=f"{name}/", maxResults=1, fields="items(name)", timeout=CHECK_SECS)
    if write:
        # Begins an upload and gives it up: asks for the permission, and leaves nothing.
        headers, _ = call(path, "POST", _upload_url(), bucket, uploadType="resumable", name=f"{name}/.check",
                           headers={"Content-Type": "application/json"}, data=b"{}", timeout=CHECK_SECS)
        call(path, "DELETE", headers["Location"], timeout=CHECK_SECS)


def crc32c(content: bytes) -> str:
    """The checksum of `content` as the server writes it."""
    return base64.b64encode(google_crc32c.Checksum(content).digest()).decode()


def file_crc32c(path: str | os.PathLike) -> str:
    """`crc32c` of a local file."""
    found = google_crc32c.Checksum()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            found.update(part)
    return base64.b64encode(found.digest()).decode()


def _upload_url() -> str:
    return f"{client()._location}/upload/storage/v1/b/{{}}/o"


def _already(path: str | os.PathLike, checksum: str) -> Entry:
    """The object that is there, if it is the one that was sent: the answer to the first try got lost."""
    try:
        entry = stat(path)
    except FileNotFoundError:
        entry = None
    if entry is None or entry.crc32c != checksum:
        raise FileExistsError(errno.EEXIST, "was written by another process", os.fspath(path))
    return entry


def _entry(item: dict, headers) -> Entry:
    modified = datetime.datetime.fromisoformat(item["updated"]).timestamp()
    now = email.utils.parsedate_to_datetime(headers["Date"]).timestamp() if "Date" in headers else modified
    return Entry(item["name"], int(item["size"]), int(item["generation"]), item.get("crc32c") or "", modified,
                 max(0.0, now - modified))
