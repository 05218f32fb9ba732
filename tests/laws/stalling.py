"""The trainer with a place in it that does not go on: what a slow disk, dead storage or a huge network do to it.

    python -m tests.laws.stalling PLACE CALL FOLDER -- <trainer flags>

At call number CALL of PLACE it makes FOLDER/reached and waits for FOLDER/go. PLACE is one of

    read:train, read:test     reading a batch of a split (calls and batches have the same number; of `train`, it waits until
                              all batches before it are used up)
    forward:                  the forward pass of a step, on one replica (calls and steps have the same number)
    flush:TEXT                flushing a file whose path holds TEXT to the disk
    MODULE:NAME               a function of a module, or CLASS.METHOD
"""
import importlib
import os
import pathlib
import runpy
import sys

from tests.laws import runs
from trainer import quiet


class Place:
    """Counts calls; the given one does not go on. meanwhile(): comes back when it may be said that it stands still."""

    def __init__(self, call: int, folder: pathlib.Path):
        self.left, self.folder = call, folder

    def __call__(self, meanwhile=lambda: None) -> None:
        self.left -= 1
        if self.left == 0:
            meanwhile()
            (self.folder / "reached").touch()
            runs.wait_for((self.folder / "go").exists, seconds=600)


def stall(name: str, call: int, folder: pathlib.Path) -> None:
    """Puts the place into the trainer."""
    place = Place(call, folder)
    module, attribute = name.split(":")
    if module == "read":
        _in_reading(attribute, place, call)
    elif module == "forward":
        _in_forward(place)
    elif module == "flush":
        honest = os.fsync

        def flush(descriptor):
            if attribute in os.readlink(f"/proc/self/fd/{descriptor}"):
                place()
            honest(descriptor)

        os.fsync = flush
    else:
        owner = importlib.import_module(module)
        *outer, attribute = attribute.split(".")
        for part in outer:
            owner = getattr(owner, part)
        inner = getattr(owner, attribute)
        setattr(owner, attribute, lambda *arguments, **options: (place(), inner(*arguments, **options))[1])


def _once_there(place: Place, tensor, meanwhile=lambda: None):
    """`tensor`, in a graph, whenever the place has been passed."""
    import tensorflow as tf

    def held():
        place(meanwhile)
        return 0

    with tf.control_dependencies([tf.numpy_function(held, [], tf.int64)]):
        return tf.identity(tensor)


def _in_forward(place: Place) -> None:
    from trainer import backward
    honest = backward.micro_batch

    def slow(forward, task, weights, config, batch, *rest):
        return honest(forward, task, weights, config, {**batch, "input": _once_there(place, batch["input"])}, *rest)

    backward.micro_batch = slow


def _in_reading(split: str, place: Place, call: int) -> None:
    from input_pipeline import datasets
    from trainer import state
    load, made = datasets.load, []

    class State(state.State):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            made.append(self)

    def used_up():
        if split == "train":
            runs.wait_for(lambda: int(made[0].step) >= call - 1)

    def loaded(name, part, *arguments, **options):
        source = load(name, part, *arguments, **options)
        if part == split:
            read = source.read
            source.read = lambda indices: read(_once_there(place, indices, used_up))
        return source

    datasets.load, state.State = loaded, State


if __name__ == "__main__":
    where = sys.argv.index("--")
    place, call, folder = sys.argv[1:where]
    quiet.import_tensorflow(errors=False)
    stall(place, int(call), pathlib.Path(folder))
    sys.argv = ["trainer.main", *sys.argv[where + 1:]]
    runpy.run_module("trainer.main", run_name="__main__")
