"""Gets a data set ready for the trainer: downloads it, or converts it to TFRecord shards; whole or absent.

    python -m input_pipeline.prepare --dataset=cifar10 --output=data
    python -m input_pipeline.prepare --dataset=flowers --from=data --output=flowers-tfrecord
    python -m input_pipeline.prepare --dataset=image_folder --from=photos --output=photos-192 --image_size=192

Without --from it downloads: every file is compared with its published size and sha256, and a killed download goes on
where it was when the same command is given again. LOCKSTEP_MIRROR=URL in the environment takes the files from another
folder (http, https, file).

With --from it converts the data set in that folder: each image is decoded once, so that a broken one is found now, and
the shards are what --dataset=tfrecord --data_dir=OUTPUT reads. A killed conversion goes on with the shards that are
whole when the same command is given again; until it is done they lie in OUTPUT.converting.

Prints what was made, where, how large, and the command that trains on it. Nothing of a command that fails is published.

Exit codes: 0 it is there; 1 the server could not be reached or broke off (the same command goes on);
2 wrong flag, path or data, also an image that cannot be read; 130 and 143 on SIGINT and SIGTERM (the same command goes
on).
"""

import contextlib
import os
import pathlib
import shlex
import signal
import sys

from absl import flags

from input_pipeline import command_line, download
from input_pipeline.rules import one_line, shown

# The recipe that a newcomer would try first on each data set.
_RECIPES = {"cifar10": "cifar10_tutorial", "mnist": "mnist_lenet5", "flowers": "flowers_cnn", "co2": "co2_forecast",
            "image_folder": "flowers_cnn"}
_NOTHING_TO_GET = {"digits": "it ships inside scikit-learn", "synthetic": "it is computed"}
_CONVERTED = ("image_folder", "flowers", "mnist", "cifar10")
_OF_CONVERSIONS = ("image_size", "shard_mb", "skip_broken")


def main(argv: list[str]) -> int:
    """Runs the command `argv` (its first element is the program's name) and returns its exit code."""
    values = _flags()
    if any(argument in command_line.HELP for argument in argv[1:]):
        print(__doc__.strip(), command_line.help_text(values), sep="\n\n")
        return 0
    try:
        command_line.read(argv, values)
        return _convert(values) if values["from"].value is not None else _download(values)
    except ValueError as error:
        return _refuse(error, 2)
    except ConnectionError as error:
        return _refuse(error, 1)
    except OSError as error:
        return _refuse(error, 2)


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()      # of its own: the trainer's flags may be in the same process
    flags.DEFINE_string("dataset", None, f"the data set: {', '.join(download.ARCHIVES)} can be downloaded, "
                        f"{', '.join(_CONVERTED)} converted", flag_values=values)
    flags.DEFINE_string("output", None, "the folder in which the downloaded data set's own folder appears; of a "
                        "conversion the folder of the shards, a new one. Either is the trainer's --data_dir",
                        flag_values=values)
    flags.DEFINE_string("from", None, "convert the data set in this folder: for image_folder the one with a folder of "
                        "images for each class, else the one that holds the data set's own folder", flag_values=values)
    flags.DEFINE_integer("image_size", 0, "of a conversion: store photos as JPEG squares with sides of this many pixels "
                         "(0: the files as they are)", lower_bound=0, upper_bound=4096, flag_values=values)
    flags.DEFINE_integer("shard_mb", 100, "of a conversion: megabytes of a shard, about", lower_bound=1,
                         upper_bound=100_000, flag_values=values)
    flags.DEFINE_bool("skip_broken", False, "of a conversion: name the images that cannot be read and leave them out, "
                      "instead of stopping at the first", flag_values=values)
    return values


