"""Flag files: `--flagfile=FILE` stands for the flags in a file, one a line, as absl has it. Read with suspicion: absl itself
would wait at a pipe, take a device into memory, and follow files that name each other for ever.

    flag_files.expanded(["--flagfile=fast.txt", "--seed=1"])     # ["--xla", "--log_steps=100", "--seed=1"]
"""
import os
import stat

from input_pipeline import storage

MAX_BYTES = 1 << 20  # of a file
MAX_FILES = 100  # of a command, those that files name included
NAMES = ("--flagfile", "-flagfile")


def expanded(arguments: list[str]) -> list[str]:
    """The arguments with the flags of the flag files in their place. ValueError, in one line: a file cannot be read."""
    read = 0

    def expand(arguments: list[str], within: tuple[str, ...]) -> list[str]:
        nonlocal read
        found, rest = [], iter(arguments)
        for argument in rest:
            name, equals, path = argument.partition("=")
            if name not in NAMES:
                found += [argument, *rest] if argument == "--" else [argument]
                continue
            path = os.path.expanduser((path if equals else next(rest, "")).strip())
            read += 1
            if path in within:
                raise ValueError(f"{path} names itself: a circular dependency")
            if read > MAX_FILES:
                raise ValueError(f"{path} is one of more than {MAX_FILES}")
            found += expand(_flags(path), (*within, path))
        return found

    try:
        return expand(arguments, ())
    except OSError as error:
        raise _wrong(f"{error.strerror}: {error.filename!r}") from None
    except ValueError as error:
        raise _wrong(str(error)) from None


def _flags(path: str) -> list[str]:
    """A file's lines, without comments and empty ones. OSError, ValueError: it is no text file of a bearable size."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} is a folder" if stat.S_ISDIR(mode) else f"{path} is no file")
    try:
        lines = storage.read_whole(path, MAX_BYTES).decode().splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text") from None
    return [line.strip() for line in lines if line.strip() and not line.startswith(("#", "//"))]


def _wrong(reason: str) -> ValueError:
    return ValueError(f"--flagfile must name a text file with one flag a line: {reason}")
