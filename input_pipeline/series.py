"""Time series from CSV files: windows of the past and what followed; and the data set `co2`.

A file has a header line, or none, and then a line a month: the month as YYYY-MM or YYYY-MM-DD, the date as a number, the value.
Columns are told by position, since NOAA's headers name fewer than there are. Months follow each other without a gap.
`co2` is the monthly mean of carbon dioxide in parts per million that NOAA measures on Mauna Loa, or its global mean.

An example is a window: `past` months, and the 12 that follow, the target. Every month is an origin (rolling origin),
the first of a target. Targets of the test years 2016 to 2025 are for testing, those of the five years before for
validation, earlier ones for training; a window whose target lies in two of these belongs to none. Months after 2025
are not used, so that a later download changes no split.

    months, values = series.read_csv("co2-mm-mlo.csv")            # 1958-03 as 23498, float64 [820]
    source = series.load("train", "/data", past=36)               # "input" [b, 36, 1], "target" [b, 12]
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import os
import re
from typing import TYPE_CHECKING

import numpy as np

from input_pipeline import storage
from input_pipeline.datasets import Info, check_split, missing
from input_pipeline.rules import NUMBER

if TYPE_CHECKING:
    import tensorflow as tf

FOLDER = "co2"
HORIZON = 12  # months of a target: a season
PAST = 36  # months of an input, by default
MAX_PAST = 600
FIRST_YEAR = {"validation": 2011, "test": 2016, None: 2026}  # of each split after "train"; None: used by none
FIRST_MONTH = {"mlo": 1958 * 12 + 2, "gl": 1979 * 12}  # of the series as they are published
MAX_BYTES = 16 * 2**20  # of a file
COLUMNS = "month as YYYY-MM, date as a number, value"
_MONTH = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])(-[0-3][0-9])?")


def facts(*, past: int = PAST, series: str = "mlo") -> Info:
    """The facts of `series` ("mlo": Mauna Loa, "gl": global) with `past` months of input, as it is published.

    Raises ValueError where an option is out of its range.
    """
    if series not in FIRST_MONTH:
        raise ValueError(f"dataset='co2': series={series!r} must be one of {', '.join(FIRST_MONTH)}")
    if not 2 * HORIZON <= past <= MAX_PAST:
        raise ValueError(f"dataset='co2': past={past} must be {2 * HORIZON} (the naive forecast needs two years) to "
                         f"{MAX_PAST} months")
    return _info(FIRST_MONTH[series], past)


def describe(data_dir: str | None = None, **options) -> Info:
    """The facts of the file in `data_dir`, with the options of `facts`.

    Raises MissingData where it is absent or ends before the last test year, ValueError where it is wrong.
    """
    return dataclasses.replace(_open(data_dir, **options)[0], files=(path(data_dir, **options),))


def load(split: str, data_dir: str | None = None, **options) -> Windows:
    """The source of `split` ("train", "validation" or "test"), with the options of `facts`. Raises as `describe`."""
    info, first, values = _open(data_dir, **options)
    check_split(info, split)
    (past, _), start = info.input_shape, _starts(first, info.input_shape[0])[split]
    return Windows(values[start:start + past + info.examples[split] + HORIZON - 1], past)


def path(data_dir: str, *, series: str = "mlo", **_) -> str:
    """The file of `series` in `data_dir`."""
    return os.path.join(data_dir, FOLDER, f"co2-mm-{series}.csv")


def read_csv(path: str) -> tuple[np.ndarray, np.ndarray]:
    """(months int64 [n], years * 12 + month - 1, each one more than the last; values float64 [n]) of the file `path`.

    Raises ValueError, which names the file, the line and the rule, for anything but that.
    """
    with storage.open_file(path) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path}: has more than {MAX_BYTES} bytes, the most that are read")
    lines = csv.reader(io.StringIO(content.decode("utf-8", errors="replace"), newline=""))
    months, values, columns = [], [], 0
    try:
        header = next(lines, [])
        first = [header] if header and _MONTH.fullmatch(header[0].strip()) else []  # there is no header
        for row in itertools.chain(first, lines):
            if row:
                columns = columns or len(row)
                if len(row) != columns:  # as by a decimal comma
                    raise ValueError(f"{','.join(row)[:80]!r} has {len(row)} columns, the line before it {columns}")
                month, value = _parse(row)
                if months and month != months[-1] + 1:
                    raise ValueError(f"{row[0]!r} does not follow the month before it")
                months.append(month)
                values.append(value)
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}, line {lines.line_num}: {error}") from None
    if not months:
        raise ValueError(f"{path}: has no line after its header; every line must be {COLUMNS}")
    return np.array(months, np.int64), np.array(values)


def _parse(row: list[str]) -> tuple[int, float]:
    """The month and the value of a line."""
    found = _MONTH.fullmatch(row[0].strip())
    if not found or len(row) < 3 or not re.fullmatch(NUMBER, row[2].strip()):
        raise ValueError(f"{','.join(row)[:80]!r} is not {COLUMNS}")
    value = float(row[2])
    if not 0 <= value <= 1e9:
        # NOAA writes -99.99 where it has no value; in the files that it publishes now it has none such.
        raise ValueError(f"the value {value!r} must be 0 to 1e9; if the month is missing, fill in an estimate")
    return int(found[1]) * 12 + int(found[2]) - 1, value


class Windows:
    """All windows of `values` [n], in time's order: `past` values, and the 12 that follow."""

    classes = ()

    def __init__(self, values: np.ndarray, past: int):
        import tensorflow as tf

        self.input_shape, self.target_shape = (past, 1), (HORIZON,)
        self._windows = len(values) - past - HORIZON + 1
        with tf.device("CPU:0"):
            self._values = tf.constant(values, tf.float32)

    def __len__(self) -> int:
        return self._windows

    def read(self, indices: tf.Tensor) -> dict[str, tf.Tensor]:
        """"input" float32 [b, past, 1] and "target" float32 [b, 12] of `indices`; see `sources.Source.read`."""
        import tensorflow as tf

        past = self.input_shape[0]
        window = tf.gather(self._values, indices[:, tf.newaxis] + tf.range(past + HORIZON, dtype=tf.int64))
        return {"input": window[:, :past, tf.newaxis], "target": window[:, past:]}


