"""Saving and restoring: the variables of a run as whole-or-absent checkpoints, written beside training.

A save copies the variables into a shadow between two steps (milliseconds); a thread writes the shadow under a temporary
name, flushes it to the disk, renames it into place, and renames the manifest last (see trainer.manifest).

    keeper = Checkpointer(folder, state.variables(), keep=5, protected=lambda steps: set())
    keeper.save(1000); ...; keeper.wait()
    restore(folder, step, state.variables())
"""
import contextlib
import json
import pathlib
import re
import shutil
import tempfile
import threading

import numpy as np
import tensorflow as tf

from input_pipeline import bucket
from trainer.config import UserError
from trainer.files import Unreachable, cannot_write, sync, writing
from trainer.manifest import damage, delete, files_of, manifest_of, prefix, present, published, sha256, signature
from trainer.places import Address, place

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"  # of the name that TensorFlow gives a variable in a checkpoint
UNREADABLE = (tf.errors.OpError, IndexError, ValueError)  # what TensorFlow raises for a checkpoint that is none


class NotFinite(UserError):
    """The values to save are not finite: the run diverged."""

    exit_code = 3


def restore(folder: pathlib.Path, step: int, variables: dict) -> None:
    """Reads a whole checkpoint into `variables`, all of them. UserError if it is not of this network and optimizer."""
    with _here(folder, step) as path:
        _restore(prefix(folder, step), path, variables)


def _restore(name, path: str, variables: dict) -> None:
    """`restore` of a checkpoint that lies at the prefix `path`, and is called `name`."""
    try:
        contents = _contents(tf.train.load_checkpoint(path))
    except UNREADABLE as error:
        raise UserError(f"checkpoint {name} cannot be read: {error}; give another --model_dir") from error
    there = {name: tuple(shape) for name, shape in contents.items()}
    wanted = {(group, name): tuple(v.shape) for group, part in variables.items() for name, v in part.items()}
    if there != wanted:
        differing = sorted(name for name in there.keys() | wanted.keys() if there.get(name) != wanted.get(name))
        first = differing[0]
        raise UserError(f"checkpoint {name} does not fit this run: {'/'.join(first)} is "
                        f"{there.get(first, 'absent')} there and {wanted.get(first, 'absent')} here "
                        f"({len(differing)} differ); give another --model_dir")
    _trackable(variables).read(path).assert_consumed()


def tensors(folder: pathlib.Path, step: int) -> dict[str, dict]:
    """A checkpoint's tensors by group and path, as restore takes them, as NumPy arrays."""
    with _here(folder, step) as path:
        reader = tf.train.load_checkpoint(path)
        found: dict[str, dict] = {}
        for group, name in _contents(reader):
            found.setdefault(group, {})[name] = reader.get_tensor(f"{group}/{_escape(name)}{SUFFIX}")
        return found


@contextlib.contextmanager
def _here(folder, step: int):
    """The prefix of a checkpoint on this machine: itself, or of one at gs:// a copy for as long as it is needed."""
    path = prefix(folder, step)
    if not isinstance(path, Address):
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix="lockstep-") as work:
        for file in files_of(folder, step):
            try:
                bucket.download(file, pathlib.Path(work, file.name))
            except OSError as error:
                raise Unreachable(file, "read", error) from error
        yield str(pathlib.Path(work, path.name))


class Checkpointer:
    """Saves, publishes and retires the checkpoints of one run.

    keep: newest whole checkpoints that are kept. protected(steps): which other steps must stay. before(): called in the saving
    thread before anything is published. UserError if `folder` cannot be written.
    """

    def __init__(self, folder: pathlib.Path, variables: dict, *, keep: int, protected, before=lambda: None):
        self.folder, self.keep, self.protected, self._before = place(folder), keep, protected, before
        with writing(self.folder), _workplace(self.folder):  # now, not at the first save: can anything be written here at all?
            pass
        self._live = [v for part in variables.values() for v in part.values()]
        with tf.device("cpu:0"):
            shadows = {group: {name: tf.Variable(tf.zeros(v.shape, v.dtype), name=name) for name, v in part.items()}
                       for group, part in variables.items()}
        self._shadow = {f"{group}/{name}": v for group, part in shadows.items() for name, v in part.items()}
        self._checkpoint = _trackable(shadows)
        self._thread, self._error = None, None
        self._whole = {}  # the signatures of checkpoints that were whole when they were last read, by step
        self.last_saved = max(published(self.folder), default=None)

    def _copy(self) -> None:
        # No tf.function: for 1,700 variables tracing one takes 7 s, and copying them without one 0.3 s.
        for shadow, variable in zip(self._shadow.values(), self._live):
            shadow.assign(variable.read_value())

    def save(self, step: int, *, still=lambda: True) -> bool:
        """Copies the variables now and publishes them in the background, once the last save is done.

        still(): asked after the copy; if the variables did not stand still meanwhile, nothing is published. Returns
        whether it was. Raises what the last save raised.
        """
        self.wait()
        self._copy()
        if not still():
            return False
        self._thread = threading.Thread(target=self._write, args=(step,), name=f"save {step}")
        self._thread.start()
        self.last_saved = step
        return True

    def wait(self) -> None:
        """Returns when the last save is published. Raises what it raised: UserError if the disk is full, say, NotFinite
        if a value is not."""
        if self._thread:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error:
            raise error

    def _write(self, step: int) -> None:
        try:
            self._check_finite(step)
            self._before()
            publish(self.folder, step, self._checkpoint)
            with writing(self.folder):
                self._whole[step] = signature(self.folder, step)
                self._retire()
        except Exception as error:  # handed over to the loop by wait()
            self._error = error

    def _check_finite(self, step: int) -> None:
        """NotFinite for the first variable that is not: who resumed from it would never train again."""
        for name, variable in self._shadow.items():
            if not variable.dtype.is_floating:
                continue
            finite = np.isfinite(variable.numpy())
            if not finite.all():
                last = max(published(self.folder), default=None)
                raise NotFinite(
                    f"diverged at step {step}: {finite.size - np.count_nonzero(finite)} of {finite.size} values of {name} "
                    "are not finite, so it is not saved. "
                    + (f"Checkpoint {last} is the last good one" if last is not None else "There is no checkpoint yet")
                    + "; lower --learning_rate, or give --clip_norm")

    def _retire(self) -> None:
        """Deletes what is beyond `keep`. A damaged checkpoint takes nobody's place."""
        there = present(self.folder)
        whole = []
        for step in sorted(there, reverse=True):
            if len(whole) < self.keep and self._is_whole(step):
                whole.append(step)
        if len(whole) < self.keep:
            return
        old = [step for step in published(self.folder) if step < whole[-1]]
        stay = self.protected(old) if old else ()
        for step in there:
            if step < whole[-1] and step not in stay:
                delete(self.folder, step)
                self._whole.pop(step, None)

    def _is_whole(self, step: int) -> bool:
        """Whether the checkpoint is published and whole. It is read only if its files changed since they last were."""
        try:
            now = signature(self.folder, step)
        except OSError:
            return False
        if self._whole.get(step) != now:
            if damage(self.folder, step):
                return False
            self._whole[step] = now
        return True


