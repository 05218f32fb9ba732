"""Published checkpoints as files: which there are, whether they are whole, how one goes. Without TensorFlow.

    checkpoints/ckpt-00001000.data-00000-of-00001, .index    a TensorFlow checkpoint
    checkpoints/ckpt-00001000.json                           its manifest: step, sha256 and size of both

The manifest is written last, by rename: no manifest, no checkpoint.

    step, notes = manifest.newest_whole(folder)
"""
import contextlib
import hashlib
import json
import os
import pathlib
import re

from trainer.config import UserError

MANIFEST = re.compile(r"ckpt-(\d{8,})\.json")


def prefix(folder: pathlib.Path, step: int) -> pathlib.Path:
    """The TensorFlow checkpoint prefix of `step`."""
    return pathlib.Path(folder) / f"ckpt-{step:08d}"


def published(folder: pathlib.Path) -> list[int]:
    """The steps that have a manifest, ascending."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(int(match[1]) for match in map(MANIFEST.fullmatch, names) if match)


def damage(folder: pathlib.Path, step: int) -> str:
    """What is wrong with the published checkpoint of `step`; "" if it is whole."""
    manifest = prefix(folder, step).with_suffix(".json")
    try:
        entry = json.loads(manifest.read_text())
        files = {name: (facts["size"], facts["sha256"]) for name, facts in entry["files"].items()}
        if entry["step"] != step or set(files) != {path.name for path in files_of(folder, step)}:
            return f"{manifest.name} belongs to another checkpoint"
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        return f"{manifest.name} cannot be read ({type(error).__name__}: {error})"
    for name, (size, digest) in files.items():
        path = manifest.with_name(name)
        try:
            found = path.stat().st_size
            if found != size:
                return f"{name} has {found} bytes, {size} were written"
            if sha256(path) != digest:
                return f"{name} was changed: its sha256 is not the manifest's"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return ""


def newest_whole(folder: pathlib.Path) -> tuple[int | None, list[str]]:
    """(the newest whole checkpoint's step, what was wrong with newer ones). None: none was ever published.

    UserError if some were published and none is whole: starting afresh would hide the loss.
    """
    notes = []
    for step in reversed(published(folder)):
        wrong = damage(folder, step)
        if not wrong:
            return step, notes
        notes.append(f"checkpoint {step} is damaged: {wrong}")
    if notes:
        raise UserError(f"{folder}: no whole checkpoint is left ({'; '.join(notes)}); nothing was changed. Restore one, "
                        "or start afresh with another --model_dir")
    return None, notes


def set_aside(folder: pathlib.Path, step: int) -> None:
    """Takes a damaged checkpoint out of the published ones: its manifest gets the ending `.damaged`."""
    manifest = prefix(folder, step).with_suffix(".json")
    manifest.rename(manifest.with_name(manifest.name + ".damaged"))
    sync(folder)


def delete(folder: pathlib.Path, step: int) -> None:
    """Retires a checkpoint: the manifest first, so that a kill in between leaves no half of a published one."""
    prefix(folder, step).with_suffix(".json").unlink()
    sync(folder)
    for path in files_of(folder, step):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def sha256(path: pathlib.Path) -> str:
    """The file's digest, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(folder: pathlib.Path, step: int) -> list[pathlib.Path]:
    """The two files that a checkpoint's manifest names."""
    base = prefix(folder, step)
    return [base.with_name(f"{base.name}.data-00000-of-00001"), base.with_name(f"{base.name}.index")]


def sync(path: pathlib.Path) -> None:
    """Flushes a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