def _open(data_dir: str | None, **options) -> tuple[Info, int, np.ndarray]:
    """The facts of the file in `data_dir`, its first month, and its values."""
    info = facts(**options)
    if not data_dir:
        raise missing("co2", data_dir, "no data_dir is given")
    file = path(data_dir, **options)
    if not storage.is_file(file):
        raise missing("co2", data_dir, f"no file {file}")
    months, values = read_csv(file)
    if months[-1] + 1 < FIRST_YEAR[None] * 12:
        raise missing("co2", data_dir, f"{file} ends in {_shown(months[-1])}, before the last test year does")
    info = _info(int(months[0]), info.input_shape[0])
    if info.train_examples < 1:
        raise missing("co2", data_dir, f"{file} begins in {_shown(months[0])}, too late for a window before "
                      f"{FIRST_YEAR['validation']}")
    return info, int(months[0]), values


def _shown(month: int) -> str:
    return f"{month // 12}-{month % 12 + 1:02d}"


def _starts(first: int, past: int) -> dict[str, int]:
    """For each split the place of the first value of its first window, in a series that begins in month `first`."""
    return {"train": 0} | {split: FIRST_YEAR[split] * 12 - first - past for split in ("validation", "test")}


def _info(first: int, past: int) -> Info:
    """The facts of a series that begins in month `first`."""
    ends = {"train": "validation", "validation": "test", "test": None}
    starts = _starts(first, past)
    counts = {f"{split}_examples": FIRST_YEAR[end] * 12 - first - HORIZON + 1 - (starts[split] + past)
              for split, end in ends.items()}
    return Info(name="co2", splits=tuple(ends), input_shape=(past, 1), target_shape=(HORIZON,), classes=(), **counts)
