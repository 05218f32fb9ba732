"""First weights of a network from elsewhere, and which of its layers learn when.

    transfer.check(config)                   # plain Python: the file is there, or can be got
    transfer.fetch(config, shape)            # gets it
    transfer.prepare(config, model)          # freezes what does not learn
    said = transfer.load(config, model)      # assigns the weights

`--freeze` trains the head alone. From `--unfreeze_steps` on all layers learn but batch normalisation, whose statistics a
few small batches would spoil (the guide "Transfer learning & fine-tuning" of Keras does the same).
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import typing

from input_pipeline import bucket, storage
from input_pipeline.rules import shown
from trainer import files
from trainer.config import Config, UserError

if typing.TYPE_CHECKING:
    import keras

IMAGENET = "imagenet"
ENDINGS = (".h5", ".npz")
FOLDER = "weights"  # in --data_dir


def check(config: Config) -> None:
    """UserError unless --pretrained_weights names a file that is there, or weights that can be downloaded."""
    text = config.pretrained_weights
    if not text:
        return
    said = f"--pretrained_weights={shown(text)}"
    if text != IMAGENET:
        files.check(text, "pretrained_weights")
        if not storage.is_file(text):
            raise UserError(f"{said} must be a file ({', '.join(ENDINGS)}) or {IMAGENET}; there is none")
        if not text.endswith(ENDINGS):
            raise UserError(f"{said} must end in {' or '.join(ENDINGS)}; give such a file")
        return
    if not config.model.startswith("applications/"):
        raise UserError(f"{said} with --model={config.model}: ImageNet weights are for a network of applications/; give a "
                        "file, or such a --model")
    remote = bucket.is_address(config.data_dir)
    if (not config.download or remote) and find(config) is None:
        raise UserError(f"{said}: {shown(os.path.join(config.data_dir, FOLDER))} has no file of {config.model}'s weights; "
                        f"{'' if remote else 'give --download, or '}put it there")


def fetch(config: Config, shape: tuple[int, ...]) -> None:
    """Downloads the network's weights of ImageNet, for images of `shape`, into --data_dir, whole or absent, if they are not there.

    By Keras, in a process and a folder of its own: Keras takes what a kill left of a file for the file. A second process that
    fetches the same waits for the first. ValueError: it failed, in words. OSError: the disk.
    """
    if config.pretrained_weights != IMAGENET or find(config):
        return
    from input_pipeline import download
    from input_pipeline.progress import Progress
    folder = pathlib.Path(config.data_dir, FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    with download.locked(folder / ".lock", Progress(sys.stderr)):
        if find(config):  # the other one did
            return
        for left in folder.glob(".download-*"):  # of a process that died
            shutil.rmtree(left, ignore_errors=True)
        work = folder / f".download-{os.getpid()}"  # its own: a child may outlive its parent
        work.mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "models.imagenet", config.model.removeprefix("applications/"),
             "top" if config.top == "own" else "notop", *map(str, shape)], stdout=sys.stderr, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "KERAS_HOME": str(work), "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"})
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            reason = lines[-1] if done.returncode > 0 else f"ended by signal {-done.returncode}"
            raise ValueError(f"the weights of --model={config.model}: {shown(reason)}; see to that, or put the file into {folder}")
        (file,) = (work / "models").iterdir()
        files.sync(file)
        path = file.rename(folder / file.name)
        files.sync(folder)
        shutil.rmtree(work)
    if not find(config):
        raise ValueError(f"{path} is not taken for weights of --model={config.model} by its name; give --pretrained_weights={path}")


def find(config: Config) -> str | None:
    """The file of the network's ImageNet weights in --data_dir, by the name that Keras or keras.io gives it."""
    folder = os.path.join(config.data_dir, FOLDER)
    name = config.model.removeprefix("applications/")
    own = config.top == "own"
    try:
        names = storage.listing(folder)
    except OSError:
        return None
    for file in names:
        plain = _plain(file).removeprefix("weights")
        if file.endswith(ENDINGS) and re.match(rf"{_plain(name)}(?!v[0-9])", plain) and ("notop" in plain) != own:
            return os.path.join(folder, file)
    return None


def _plain(name: str) -> str:
    """"MobileNet-V3_small" as "mobilenetv3small"."""
    return re.sub("[-_]", "", name.lower())


def prepare(config: Config, model: "keras.Model") -> None:
    """Marks the layers of `model` that never learn as such."""
    from models import pretrained
    if config.freeze:
        (pretrained.unfreeze if config.unfreeze_steps else pretrained.freeze)(model)


def stages(config: Config) -> str:
    """A line on which layers learn when; "" where all always do."""
    until, end = config.unfreeze_steps, config.train_steps
    if not config.freeze or not until:
        return "the head alone learns" * config.freeze
    return (f"the head alone learns until step {until}, then all layers" if until < end else
            f"the head alone learns: the run ends at step {end}, before step {until}, from which all layers would")


def head_variables(model: "keras.Model") -> list["keras.Variable"]:
    """The variables that learn while the rest is frozen."""
    from models import pretrained
    return pretrained.head(model).trainable_variables


def load(config: Config, model: "keras.Model") -> str:
    """Assigns --pretrained_weights to `model`; says what came from where. UserError where they do not fit."""
    from models import pretrained
    path = find(config) if config.pretrained_weights == IMAGENET else config.pretrained_weights
    if path is None:
        raise UserError(f"--pretrained_weights={IMAGENET}: the file in {shown(os.path.join(config.data_dir, FOLDER))} is gone; "
                        "put it there again")
    try:
        with storage.local_copy(path) as copy:
            return f"weights of {path}: {pretrained.load(model, copy)}"
    except Exception as error:  # Keras raises many kinds
        raise UserError(f"--pretrained_weights={shown(config.pretrained_weights)}: {error}") from error
