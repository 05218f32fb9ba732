"""Published checkpoints as files: which there are, whether they are whole, how one goes. Without TensorFlow.

    checkpoints/ckpt-00001000.data-00000-of-00001, .index    a TensorFlow checkpoint
    checkpoints/ckpt-00001000.json                           its manifest: step, sha256 and size of both
    checkpoints/ckpt-00001000.*.damaged                      set aside: something was wrong with it at a start

The manifest is written last, by rename, or at gs:// by one request: no manifest, no checkpoint. What a kill left without one, and what was set aside,
goes when its step is beyond those that are kept, as any other checkpoint does.

    step, notes = manifest.newest_whole(folder)
"""
import contextlib
import hashlib
import pathlib
import re
import stat

from trainer import files, places
from trainer.config import UserError
from trainer.growing import growing

FILE = re.compile(r"ckpt-([0-9]{8,19})\.(data-00000-of-00001|index|json)(\.damaged)?")
DAMAGED = ".damaged"


def prefix(folder: pathlib.Path, step: int) -> pathlib.Path:
    """The TensorFlow checkpoint prefix of `step`."""
    return places.place(folder) / f"ckpt-{step:08d}"


def manifest_of(folder: pathlib.Path, step: int) -> pathlib.Path:
    """The manifest of the checkpoint of `step`."""
    return prefix(folder, step).with_suffix(".json")


def files_of(folder: pathlib.Path, step: int) -> list[pathlib.Path]:
    """The two files that a checkpoint's manifest names."""
    base = prefix(folder, step)
    return [base.with_name(f"{base.name}.data-00000-of-00001"), base.with_name(f"{base.name}.index")]


def present(folder: pathlib.Path) -> dict[int, list[pathlib.Path]]:
    """Every file of a checkpoint, published, set aside or left by a kill, by step."""
    folder = places.place(folder)
    try:
        names = places.names(folder)
    except FileNotFoundError:
        return {}
    except OSError as error:
        if isinstance(folder, places.Address):
            raise files.Unreachable(folder, "read", error) from None
        raise UserError(f"{folder} cannot be read: {error.strerror}; restore it, or give another --model_dir") from None
    found: dict[int, list[pathlib.Path]] = {}
    for match in filter(None, map(FILE.fullmatch, names)):
        if match[1] == f"{int(match[1]):08d}":
            found.setdefault(int(match[1]), []).append(places.place(folder, match[0]))
    return found


def published(folder: pathlib.Path) -> list[int]:
    """The steps that have a manifest, ascending."""
    return sorted(step for step, paths in present(folder).items() if manifest_of(folder, step) in paths)


def damage(folder: pathlib.Path, step: int) -> str:
    """What is wrong with the published checkpoint of `step`; "" if it is whole."""
    manifest = manifest_of(folder, step)
    try:
        facts = _facts(files.read_json(manifest))
    except FileNotFoundError:
        return f"{manifest.name} is not there"
    except files.Unreachable:
        raise
    except ValueError as error:
        return f"{manifest.name} is no manifest: {error}"
    if facts.pop("step") != step or set(facts) != {path.name for path in files_of(folder, step)}:
        return f"{manifest.name} belongs to another checkpoint"
    for path in files_of(folder, step):
        size, digest, checksum = facts[path.name]
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                return f"{path.name} is not a file"
            if status.st_size != size:
                return f"{path.name} has {status.st_size} bytes, {size} were written"
            if checksum and getattr(status, "crc32c", None):  # of an object, which the server has from its content
                if status.crc32c != checksum:
                    return f"{path.name} was changed: its crc32c is not the manifest's"
            elif sha256(path) != digest:
                return f"{path.name} was changed: its sha256 is not the manifest's"
        except OSError as error:
            if isinstance(path, places.Address) and not isinstance(error, FileNotFoundError):
                raise files.Unreachable(path, "read", error) from None
            return f"{path.name} cannot be read ({error.strerror})"
    return ""


def _facts(entry) -> dict:
    """A manifest's step, and (size, sha256, crc32c of an object) by the names of its files. ValueError: it is none."""
    if not isinstance(entry, dict) or type(entry.get("step")) is not int or not isinstance(entry.get("files"), dict):
        raise ValueError('it has no "step" or no "files"')
    found = {"step": entry["step"]}
    for name, facts in entry["files"].items():
        if not isinstance(facts, dict) or type(facts.get("size")) is not int or type(facts.get("sha256")) is not str:
            raise ValueError(f'{name[:100]!r} has no "size" or no "sha256"')
        found[name] = facts["size"], facts["sha256"], facts.get("crc32c")
    return found


def signature(folder: pathlib.Path, step: int) -> tuple:
    """What changes when somebody writes to a file of the checkpoint. OSError: one is missing."""
    status = [path.stat() for path in (manifest_of(folder, step), *files_of(folder, step))]
    return tuple((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in status)


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
    """Takes a damaged checkpoint out of the published ones: its files get the ending `.damaged`, the manifest first."""
    for path in (manifest_of(folder, step), *files_of(folder, step)):
        with files.writing(path):
            with contextlib.suppress(FileNotFoundError):
                path.rename(path.with_name(path.name + DAMAGED))
            files.sync(folder)


def delete(folder: pathlib.Path, step: int) -> None:
    """Retires a checkpoint: the manifest first, so that a kill in between leaves no half of a published one."""
    manifest_of(folder, step).unlink(missing_ok=True)
    files.sync(folder)
    for path in files_of(folder, step):
        path.unlink(missing_ok=True)
    for path in (manifest_of(folder, step), *files_of(folder, step)):
        path.with_name(path.name + DAMAGED).unlink(missing_ok=True)


def sha256(path: pathlib.Path) -> str:
    """The file's digest, in hexadecimal."""
    with growing(path).open() as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
