"""Writes a set of TFRecord shards: restartable, whole or absent.

Shards grow in `<output>.converting`, and a journal there says which are whole. A killed process leaves that folder;
the next one checks the shards in the journal and goes on with the others. When all are there `dataset.json` is
written, the journal is removed, and one rename makes the folder `<output>`.

    work = shard_writer.Work(name="flowers", classes=..., splits=..., example=..., ...)
    done = shard_writer.write(work, "flowers-tfrecord", shard_bytes=100_000_000)
    done.examples      # {"train": 2937, "validation": 374, "test": 359}
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator

import numpy as np

from input_pipeline import description, images, record_index, shards, storage
from input_pipeline.datasets import SPLITS
from input_pipeline.progress import Progress

_JOURNAL = "journal.json"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """What is to be written. n: number of images."""

    name: str                        # of the data set
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int] | None
    encoding: str | None             # both as in `description`
    names: list[bytes]               # of the images [n], all different; their hash gives the order in a split
    splits: np.ndarray               # uint8 [n], places in SPLITS
    sizes: np.ndarray                # int64 [n], bytes of each record, about
    identity: str                    # of images and options: another one begins anew
    begin: Callable[[], None]        # called before the first example: loads what is needed
    example: Callable[[int], bytes]  # the serialised Example of an image, called in many threads; Unreadable
    path: Callable[[int], str]       # of an image, for messages


@dataclasses.dataclass(frozen=True, kw_only=True)
class Done:
    """What is there now: of dataset.json. was_there: before, too."""

    examples: dict[str, int]
    skipped: tuple[str, ...]
    shards: int
    size: int                        # bytes of all shards
    was_there: bool


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Shard:
    """A shard to be written: its file, its split, its images in order."""

    file: str
    split: str
    images: list[int]


def write(work: Work, output: str, *, shard_bytes: int, skip_broken: bool = False,
          progress: Progress | None = None) -> Done:
    """Makes the folder `output`, with shards of about `shard_bytes`.

    An image that cannot be read is a ValueError that names it; with `skip_broken` a line, and it is left out.
    ValueError too: another set, or anything else, is at `output`. OSError: the disk. A second process that makes the
    same waits for the first.
    """
    output = os.path.realpath(output)  # a link's target is replaced, not the link
    if os.path.ismount(output):
        raise ValueError(f"{output} is a mount point, which nothing can take the place of; name a folder in it, such as "
                         f"{os.path.join(output, 'shards')}")
    staging = output + shards.CONVERTING
    progress = progress or Progress(sys.stderr, unit="images")
    identity = hashlib.sha256(f"{work.identity} {shard_bytes}".encode()).hexdigest()
    done = _there(output, identity)
    if done:
        return done
    with _locked(staging, progress):
        done = _there(output, identity)
        if done:  # another process made it while this one waited
            os.rmdir(staging)
            return done
        if _there(staging, identity, finished=True) is None:
            _fill(work, staging, identity, _plan(work, shard_bytes), skip_broken, progress)
        os.rename(staging, output)
        storage.sync_folder(os.path.dirname(output))
    return dataclasses.replace(_there(output, identity), was_there=False)


def _there(folder: str, identity: str, *, finished: bool = False) -> Done | None:
    """The set in `folder`, None if the folder is absent or empty; with `finished` also if it is not a whole set.

    ValueError: something else is there.
    """
    path = os.path.join(folder, description.FILE)
    if not os.path.lexists(folder) or os.path.isdir(folder) and not os.listdir(folder):
        return None
    if finished and (not os.path.exists(path) or os.path.exists(os.path.join(folder, _JOURNAL))):
        return None
    if not os.path.isfile(path):
        raise ValueError(f"{folder} is there and is no set of shards; move it away, or name a new folder")
    values = description.parse(storage.read_whole(path, description.MAX_BYTES), path)
    if values["identity"] != identity:
        if finished:
            return None
        raise ValueError(f"{folder} was made of other images or with other options; move it away, or name a new folder")
    return Done(examples=values["examples"], skipped=tuple(values["skipped"]), shards=len(values["shards"]),
                size=sum(shard["bytes"] for shard in values["shards"]), was_there=True)


@contextlib.contextmanager
def _locked(staging: str, progress: Progress) -> Iterator[None]:
    """Holds the lock of the folder `staging`, which the system frees when the process ends, however it ends."""
    while True:
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(staging)
            handle = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            if os.path.islink(staging):
                raise
            os.makedirs(os.path.dirname(staging), exist_ok=True)
            continue  # also where another one took it away, which found the set to be there
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress.note(f"another process writes {staging}: waiting for it")
                fcntl.flock(handle, fcntl.LOCK_EX)
            # The one before may have published this very folder under its other name, or taken it away.
            if _is_at(handle, staging):
                yield
                return
        finally:
            os.close(handle)


def _is_at(handle: int, path: str) -> bool:
    """Whether what is open as `handle` is what lies at `path` now."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _plan(work: Work, shard_bytes: int) -> list[_Shard]:
    """The shards: each split's images in the order of their hash, cut into equal parts of about `shard_bytes`."""
    found = []
    ranks = np.array([hashlib.sha256(b"order " + name).digest()[:8] for name in work.names], "S8").view(">u8")
    for place, split in enumerate(SPLITS):
        chosen = np.flatnonzero(work.splits == place)
        if not len(chosen):
            continue
        chosen = chosen[np.argsort(ranks[chosen], kind="stable")]
        before = np.cumsum(work.sizes[chosen]) - work.sizes[chosen]
        total = int(work.sizes[chosen].sum())
        count = min(len(chosen), -(-total // shard_bytes))
        parts = [chosen[before * count // total == number] for number in range(count)]
        parts = [part.tolist() for part in parts if len(part)]  # an image may be larger than a shard
        found += [_Shard(file=f"{split}-{number:05d}-of-{len(parts):05d}.tfrecord", split=split, images=part)
                  for number, part in enumerate(parts)]
    return found


def _fill(work: Work, staging: str, identity: str, plan: list[_Shard], skip_broken: bool, progress: Progress) -> None:
    """Writes all that is not in `staging` yet, dataset.json and then the journal's end last."""
    journal = _resumed(staging, identity, plan, progress)
    _check_space(sum(int(work.sizes[shard.images].sum()) for shard in plan if shard.file not in journal), staging)
    done = sum(len(shard.images) for shard in plan if shard.file in journal)
    if len(journal) < len(plan):
        work.begin()
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for shard in plan:
            if shard.file in journal:
                continue
            journal[shard.file] = _write_shard(work, staging, shard, pool, skip_broken, progress, done)
            done += len(shard.images)
            _publish_journal(staging, identity, journal)
    entries = [journal[shard.file] for shard in plan]
    kept = [entry["shard"] for entry in entries if entry["shard"]["records"]]
    if not any(shard["split"] == "train" for shard in kept):
        raise ValueError(f"{work.name}: no image for training can be read; nothing was published")
    storage.publish(os.path.join(staging, description.FILE), description.encode(
        name=work.name, classes=work.classes, image_shape=work.image_shape, encoding=work.encoding,
        identity=identity, skipped=[name for entry in entries for name in entry["skipped"]], shards=kept))
    os.unlink(os.path.join(staging, _JOURNAL))
    storage.sync_folder(staging)


def _resumed(staging: str, identity: str, plan: list[_Shard], progress: Progress) -> dict[str, dict]:
    """The journal's entries of whole shards, by file. All else in `staging` is removed."""
    journal = {}
    try:
        values = json.loads(storage.read_whole(os.path.join(staging, _JOURNAL), description.MAX_BYTES))
        if values["identity"] == identity:
            journal = values["entries"]
        else:
            progress.note(f"{staging} was begun with other images or options: anew")
    except FileNotFoundError:
        pass  # the first shard was not finished
    journal = {shard.file: journal[shard.file] for shard in plan
               if shard.file in journal and _is_whole(staging, journal[shard.file]["shard"])}
    keep = {_JOURNAL} | {file + suffix for file in journal for suffix in ("", record_index.SUFFIX)}
    for name in set(os.listdir(staging)) - keep:
        os.unlink(os.path.join(staging, name))
    if journal:
        progress.note(f"goes on: {len(journal)} of {len(plan)} shards are there")
    return journal


def _is_whole(staging: str, shard: dict) -> bool:
    if not shard["records"]:
        return True
    path = os.path.join(staging, shard["file"])
    try:
        record_index.load(path + record_index.SUFFIX, storage.status(path))
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == shard["sha256"]
    except (OSError, ValueError):
        return False


def _publish_journal(staging: str, identity: str, journal: dict[str, dict]) -> None:
    storage.sync_folder(staging)
    content = json.dumps({"identity": identity, "entries": journal}).encode()
    storage.publish(os.path.join(staging, _JOURNAL), content)


def _write_shard(work: Work, staging: str, shard: _Shard, pool: concurrent.futures.Executor, skip_broken: bool,
                 progress: Progress, done: int) -> dict:
    """Writes a shard and its index, and returns its entry in the journal."""
    path = os.path.join(staging, shard.file)
    digest, lengths, skipped = hashlib.sha256(), [], []
    with open(path + ".part", "wb") as file:
        for number, (image, example) in enumerate(_ahead(pool, work.example, shard.images), start=1):
            try:
                content = example.result()
                if len(content) > record_index.MAX_RECORD_BYTES:
                    raise images.Unreadable(f"has more than {record_index.MAX_RECORD_BYTES} bytes")
            except images.Unreadable as error:
                if not skip_broken:
                    raise ValueError(f"{work.path(image)}: {error}; mend or remove it, or leave out all such images "
                                     "with --skip_broken") from None
                progress.note(f"left out {work.path(image)}: {error}")
                skipped.append(os.fsdecode(work.names[image]))
                continue
            frame = record_index.framed(content)
            file.write(frame)
            digest.update(frame)
            lengths.append(len(content))
            progress.advance(work.name, done + number, len(work.names))
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    os.rename(path + ".part", path)
    if lengths:
        index = record_index.Index(shard=storage.status(path), lengths=np.array(lengths, np.uint32))
        record_index.save(path + record_index.SUFFIX, index)
    else:
        os.unlink(path)
    return {"skipped": skipped, "shard": {"file": shard.file, "split": shard.split, "records": len(lengths),
                                          "bytes": size, "sha256": digest.hexdigest()}}


def _ahead(pool: concurrent.futures.Executor, function: Callable, items: list[int]) -> Iterator[tuple]:
    """(item, future of function(item)) in order, a few of which the pool works at; none is left running at the end."""
    waiting = collections.deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) > 16:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        for _, future in waiting:
            future.cancel()


def _check_space(needed: int, folder: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"about {needed / 1e6:,.0f} MB are needed, and {free / 1e6:,.0f} MB are free: make "
                      "room or choose another folder", folder)
