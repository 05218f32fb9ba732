"""Gets a data set ready for the trainer: downloads it, verified and restartable, whole or absent.

    python -m input_pipeline.prepare --dataset=cifar10 --output=data

Prints what was made, where, how large, and the command that trains on it. A killed download goes on where it
was when the same command is given again. `LOCKSTEP_MIRROR=URL` takes the files from another folder (http,
https, file).

Exit codes: 0 it is there; 1 the server could not be reached or broke off (the same command goes on);
2 wrong flag, path or data; 130 and 143 on SIGINT and SIGTERM.
"""

import os
import pathlib
import shlex
import signal
import sys

from absl import flags

from input_pipeline import download

# The recipe that a newcomer would try first on each data set.
_RECIPES = {
    "cifar10": "cifar10_tutorial", "mnist": "mnist_lenet5", "flowers": "flowers_cnn", "co2": "co2_forecast"}
_NOTHING_TO_GET = {"digits": "it ships inside scikit-learn", "synthetic": "it is computed"}


def main(argv: list[str]) -> int:
    """Runs the command `argv` (its first element is the program's name) and returns its exit code."""
    try:
        values = _flags(argv)
        if values.help:
            print(__doc__.strip(), values.main_module_help(), sep="\n\n")
            return 0
        if values.dataset in _NOTHING_TO_GET:
            print(f"{values.dataset}: nothing to get, {_NOTHING_TO_GET[values.dataset]}")
            return 0
        archive, output = _checked(values)
        was_there = download.is_there(archive, output)
        made = download.fetch(archive, output)
    except (flags.Error, ValueError) as error:
        return _refuse(error, 2)
    except ConnectionError as error:
        return _refuse(error, 1)
    except OSError as error:
        return _refuse(error, 2)
    print(_report(archive, made, output, was_there=was_there))
    return 0


def _flags(argv: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()      # of its own: the trainer's flags may be in the same process
    flags.DEFINE_string("dataset", None, f"One of {', '.join(download.ARCHIVES)}.", flag_values=values)
    flags.DEFINE_string("output", None, "The folder in which the data set's own folder appears: "
                        "the trainer's --data_dir.", flag_values=values)
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    rest = values(argv)[1:]
    if rest:
        raise ValueError(f"{rest[0]!r} is not a flag: only --dataset=NAME and --output=FOLDER are understood")
    return values


def _checked(values: flags.FlagValues) -> tuple[download.Archive, pathlib.Path]:
    names = ", ".join(download.ARCHIVES)
    if not values.dataset:
        raise ValueError(f"--dataset must be given, one of {names}")
    if values.dataset not in download.ARCHIVES:
        raise ValueError(f"--dataset={values.dataset} cannot be downloaded: it must be one of {names}")
    if not values.output:
        raise ValueError("--output must be given: the folder in which the data set's own folder appears, "
                         "for instance --output=data")
    output = pathlib.Path(values.output).expanduser()
    if os.path.lexists(output) and not output.is_dir():
        raise ValueError(f"--output={values.output} is not a folder: name one, or a new path")
    return download.ARCHIVES[values.dataset], output


def _report(archive: download.Archive, made: pathlib.Path, output: pathlib.Path, *, was_there: bool) -> str:
    sizes = [path.stat().st_size for path in made.rglob("*") if path.is_file()]
    if was_there:
        origin = "was already there: nothing was downloaded or checked"
    elif all(remote.sha256 for remote in archive.files):
        origin = "downloaded; size and sha256 are those that were published"
    else:
        origin = "downloaded; no digest is published, as the files grow: greatest size and format are right"
    command = shlex.join(["python", "-m", "trainer.main", f"--recipe={_RECIPES[archive.name]}",
                          f"--data_dir={output}"])
    return (f"{archive.name}: {made} ({len(sizes):,} files, {sum(sizes):,} bytes), {origin}\n"
            f"train on it: {command}")


def _refuse(error: Exception, code: int) -> int:
    print("prepare:", " ".join(str(error).split()), file=sys.stderr)
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
    sys.exit(main(sys.argv))
