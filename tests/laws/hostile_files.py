"""Gives hostile files to every flag that reads a file, in one process, and says what came of it.

    python -m tests.laws.hostile_files FOLDER

Prints a JSON object: of every case its name, exit code, standard error, what it raised and its seconds; and the
process's largest memory. FOLDER/ran is made by whatever runs what a file holds.
"""
import contextlib
import importlib
import io
import json
import os
import pathlib
import pickle
import resource
import signal
import sys
import time
import zipfile

import numpy as np

SECONDS = 60  # of a case: only a reader that waits for ever takes as long


class Late(BaseException):
    """A case has not ended. No OSError, as a TimeoutError is: a command would make a line of that."""


class Runs:
    """Unpickled, it runs a command."""

    def __init__(self, marker: pathlib.Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def corpus(folder: pathlib.Path, marker: pathlib.Path) -> dict[str, pathlib.Path]:
    """The hostile files by kind, in `folder`."""
    def made(name: str, content: bytes) -> None:
        files[name] = folder / name
        files[name].write_bytes(content)

    files: dict[str, pathlib.Path] = {}
    folder.mkdir()
    running = pickle.dumps(Runs(marker))
    made("empty", b"")
    made("noise", np.random.default_rng(0).bytes(3000))
    made("pickle", running)
    made("nested.json", b"[" * 100_000)
    made("long.json", b'{"a": "' + b"x" * 3_000_000 + b'"}')
    objects = np.array([Runs(marker)], dtype=object)
    np.save(folder / "objects.npy", objects, allow_pickle=True)
    np.savez(folder / "objects.npz", objects)
    files |= {name: folder / name for name in ("objects.npy", "objects.npz")}
    for name in ("model.keras", "bomb.npz"):
        files[name] = folder / name
    with zipfile.ZipFile(files["model.keras"], "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Lambda", "config": {"function": running.hex()}}))
        archive.writestr("../escaped", b"x")
    with zipfile.ZipFile(files["bomb.npz"], "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("layer/kernel.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (1 << 32,)})
            for _ in range(300):
                member.write(bytes(1 << 20))
    files["endless"] = folder / "endless"
    with open(files["endless"], "wb") as file:
        file.truncate(1 << 40)
    files["pipe"] = folder / "pipe"
    os.mkfifo(files["pipe"])
    files["device"] = folder / "device"
    files["device"].symlink_to("/dev/zero")
    files["circle"] = folder / "circle"
    files["circle"].symlink_to(files["circle"])
    files["folder"] = folder / "folder"
    files["folder"].mkdir()
    return files


# Where a file is read: name, command, where the file is put in a folder {at} of its own, arguments; {file} is the first of them.
FLAGS = {
    "pretrained_weights .npz": ("trainer.main", ["w.npz"], ["--dataset=synthetic", "--pretrained_weights={file}"]),
    "pretrained_weights .h5": ("trainer.main", ["w.h5"], ["--dataset=synthetic", "--pretrained_weights={file}"]),
    "init_from": ("trainer.main", ["run/checkpoints/ckpt-00000001.json"], ["--init_from={at}/run"]),
    "init_from prefix": ("trainer.main", ["ckpt-00000001.index"], ["--init_from={at}/ckpt-00000001"]),
    "config.json": ("trainer.main", ["m/config.json"], ["--model_dir={at}/m"]),
    "config.json, evaluator": ("trainer.evaluator", ["m/config.json"], ["--model_dir={at}/m", "--run_once"]),
    "config.json, export": ("trainer.export", ["m/config.json"], ["--model_dir={at}/m", "--output={at}/out"]),
    "flagfile": ("trainer.main", ["f"], ["--flagfile={file}", "--seed=-1"]),
    "cifar10": ("trainer.main", ["cifar-10-batches-bin/data_batch_1.bin"], ["--recipe=cifar10_tutorial", "--data_dir={at}"]),
    "mnist": ("trainer.main", [f"mnist/{name}-ubyte.gz" for name in (
        "train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")],
        ["--recipe=mnist_lenet5", "--data_dir={at}"]),
    "co2": ("trainer.main", ["co2/co2-mm-mlo.csv"], ["--recipe=co2_forecast", "--data_dir={at}"]),
    "tfrecord": ("trainer.main", ["dataset.json"], ["--dataset=tfrecord", "--data_dir={at}"]),
    "tfrecord shard": ("trainer.main", ["train-00000-of-00001.tfrecord"], ["--dataset=tfrecord", "--data_dir={at}"]),
    "prepare": ("input_pipeline.prepare", [f"photos/{name}/{k}.jpg" for name in "ab" for k in range(8)],
                ["--dataset=image_folder", "--from={at}/photos", "--output={at}/out", "--image_size=32"]),
    "flagfile, prepare": ("input_pipeline.prepare", ["f"], ["--flagfile={file}"]),
    "predict, config.json": ("trainer.predict", ["m/config.json"], ["--model_dir={at}/m", "x.png"]),
}


def put(file: pathlib.Path, path: pathlib.Path) -> None:
    """The file itself, not a link to it: some readers leave out links that lead out of their folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if file.is_dir():
        path.mkdir()
    else:
        os.link(file, path, follow_symlinks=False)  # so the 1 TB file costs nothing


def outcome(command: str, arguments: list[str]) -> dict:
    """Runs a command in this process."""
    def late(*_):
        raise Late(f"no end after {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    out, err, code, raised = io.StringIO(), io.StringIO(), None, None
    begun = time.perf_counter()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = importlib.import_module(command).main([command, *arguments])
        except SystemExit as error:
            code = error.code
        except BaseException as error:
            raised = f"{type(error).__name__}: {error}"
    signal.alarm(0)
    return {"code": code, "err": err.getvalue(), "raised": raised, "seconds": time.perf_counter() - begun}


def main(folder: pathlib.Path) -> None:
    """Every file at every flag."""
    files, found = corpus(folder / "corpus", folder / "ran"), {}
    importlib.import_module("trainer.train")  # TensorFlow takes its time, which is no case's
    os.chdir(folder)
    for flag, (command, places, arguments) in FLAGS.items():
        for kind, file in files.items():
            at = folder / "at" / f"{flag} {kind}".replace("/", " ")
            for place in places:
                put(file, at / place)
            given = [argument.format(at=at, file=at / places[0]) for argument in arguments]
            if command == "trainer.main" and not given[0].startswith("--model_dir"):
                given += [f"--model_dir={at}/model", "--train_steps=1", "--progress=none"]
            found[f"{flag}: {kind}"] = outcome(command, given)
    print(json.dumps({"cases": found, "kilobytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
    main(pathlib.Path(sys.argv[1]).absolute())
