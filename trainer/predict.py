"""The prediction command: `python -m trainer.predict --model_dir=M [--step=N|best|latest] FILE...`.

One line of JSON a file on stdout, in the order given; everything else goes to stderr:

    {"file": "7.png", "class": "7", "probability": 0.98, "top": [["7", 0.98], ["1", 0.01], ...]}

Files, which may be at gs://, are PNG, JPEG, BMP, GIF (the first frame) or NumPy's .npy ([h, w] or [h, w, channels]). Their
values are taken as they are, so they must be in the data set's units; size and channels are converted. A network that restores
images gives {"file", "image"}, the numbers [h][w][c]. One that forecasts takes CSV files as `input_pipeline.series`
reads them, goes on from their last months, and gives {"file", "forecast"}. What cannot be read is named on stderr, the
other files are predicted, and the exit code is 2.
"""
from trainer import signals

if __name__ == "__main__":
    signals.install()  # any signal ends it at once: it writes no file

import json
import os
import signal
import sys
from collections.abc import Iterator

import numpy as np
from absl import flags

from input_pipeline import command_line, series
from input_pipeline.rules import one_line
from trainer import image_files, restored
from trainer.config import UserError

BATCH_SIZE = 64  # files in memory at a time


def define() -> flags.FlagValues:
    """This command's flags."""
    values = flags.FlagValues()
    values.set_gnu_getopt(True)  # flags may follow the files
    restored.define(values)
    return values


def main(argv: list[str]) -> int:
    """Predicts as `argv` says. Returns the exit code: 0, or 2 if the command or a file was wrong."""
    return command_line.run(argv, define(), start, name="predict", doc=__doc__, arguments=True)


def start(values: flags.FlagValues, files: list[str]) -> int:
    """Predicts `files` as the flags say."""
    if not files:
        raise UserError("no FILE is given; name the files to predict, such as 7.png")
    found = restored.find(values.model_dir, values.step)
    restored.say("predict", found)
    return predict(found, files)


def predict(found: restored.Found, files: list[str]) -> int:
    """Prints a line for each file. Returns 0, or 2 if there was one that could not be read."""
    unreadable = {path: reason for path in files if (reason := missing(path))}
    for path, reason in unreadable.items():
        complain(path, reason)
    files = [path for path in files if path not in unreadable]
    if not files:
        return 2
    ready = restored.load(found)
    print(f"predict: {ready}", file=sys.stderr, flush=True)
    inputs = Inputs(found.info.input_shape)
    for batch in inputs.batches(files):
        rows = ready.serve(np.stack([values for _, values in batch]))[ready.task.output_name].numpy()
        for (path, _), row in zip(batch, rows, strict=True):
            if np.isfinite(row).all():
                print(json.dumps({"file": path, **ready.task.answer(row, found.classes)}, allow_nan=False))
            else:
                inputs.failed = True
                complain(path, "the network's answer is not finite: the values are too large, "
                         "or the weights broken")
        sys.stdout.flush()
    return 2 if unreadable or inputs.failed else 0


def missing(path: str) -> str:
    """Why `path` cannot be read, as far as that is known without opening it; "" if nothing is wrong."""
    try:
        image_files.check(path)
    except image_files.Unreadable as error:
        return str(error)
    return ""


def complain(path: str, reason: str) -> None:
    """One line on stderr."""
    print(one_line(f"predict: {path!r}: {reason}"), file=sys.stderr, flush=True)


class Inputs:
    """Reads files as what a network takes: images (height, width, channels) or series (past, 1). failed: whether one
    could not be read."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape, self.failed, self._said = shape, False, False
        self._read = image_files.read if len(shape) == 3 else read_series

    def batches(self, files: list[str]) -> Iterator[list[tuple[str, np.ndarray]]]:
        """(file, values) of the files that can be read, at most BATCH_SIZE together."""
        for first in range(0, len(files), BATCH_SIZE):
            batch = []
            for path in files[first:first + BATCH_SIZE]:
                try:
                    values, note = self._read(path, self.shape)
                except image_files.Unreadable as error:
                    self.failed = True
                    complain(path, str(error))
                    continue
                if note and not self._said:
                    self._said = True
                    complain(path, f"{note}, the data set's size; so is every other file of another size")
                batch.append((path, values))
            if batch:
                yield batch


def read_series(path: str, shape: tuple[int, int]) -> tuple[np.ndarray, str]:
    """The last values of a CSV file, float32 of `shape` (past, 1), and no note. Raises image_files.Unreadable."""
    try:
        _, values = series.read_csv(path)
    except (ValueError, OSError) as error:
        raise image_files.Unreadable(str(getattr(error, "strerror", None) or error)) from None
    if len(values) < shape[0]:
        raise image_files.Unreadable(f"has {len(values)} months, the network takes the last {shape[0]}")
    return values[-shape[0]:, np.newaxis].astype(np.float32), ""


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it without a word
    code = main(sys.argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
