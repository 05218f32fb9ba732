"""The export command: `python -m trainer.export --model_dir=M --output=D [--step=N|best|latest]`.

Writes a SavedModel that any program with TensorFlow can serve, with the moving averages of the weights (the
weights themselves where none are kept). Its signature `serving_default` takes one input in the data set's raw
units, any number of rows, and gives one output:

    images [n, height, width, channels] float32 -> probabilities [n, classes] float32

    predict = tf.saved_model.load("D").signatures["serving_default"]
    predict(images=images)["probabilities"]

Beside it lie classes.json, the names of the outputs in order, and config.json, the run's, with an entry
`export` that says which checkpoint this is. The folder appears whole, by one rename, or not at all
(at gs://: its last file is the one without which it cannot be loaded).
"""
from trainer import signals

if __name__ == "__main__":
    signals.install()  # from the first line on, a signal ends the command and leaves nothing behind

import json
import os
import pathlib
import shutil
import sys
import tempfile

from absl import flags

from input_pipeline import bucket, command_line
from input_pipeline.rules import shown
from trainer import files, restored
from trainer.config import UserError
from trainer.places import Address, place

LAST = "saved_model.pb"  # what makes a folder a SavedModel


def define() -> flags.FlagValues:
    """This command's flags."""
    values = flags.FlagValues()
    restored.define(values)
    flags.DEFINE_string("output", None, "the folder to write, which must not exist", flag_values=values)
    return values


def main(argv: list[str]) -> int:
    """Exports as `argv` says. Returns the exit code: 0 or 2."""
    return command_line.run(argv, define(), export, name="export", doc=__doc__)


def export(values: flags.FlagValues, _: list[str]) -> int:
    """Exports as the flags say."""
    output = check_output(values.output)
    found = restored.find(values.model_dir, values.step)
    restored.say("export", found)
    ready = restored.load(found)
    write(ready, output)
    sizes = ", ".join(map(str, found.info.input_shape))
    print(f"exported {ready} to {shown(str(output))}: {ready.task.input_name} [n, {sizes}] float32 in raw units "
          f"-> {ready.task.output_name} [n, {', '.join(map(str, ready.task.output_shape))}] float32")
    return 0


def check_output(text: str | None) -> pathlib.Path:
    """The folder to write. UserError if it exists or cannot be made."""
    if not text:
        raise UserError("--output must name the folder to write, such as --output=exported")
    if bucket.is_address(text):
        files.check(text, "output", write=True)
        if place(text).is_dir():
            raise UserError(f"--output={shown(text)} must not exist, and something lies there; remove it, or give another")
        return place(text)
    if "://" in text:
        raise UserError(f"--output={shown(text)} must be a folder, on this machine or at gs://; copy it there afterwards")
    output = pathlib.Path(os.path.abspath(os.path.expanduser(text)))
    if os.path.lexists(output):
        raise UserError(f"--output={shown(text)} must not exist, {shown(output)} does; remove it, "
                        "or give another")
    above = output.parent
    while not os.path.lexists(above):
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"--output={shown(text)} must lie in a folder that can be written, {shown(above)} is "
                        "none; give another")
    return output


def write(ready: restored.Restored, output: pathlib.Path) -> None:
    """Writes the export under a temporary name beside `output`, flushes it to the disk, and renames it.

    UserError if the disk does not take it. A kill -9 leaves the temporary folder, `.NAME.PID`.

    For one at gs:// the files are sent from a temporary folder, `saved_model.pb` last: without it nothing can be loaded.
    """
    if isinstance(output, Address):
        return _send(ready, output)
    work = output.with_name(f".{output.name}.{os.getpid()}")

    def leave(number: int) -> None:  # in the watching thread
        shutil.rmtree(work, ignore_errors=True)
        signals.leave(number)

    signals.on_signal(leave)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(work, ignore_errors=True)  # of a killed process that had this number
        work.mkdir()
        _fill(ready, work)
        for folder, _, names in os.walk(work, topdown=False):
            for name in names:
                files.sync(pathlib.Path(folder, name))
            files.sync(pathlib.Path(folder))
        if os.path.lexists(output):  # a rename would take the place of an empty folder
            raise UserError(f"--output={shown(output)} was made by someone else meanwhile; give another")
        work.rename(output)
        files.sync(output.parent)
    except OSError as error:
        raise UserError(f"--output={shown(output)} cannot be written: {error.strerror or error}; "
                        "nothing is left there") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)  # nothing, once it was renamed
        signals.on_signal(None)


def _send(ready: restored.Restored, output: Address) -> None:
    with tempfile.TemporaryDirectory(prefix="lockstep-") as work, files.writing(output):
        _fill(ready, pathlib.Path(work))
        paths = [path for path in sorted(pathlib.Path(work).rglob("*")) if path.is_file()]
        for path in sorted(paths, key=lambda path: path.name == LAST):
            bucket.upload(path, output / path.relative_to(work).as_posix(), bucket.file_crc32c(path))


def _fill(ready: restored.Restored, folder: pathlib.Path) -> None:
    """The SavedModel and both JSON files."""
    import tensorflow as tf
    module = tf.Module()
    module.variables_of_network = [variable.value for variable in ready.model.variables]
    try:
        tf.saved_model.save(module, str(folder), signatures={"serving_default": ready.serve})
    except tf.errors.OpError as error:  # a full disk, say
        raise OSError(error.message) from error
    found = ready.found
    recorded = files.read_json(place(found.config.model_dir, "config.json"))
    exported = {"step": found.step, "weights": ready.kind}
    for name, value in {"classes": list(found.classes), "config": {**recorded, "export": exported}}.items():
        (folder / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    code = main(sys.argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