def publish(folder: pathlib.Path, step: int, checkpoint: tf.train.Checkpoint) -> None:
    """Writes `checkpoint` under a temporary name, flushes it, renames it into place, the manifest last.

    UserError if that cannot be done; what it has written is then gone again, so that there is as much room as before.
    """
    folder = place(folder)
    try:
        with writing(prefix(folder, step)), _workplace(folder) as work:
            _publish(folder, work, step, checkpoint)
    except (UserError, tf.errors.OpError) as error:
        with contextlib.suppress(OSError):  # of a disk that fails altogether
            with _workplace(folder):
                pass
            if not manifest_of(folder, step).exists():
                for path in files_of(folder, step):
                    path.unlink(missing_ok=True)
        raise error if isinstance(error, UserError) else cannot_write(prefix(folder, step), error.message) from error


def _publish(folder: pathlib.Path, work: pathlib.Path, step: int, checkpoint: tf.train.Checkpoint) -> None:
    checkpoint.write(str(work / prefix(folder, step).name))
    files = {}
    for path in files_of(work, step):
        sync(path)
        files[path.name] = {"size": path.stat().st_size, "sha256": sha256(path)}
        if isinstance(folder, Address):
            files[path.name]["crc32c"] = bucket.file_crc32c(path)
    for path in files_of(work, step):
        _move(path, folder / path.name, files[path.name].get("crc32c"))
    sync(folder)
    manifest = manifest_of(work, step)
    manifest.write_text(json.dumps({"step": step, "files": files}, indent=1) + "\n")
    sync(manifest)
    _move(manifest, folder / manifest.name)
    sync(folder)


@contextlib.contextmanager
def _workplace(folder):
    """A folder of this machine for a save to work in, without what a killed one left there: `.writing` in a local folder, so
    that a rename publishes; for one at gs:// a temporary folder, whose files are sent."""
    if isinstance(folder, Address):
        with tempfile.TemporaryDirectory(prefix="lockstep-") as work:
            yield pathlib.Path(work)
        return
    work = folder / ".writing"
    if work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True)
    yield work


def _move(path: pathlib.Path, to, crc32c: str | None = None) -> None:
    """Gives a finished file its place, in one step. OSError: it did not arrive as it was."""
    if not isinstance(to, Address):
        path.rename(to)
        return
    # What a kill left there goes first; then only who finds nothing writes: never over another trainer's checkpoint.
    if crc32c:  # no manifest
        with contextlib.suppress(FileNotFoundError):
            bucket.delete(to, generation=bucket.stat(to).generation)
    bucket.upload(path, to, crc32c or bucket.file_crc32c(path), generation=0)


def _trackable(variables: dict) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(**{group: dict(part) for group, part in variables.items()})


def _contents(reader) -> dict[tuple[str, str], list[int]]:
    """The shapes of a checkpoint's tensors by (group, path)."""
    shapes = {name.removesuffix(SUFFIX): shape for name, shape in reader.get_variable_to_shape_map().items()
              if name.endswith(SUFFIX)}
    return {(group, re.sub(r"\.([.S])", lambda match: "/" if match[1] == "S" else ".", path)): shape
            for (group, path), shape in ((name.split("/", 1), shape) for name, shape in shapes.items())}


def _escape(name: str) -> str:
    """TensorFlow writes the slashes of a dictionary's keys as .S (and dots as ..)."""
    return name.replace(".", "..").replace("/", ".S")
