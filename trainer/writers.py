"""What a run tells: the lines on the console and the metrics files. (TensorBoard: events.)

A metrics file is JSON, one record a line, appended with one write a call, so that a killed process leaves
whole lines and at most one incomplete last one, which the next writer takes away. JSON knows no nan: numbers
that are not finite are written as the strings "nan", "inf" and "-inf", which any parser reads and float()
understands; read() turns them back into floats, so no record may hold these three words as text.

    metrics = JsonLines("runs/digits/train/metrics.jsonl")
    metrics.drop_after(step)                       # a restart drops the lines beyond the step it resumes from
    metrics.append({"step": 10, "loss": 2.25})
    records = JsonLines.read(metrics.path)

    console = Console("auto", sys.stdout)
    console.log(console_line(now, step, loss, rate, seconds), step, total, status)
    console.message(evaluator_line(now, step, "precision_at_1", 0.86, 10000, "ema"))
    console.close()
"""

import itertools
import json
import math
import os
import shutil
import threading
import time

from input_pipeline.rules import UserError
from trainer import files
from trainer.growing import growing

LONGEST_LINE = 1 << 20  # bytes
LARGEST_READ = 1 << 28  # of a file that read() takes into memory
_NOT_FINITE = ("nan", "inf", "-inf")


class JsonLines:
    """A file of records, one JSON object a line, each with an integer `step`.

    For one writer at a time; readers need no lock. Nothing is touched before the first append().

    Args:
      flush_secs: at gs://, where every write is one of the whole file, lines wait so long for it; flush() writes them now.
      shared: other processes append, too, one at a time.
    """

    def __init__(self, path, *, flush_secs=0, shared=False):
        self.path = os.fspath(path)
        self._file = growing(path, shared=shared)
        self._least = flush_secs

    def exists(self):
        """Whether there is such a file."""
        return _size(self._file) is not None

    def flush(self):
        """Who reads the file now sees all that was appended; a folder's shows it at once. UserError as append()."""
        with files.writing(self.path):
            self._file.flush()

    def append(self, *records):
        """Appends the records, all of them in one write: numbers in full, numpy scalars as plain numbers.

        Raises:
          ValueError: a record without an integer step, or with a value that JSON cannot hold.
          UserError: the disk is full, say; the file is as before.
        """
        data = b"".join(_encode(record) for record in records)
        with files.writing(self.path):
            if self._file.last_byte() not in (b"", b"\n"):
                self.drop_after(math.inf)  # a writer was killed in its write: else this line would join its rest
            self._file.append(data)
            self._file.flush(least=self._least)

    def drop_after(self, step):
        """Removes the lines whose step is greater than `step`, and an incomplete last line.

        The file is replaced as a whole or not at all, and left alone if nothing has to go; kept lines keep
        every byte.

        Returns:
          the number of whole lines removed.

        Raises:
          UserError: a damaged line; names file and line. Or the disk is full; the file is as before.
        """
        size = _size(self._file)
        if size is None:
            return 0
        removed = kept = 0
        for line, record in _lines(self._file):
            if record["step"] > step:
                removed += 1
            else:
                kept += len(line)
        if kept != size:
            with files.writing(self.path):
                self._file.replace(line for line, record in _lines(self._file) if record["step"] <= step)
        return removed

    @staticmethod
    def read(path):
        """All records of the file, in order; an incomplete last line is not one yet.

        Raises:
          UserError: a damaged line; names file and line. Or a file that is too large to be one of ours.
          FileNotFoundError: no such file.
        """
        file = growing(path)
        size = _size(file)
        if size is None:
            raise FileNotFoundError(2, "No such file or directory", os.fspath(path))
        if size > LARGEST_READ:
            raise UserError(f"{os.fspath(path)} has more than {LARGEST_READ} bytes; restore the file, or move it away")
        return [
            {name: float(value) if value in _NOT_FINITE else value for name, value in record.items()}
            for _, record in _lines(file)
        ]


def _encode(record):
    """One record as a line of bytes."""
    plain = {}
    for name, value in record.items():
        value = value.item() if hasattr(value, "item") else value  # a numpy scalar
        plain[name] = repr(value) if isinstance(value, float) and not math.isfinite(value) else value
    if type(plain.get("step")) is not int:
        raise ValueError(f"record {record}: its step must be an integer")
    try:
        return json.dumps(plain, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"record {record}: values must be numbers or text: {error}") from None


def _size(file):
    """The bytes of a growing file; None if there is none."""
    try:
        return file.size()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise files.Unreachable(file.path, "read", error) from None