def _download(values: flags.FlagValues) -> int:
    for name in _OF_CONVERSIONS:
        if values[name].present:
            raise ValueError(f"--{name} is for conversions; give --from=FOLDER too, or leave it out")
    if values.dataset in _NOTHING_TO_GET:
        print(f"{values.dataset}: nothing to get, {_NOTHING_TO_GET[values.dataset]}")
        return 0
    names = ", ".join(download.ARCHIVES)
    if values.dataset == "image_folder":
        raise ValueError("--dataset=image_folder needs --from=FOLDER, the folder with a folder of images for each "
                         "class")
    _check_dataset(values, names, values.dataset in download.ARCHIVES, "downloaded")
    output = _output(values, "the folder in which the data set's own folder appears, for instance --output=data")
    archive = download.ARCHIVES[values.dataset]
    was_there = download.is_there(archive, output)
    made = download.fetch(archive, output)
    print(_report(archive, made, output, was_there=was_there))
    return 0


def _convert(values: flags.FlagValues) -> int:
    _check_dataset(values, ", ".join(_CONVERTED), values.dataset in _CONVERTED, "converted")
    output = _output(values, "the new folder of the shards, for instance --output=shards")
    source = pathlib.Path(values["from"].value).expanduser()
    if not values["from"].value or not source.is_dir():
        raise ValueError(f"--from={shown(values['from'].value)} is no folder on this machine; name the one that holds the data set")
    from input_pipeline import convert
    done = convert.convert(values.dataset, str(source), str(output), image_size=values.image_size,
                           shard_bytes=values.shard_mb * 1_000_000, skip_broken=values.skip_broken)
    counts = ", ".join(f"{count:,} {split}" for split, count in done.examples.items() if count)
    origin = "was already there" if done.was_there else "every image was decoded once"
    skipped = f", {len(done.skipped):,} broken ones left out" if done.skipped else ""
    print(f"{values.dataset}: {output} ({done.shards:,} shards, {done.size:,} bytes), {counts}{skipped}; {origin}\n"
          f"train on it: {_training(values.dataset, output, '--dataset=tfrecord')}")
    return 0


def _check_dataset(values: flags.FlagValues, names: str, known: bool, what: str) -> None:
    if not values.dataset:
        raise ValueError(f"--dataset must be given, one of {names}")
    if not known:
        raise ValueError(f"--dataset={shown(values.dataset)} cannot be {what}: it must be one of {names}")


def _output(values: flags.FlagValues, what: str) -> pathlib.Path:
    if not values.output:
        raise ValueError(f"--output must be given: {what}")
    if "://" in values.output:
        raise ValueError(f"--output={shown(values.output)} must be a folder on this machine; copy "
                         f"it there afterwards: gcloud storage cp -r FOLDER {shown(values.output)}")
    output = pathlib.Path(values.output).expanduser()
    if output.name.endswith(".converting"):
        raise ValueError(f"--output={shown(values.output)}: an unfinished conversion is called so; give another name")
    if os.path.lexists(output) and not output.is_dir():
        raise ValueError(f"--output={shown(values.output)} is not a folder: name one, or a new path")
    return output


def _report(archive: download.Archive, made: pathlib.Path, output: pathlib.Path, *, was_there: bool) -> str:
    sizes = [path.stat().st_size for path in made.rglob("*") if path.is_file()]
    if was_there:
        origin = "was already there: nothing was downloaded or checked"
    elif all(remote.sha256 for remote in archive.files):
        origin = "downloaded; size and sha256 are those that were published"
    else:
        origin = "downloaded; no digest is published, as the files grow: greatest size and format are right"
    return (f"{archive.name}: {made} ({len(sizes):,} files, {sum(sizes):,} bytes), {origin}\n"
            f"train on it: {_training(archive.name, output)}")


def _training(dataset: str, output: pathlib.Path, *more: str) -> str:
    return shlex.join(["python", "-m", "trainer.main", f"--recipe={_RECIPES[dataset]}", *more, f"--data_dir={output}"])


def _refuse(error: Exception, code: int) -> int:
    print("prepare:", one_line(str(error)), file=sys.stderr)
    return code


def _stop(signum: int, _frame) -> None:
    # An exception, so that the half unpacked folder is removed on the way out, undisturbed by more signals.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Not print(): the signal may have come in the middle of one.
    os.write(2, f"\nprepare: stopped by {signal.Signals(signum).name}; the same command goes on\n".encode())
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    code = main(sys.argv)
    with contextlib.suppress(BrokenPipeError):  # prepare ... | head
        sys.stdout.flush()
    os._exit(code)  # TensorFlow's threads need no goodbye
