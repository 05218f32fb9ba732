"""What the processes of a run say: each in a file of its own, and a selection on the console, with the name before it.

    logs = Logs(pathlib.Path("runs/digits/logs"), sys.stdout, ready=pathlib.Path("runs/digits").is_dir)
    log = logs.open("worker-0", everything=True)
    log.feed(b"step 10 ...\\n", error=False)
    log.last()                    # its last lines
"""
import collections
import pathlib
import time
from collections.abc import Callable
from typing import TextIO

KEPT_LINES = 10
LONGEST_LINE = 1 << 16  # bytes; a longer one is cut into several


class Logs:
    """The log files of a run, in `folder`, and its console.

    ready: the files are made as soon as this is true, so that a wrong command leaves no folder; until then, lines wait.
    """

    def __init__(self, folder: pathlib.Path, console: TextIO, *, ready: Callable[[], bool] = lambda: True):
        self.folder, self.ready = folder, ready
        self._console: TextIO | None = console
        self.muted = False  # what others than the chief say on stderr, once one has failed: it follows from that

    def open(self, name: str, *, everything: bool) -> "Log":
        """The log of one process. everything: whether the console shows all its lines, or only its errors."""
        return Log(self, name, everything=everything)

    def say(self, line: str) -> None:
        """A line on the console. Nobody reads it any more (`| head`): the files still have everything."""
        try:
            if self._console:
                print(line, file=self._console, flush=True)
        except OSError:
            self._console = None


class Log:
    """The lines of one process."""

    def __init__(self, logs: Logs, name: str, *, everything: bool):
        self.path = logs.folder / f"{name}.log"
        self._logs, self._name, self._everything = logs, name, everything
        self._rest = {False: b"", True: b""}  # an incomplete line of stdout, of stderr
        self._waiting = [time.strftime("--- started %Y-%m-%d %H:%M:%S\n").encode()]
        self._file, self._failed = None, False
        self._last: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)

    def feed(self, data: bytes, *, error: bool) -> None:
        """What the process wrote, as it comes. error: on its stderr."""
        *lines, rest = (self._rest[error] + data).split(b"\n")
        while len(rest) > LONGEST_LINE:
            lines, rest = [*lines, rest[:LONGEST_LINE]], rest[LONGEST_LINE:]
        self._rest[error] = rest
        for line in lines:
            self._line(line, error)
        if lines:
            self._write()

    def last(self) -> list[str]:
        """Its last lines, oldest first."""
        return list(self._last)

    def close(self) -> None:
        """After the process's end: incomplete lines are lines too."""
        for error, rest in self._rest.items():
            if rest:
                self._line(rest, error)
        self._rest = {False: b"", True: b""}
        self._write()
        if self._file:
            self._file.close()
            self._file = None

    def _line(self, line: bytes, error: bool) -> None:
        text = line.decode(errors="replace")
        self._waiting.append(line + b"\n")
        self._last.append(text)
        if not self._logs.muted if error else self._everything:
            self._logs.say(f"{self._name} | {text}")

    def _write(self) -> None:
        """A disk that is full must not end the training, whose checkpoints have their own guard."""
        try:
            if self._file is None and not self._failed and self._logs.ready():
                self._logs.folder.mkdir(parents=True, exist_ok=True)
                self._file = open(self.path, "ab")
            if self._file:
                self._file.write(b"".join(self._waiting))
                self._file.flush()
        except OSError as error:
            if not self._failed:
                self._logs.say(f"launch: {self.path} cannot be written ({error.strerror}); the run goes on without it")
            self._failed = True
        if self._file or self._failed:
            self._waiting = []
