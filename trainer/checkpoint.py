"""Saving and restoring: the variables of a run as whole-or-absent checkpoints, written beside training.

A save copies the variables into a shadow between two steps (milliseconds); a thread writes the shadow under a temporary
name, flushes it to the disk, renames it into place, and renames the manifest last (see trainer.manifest).

    keeper = Checkpointer(folder, state.variables(), keep=5, protected=lambda steps: set())
    keeper.save(1000); ...; keeper.wait()
    restore(folder, step, state.variables())
"""
import json
import pathlib
import re
import shutil
import threading

import tensorflow as tf

from trainer.config import UserError
from trainer.manifest import delete, files_of, prefix, published, sha256, sync

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"  # of the name that TensorFlow gives a variable in a checkpoint


def restore(folder: pathlib.Path, step: int, variables: dict) -> None:
    """Reads a whole checkpoint into `variables`, all of them. UserError if it is not of this network and optimizer."""
    path = str(prefix(folder, step))
    there = {(group, name): tuple(shape) for (group, name), shape in _contents(tf.train.load_checkpoint(path)).items()}
    wanted = {(group, name): tuple(v.shape) for group, part in variables.items() for name, v in part.items()}
    if there != wanted:
        differing = sorted(name for name in there.keys() | wanted.keys() if there.get(name) != wanted.get(name))
        first = differing[0]
        raise UserError(f"checkpoint {path} does not fit this run: {'/'.join(first)} is "
                        f"{there.get(first, 'absent')} there and {wanted.get(first, 'absent')} here "
                        f"({len(differing)} differ); give another --model_dir")
    _trackable(variables).read(path).assert_consumed()


def tensors(folder: pathlib.Path, step: int) -> dict[str, dict]:
    """A checkpoint's tensors by group and path, as restore takes them, as NumPy arrays."""
    reader = tf.train.load_checkpoint(str(prefix(folder, step)))
    found: dict[str, dict] = {}
    for group, name in _contents(reader):
        found.setdefault(group, {})[name] = reader.get_tensor(f"{group}/{_escape(name)}{SUFFIX}")
    return found


class Checkpointer:
    """Saves, publishes and retires the checkpoints of one run.

    keep: newest whole checkpoints that are kept. protected(steps): which other steps must stay.
    """

    def __init__(self, folder: pathlib.Path, variables: dict, *, keep: int, protected):
        self.folder, self.keep, self.protected = pathlib.Path(folder), keep, protected
        self._live = [v for part in variables.values() for v in part.values()]
        with tf.device("cpu:0"):
            shadows = {group: {name: tf.Variable(tf.zeros(v.shape, v.dtype), name=name) for name, v in part.items()}
                       for group, part in variables.items()}
        self._shadow = [v for part in shadows.values() for v in part.values()]
        self._checkpoint = _trackable(shadows)
        self._thread, self._error = None, None
        self.last_saved = max(published(self.folder), default=None)

    @tf.function(autograph=False)
    def _copy(self):
        for shadow, variable in zip(self._shadow, self._live):
            shadow.assign(variable.read_value())

    def save(self, step: int) -> None:
        """Copies the variables now and publishes them in the background, once the last save is done.

        Raises what the last save raised.
        """
        self.wait()
        self._copy()
        self._thread = threading.Thread(target=self._write, args=(step,), name=f"save {step}")
        self._thread.start()
        self.last_saved = step

    def wait(self) -> None:
        """Returns when the last save is published. Raises what it raised."""
        if self._thread:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error:
            raise error

    def _write(self, step: int) -> None:
        try:
            publish(self.folder, step, self._checkpoint)
            self._retire()
        except Exception as error:  # handed over to the loop by wait()
            self._error = error

    def _retire(self) -> None:
        """Deletes what is beyond `keep`. A damaged checkpoint takes nobody's place."""
        steps = published(self.folder)
        if len(steps) <= self.keep:
            return
        whole = []
        for step in reversed(steps):
            if len(whole) == self.keep:
                break
            if self._size_is_right(step):
                whole.append(step)
        if len(whole) < self.keep:
            return
        stay = {*whole, *self.protected([step for step in steps if step < whole[-1]])}
        for step in steps:
            if step < whole[-1] and step not in stay:
                delete(self.folder, step)

    def _size_is_right(self, step: int) -> bool:
        """A quick look, without reading the data again."""
        try:
            files = json.loads(prefix(self.folder, step).with_suffix(".json").read_text())["files"]
            return all((self.folder / name).stat().st_size == facts["size"] for name, facts in files.items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False


def publish(folder: pathlib.Path, step: int, checkpoint: tf.train.Checkpoint) -> None:
    """Writes `checkpoint` under a temporary name, flushes it, renames it into place, the manifest last."""
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / ".writing"
    shutil.rmtree(work, ignore_errors=True)  # of a save that was killed
    work.mkdir()
    checkpoint.write(str(work / prefix(folder, step).name))
    files = {}
    for path in files_of(work, step):
        sync(path)
        files[path.name] = {"size": path.stat().st_size, "sha256": sha256(path)}
    for path in files_of(work, step):
        path.rename(folder / path.name)
    sync(folder)
    manifest = work / f"{prefix(folder, step).name}.json"
    manifest.write_text(json.dumps({"step": step, "files": files}, indent=1) + "\n")
    sync(manifest)
    manifest.rename(folder / manifest.name)
    sync(folder)


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