def _lines(found):
    """The whole lines of a file, one after the other, as pairs of the line's bytes and its record."""
    path = found.path
    try:
        with found.open() as file:
            for number in itertools.count(1):
                line = file.readline(LONGEST_LINE)
                if not line.endswith(b"\n") and len(line) < LONGEST_LINE:
                    return  # the end, or a line that a kill cut short
                try:
                    record = json.loads(line)
                    if type(record["step"]) is not int:
                        raise TypeError
                except (ValueError, TypeError, KeyError, RecursionError):
                    raise UserError(
                        f"{os.fspath(path)}, line {number}: {line[:60]!r} is no JSON object with an integer step; "
                        "restore the file, or remove this line"
                    ) from None
                yield line, record
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{os.fspath(path)} cannot be read: {error.strerror}; restore the file") from None


def console_line(now, step, loss, examples_per_second, seconds_per_step, extra=""):
    """The trainer's line, as the tutorial prints it, then `extra` after a space.

    Args:
      now: datetime.
      loss: this step's total loss.
    """
    line = (
        f"{_time(now)}: step {step}, loss = {_number(loss, 2)} "
        f"({_number(examples_per_second, 1)} examples/sec; {_number(seconds_per_step, 3)} sec/batch)"
    )
    return f"{line} {extra}" if extra else line


def evaluator_line(now, step, metric, value, examples, weights):
    """The evaluator's line: what `metric` ("precision_at_1") came to with which weights ("ema" or "raw").

    Raises:
      ValueError: other weights.
    """
    if weights not in ("ema", "raw"):
        raise ValueError(f"weights {weights!r}: must be 'ema' or 'raw'")
    kind = "EMA" if weights == "ema" else "raw"
    return f"{_time(now)}: step {step}: {metric.replace('_at_', ' @ ')} = {_number(value, 3)} ({examples} examples, {kind} weights)"


def duration(seconds):
    """Seconds for people: "3 d 4 h", "1 h 23 min", "2 min 5 s", "45 s"; "unknown" if they are not finite."""
    if not math.isfinite(seconds):
        return "unknown"
    rest, parts = max(round(seconds), 0), []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        parts.append((count, unit))
    first = next((place for place, (count, _) in enumerate(parts) if count), len(parts) - 1)
    shown = [parts[first], *(part for part in parts[first + 1 : first + 2] if part[0])]
    return " ".join(f"{count} {unit}" for count, unit in shown)


def _time(now):
    return now.strftime("%Y-%m-%d %H:%M:%S.%f")  # str() leaves the fraction out when it is 0


def _number(value, decimals):
    """`value` with so many decimals; with three digits if these would show none of it, or far too many."""
    if value == 0 or 10.0**-decimals <= abs(value) < 1e9:
        return f"{value:.{decimals}f}"
    return f"{value:.3g}"


class Console:
    """Prints log lines and messages as `--progress` asks.

    lines: every log line. bar: one status line at the bottom, rewritten at most ten times a second; messages
    scroll above it. none: messages only. auto: bar on a terminal, else lines.

    Args:
      mode: auto, bar, lines or none.
      stream: a text stream.
      clock: returns seconds.
    """

    def __init__(self, mode, stream, clock=time.monotonic):
        if mode not in ("auto", "bar", "lines", "none"):
            raise ValueError(f"progress {mode!r}: must be auto, bar, lines or none")
        terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._mode = ("bar" if terminal else "lines") if mode == "auto" else mode
        self._stream = stream
        self._clock = clock
        self._status = ""
        self._drawn = -math.inf
        self._lock = threading.RLock()  # a watchdog's thread or a signal's handler has messages too

    def log(self, line, step, total, status):
        """A log line: printed as it is, or shown as progress of `step` in `total` followed by `status`."""
        with self._lock:
            if self._mode == "lines":
                self._write(line + "\n")
            elif self._mode == "bar":
                done = min(step / total, 1.0) if total else 1.0
                cells = int(20 * done)
                self._status = f"step {step}/{total} [{'#' * cells:<20}] {int(100 * done)} % {status}"
                if step >= total or self._clock() >= self._drawn + 0.1:
                    self._drawn = self._clock()
                    self._write(self._bar())

    def message(self, text):
        """A line for every mode but the bar's own: start, end, warnings, evaluations."""
        with self._lock:
            self._write(f"\r\x1b[K{text}\n{self._bar()}" if self._status else text + "\n")

    def close(self):
        """Leaves the last status where it is and goes to the next line; the stream stays open."""
        with self._lock:
            if self._status:
                self._write(self._bar() + "\n")
                self._status = ""

    def _bar(self):
        """What draws the status line over itself."""
        columns = shutil.get_terminal_size().columns - 1  # writing in the last one wraps on some terminals
        return "\r\x1b[K" + self._status.replace("\n", " ")[:columns]

    def _write(self, text):
        self._stream.write(text)  # once, so that nothing comes between an erased line and its successor
        self._stream.flush()
