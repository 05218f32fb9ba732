"""Laws of the metrics files: a line is whole or absent, and keeps every byte. The console, to the letter."""

import datetime
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from trainer import writers
from trainer.config import UserError
from trainer.writers import Console, JsonLines, console_line, duration, evaluator_line

NOW = datetime.datetime(2026, 11, 21, 20, 21, 7, 427302)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(writers.__file__)))


@pytest.fixture
def metrics(tmp_path):
    return JsonLines(tmp_path / "train" / "metrics.jsonl")


def content(metrics):
    with open(metrics.path, "rb") as file:
        return file.read()


def test_a_line_to_the_letter(metrics):
    metrics.append({"step": 10, "loss": 0.1 + 0.2, "skipped_steps": 0, "weights": "ema", "text": None})
    assert content(metrics) == (
        b'{"step": 10, "loss": 0.30000000000000004, "skipped_steps": 0, "weights": "ema", "text": null}\n'
    )


def test_numbers_that_are_not_finite_are_json(metrics):
    record = {"step": 1, "a": math.nan, "b": math.inf, "c": -math.inf, "d": np.float32("nan")}
    metrics.append(record)
    assert content(metrics) == b'{"step": 1, "a": "nan", "b": "inf", "c": "-inf", "d": "nan"}\n'
    back = JsonLines.read(metrics.path)[0]
    assert [repr(value) for value in back.values()] == ["1", "nan", "inf", "-inf", "nan"]


def test_numpy_scalars_are_plain_numbers(metrics):
    metrics.append({"step": np.int64(3), "loss": np.float32(1.1), "right": np.bool_(True)})
    assert content(metrics) == b'{"step": 3, "loss": 1.100000023841858, "right": true}\n'


VALUES = some.floats(allow_nan=False) | some.integers() | some.booleans() | some.none()


@settings(deadline=None)
@given(some.lists(some.dictionaries(some.text(max_size=5), VALUES), max_size=5))
def test_what_is_read_is_what_was_appended(tmp_path_factory, rows):
    metrics = JsonLines(tmp_path_factory.mktemp("run") / "metrics.jsonl")
    records = [{**row, "step": step} for step, row in enumerate(rows)]
    metrics.append(*records)
    assert JsonLines.read(metrics.path) == records


@pytest.mark.parametrize("record", [{"loss": 1.0}, *({"step": step} for step in (1.0, "1", True, math.nan))])
def test_a_record_needs_an_integer_step(metrics, record):
    with pytest.raises(ValueError, match="its step must be an integer"):
        metrics.append({"step": 1}, record)
    assert not os.path.exists(metrics.path)


@pytest.mark.parametrize("value", [object(), b"", [math.nan]])
def test_a_value_that_json_cannot_hold_is_refused_before_anything_is_written(metrics, value):
    with pytest.raises(ValueError, match="values must be numbers or text"):
        metrics.append({"step": 1}, {"step": 2, "loss": value})
    assert not os.path.exists(metrics.path)


def test_all_records_of_a_call_are_one_write(metrics, monkeypatch):
    writes, write = [], os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: writes.append(data) or write(descriptor, data))
    metrics.append({"step": 1}, {"step": 2})
    assert writes == [b'{"step": 1}\n{"step": 2}\n']


def test_two_writers_do_not_overwrite_each_other(metrics):
    other = JsonLines(metrics.path)
    for step in range(0, 20, 2):
        metrics.append({"step": step})
        other.append({"step": step + 1})
    assert [record["step"] for record in JsonLines.read(metrics.path)] == list(range(20))


def test_a_full_disk_leaves_the_file_as_it_was(metrics):
    metrics.append({"step": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))  # the kernel then writes 8 of 12 bytes
    try:
        with pytest.raises(UserError, match="metrics.jsonl cannot be written: No space left on device; make room"):
            metrics.append({"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert content(metrics) == b'{"step": 1}\n'


def test_a_restart_drops_the_lines_beyond_its_step_and_keeps_every_other_byte(metrics):
    metrics.append({"step": 1})
    with open(metrics.path, "ab") as file:
        file.write(b'{"loss":1.50,  "step": 5}\n{"step": 6, "a": 1}\n{"step": 4}\n{"step": 11}\n{"step": 3')
    assert metrics.drop_after(5) == 2
    assert content(metrics) == b'{"step": 1}\n{"loss":1.50,  "step": 5}\n{"step": 4}\n'
    assert os.listdir(os.path.dirname(metrics.path)) == ["metrics.jsonl"]


def test_a_restart_that_has_nothing_to_drop_leaves_the_file_alone(metrics):
    assert metrics.drop_after(5) == 0  # no file: none is made
    assert not os.path.exists(os.path.dirname(metrics.path))
    metrics.append({"step": 1}, {"step": 5})
    before = os.stat(metrics.path)
    assert metrics.drop_after(5) == 0
    after = os.stat(metrics.path)
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_kill_in_the_middle_of_a_restart_changes_nothing(metrics, monkeypatch):
    metrics.append({"step": 1}, {"step": 2})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        metrics.drop_after(1)
    assert content(metrics) == b'{"step": 1}\n{"step": 2}\n'
    monkeypatch.undo()
    assert metrics.drop_after(1) == 1  # the temporary file that was left is no obstacle
    assert content(metrics) == b'{"step": 1}\n'


def test_the_content_is_on_the_disk_before_its_name(metrics, monkeypatch):
    metrics.append({"step": 1}, {"step": 2})
    calls, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append("fsync") or fsync(descriptor))
    monkeypatch.setattr(os, "replace", lambda *names: calls.append("replace") or replace(*names))
    metrics.drop_after(1)
    assert calls == ["fsync", "replace", "fsync"]


def test_an_incomplete_last_line_is_not_read_and_not_continued(metrics):
    metrics.append({"step": 1})
    for rest in (b"{", b'{"step": 2, "lo', b'{"step": 2}', b"\0" * 40):
        with open(metrics.path, "ab") as file:
            file.write(rest)
        assert JsonLines.read(metrics.path) == [{"step": 1}]
        metrics.append({"step": 9})
        assert content(metrics) == b'{"step": 1}\n{"step": 9}\n'
        metrics.drop_after(1)


DAMAGED = [b'{"step": 2', b"", b"\0\0", b"[2]", b"2", b'{"loss": 2}', b'{"step": 2.5}', b"\xff"]


@pytest.mark.parametrize("line", DAMAGED)
def test_a_damaged_line_is_named(metrics, line):
    metrics.append({"step": 1})
    with open(metrics.path, "ab") as file:
        file.write(line + b'\n{"step": 3}\n')
    before = content(metrics)
    message = re.escape(f"{metrics.path}, line 2: ")
    with pytest.raises(ValueError, match=message):
        JsonLines.read(metrics.path)
    with pytest.raises(ValueError, match=message):
        metrics.drop_after(1)
    assert content(metrics) == before


def test_what_is_too_large_to_be_ours_is_not_taken_into_memory(metrics):
    metrics.append({"step": 1})
    with open(metrics.path, "ab") as file:
        file.truncate(1 << 40)  # no room is taken
    with pytest.raises(UserError, match="metrics.jsonl has more than 268435456 bytes"):
        JsonLines.read(metrics.path)
    with pytest.raises(UserError, match="metrics.jsonl, line 2: "):
        metrics.drop_after(1)


LINES = some.dictionaries(some.sampled_from(["step", "loss", "weights", "examples"]),
                          VALUES | some.floats() | some.text(max_size=3) | some.just(10**400) | some.lists(VALUES, max_size=2)
                          ).map(lambda record: json.dumps(record).encode())


@settings(deadline=None, derandomize=True, database=None)
@given(some.lists(LINES | some.binary(max_size=20), max_size=4).map(b"\n".join), some.integers(-5, 5))
def test_any_file_is_records_or_one_line_and_a_restart_keeps_no_later_step(tmp_path_factory, data, step):
    metrics = JsonLines(tmp_path_factory.mktemp("any") / "metrics.jsonl")
    with open(metrics.path, "wb") as file:
        file.write(data)
    try:
        records = JsonLines.read(metrics.path)
    except UserError as error:
        assert re.match(rf"{metrics.path}, line \d+: ", str(error)) and str(error).isprintable()
        with pytest.raises(UserError, match="metrics.jsonl, line"):
            metrics.drop_after(step)
        assert content(metrics) == data
        return
    kept = [record for record in records if record["step"] <= step]
    assert metrics.drop_after(step) == len(records) - len(kept)
    assert repr(JsonLines.read(metrics.path)) == repr(kept)
    metrics.append({"step": step})
    assert repr(JsonLines.read(metrics.path)) == repr([*kept, {"step": step}])


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_a_file_that_is_none_is_named(tmp_path, make):
    """At once: nobody writes to the pipe. Mutation: it is opened before it is looked at."""
    metrics = JsonLines(tmp_path / "metrics.jsonl")
    make(metrics.path)
    for use in (lambda: JsonLines.read(metrics.path), lambda: metrics.drop_after(1)):
        with pytest.raises(UserError, match=f"{metrics.path} cannot be read: it is no file; "):
            use()


def test_kill_minus_9_while_it_appends(metrics):
    program = """
import sys
from trainer.writers import JsonLines
metrics = JsonLines(sys.argv[1])
for step in range(10**9):
    metrics.append(*({"step": step, "line": line, "filler": "x" * 40000} for line in range(4)))
    if step == 20: print("ready", flush=True)
"""
    kept = 0
    for _ in range(5):  # each continues the file that the one before was killed over
        command = [sys.executable, "-c", program, metrics.path]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        JsonLines.read(metrics.path)  # nothing is damaged but the last line
        metrics.drop_after(10)
        with open(metrics.path) as file:
            lines = file.readlines()
        assert all(line.endswith("}\n") for line in lines)
        steps = [json.loads(line)["step"] for line in lines]
        assert len(steps) == kept + 44 and max(steps) == 10
        kept = len(steps)


def test_the_trainers_line():
    line = console_line(NOW, 1230, 1.0812, 3321.51, 0.03854)
    assert line == "2026-11-21 20:21:07.427302: step 1230, loss = 1.08 (3321.5 examples/sec; 0.039 sec/batch)"
    assert console_line(NOW, 1230, 1.0812, 3321.51, 0.03854, "ETA 2 min") == line + " ETA 2 min"


def test_a_time_without_a_fraction_keeps_its_form():
    line = console_line(NOW.replace(microsecond=0), 1, 1, 1, 1)
    assert line.startswith("2026-11-21 20:21:07.000000: step 1, ")


@pytest.mark.parametrize(
    "loss, shown",
    [
        (2.3026, "2.30"), (0.0, "0.00"), (0.01, "0.01"), (0.00999, "0.00999"), (0.0043219, "0.00432"),
        (3e-9, "3e-09"), (-0.001, "-0.001"), (-1.5, "-1.50"), (123456.789, "123456.79"), (3e30, "3e+30"),
        (math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf"), (np.float32(1.1), "1.10"),
    ],
)  # fmt: skip
def test_a_loss_that_is_not_0_never_reads_0(loss, shown):
    assert f" loss = {shown} (" in console_line(NOW, 1, loss, 1.0, 1.0)


def test_fast_steps_and_unknown_rates_are_readable():
    assert console_line(NOW, 1, 1, 310e3, 0.00041281).endswith("(310000.0 examples/sec; 0.000413 sec/batch)")
    assert console_line(NOW, 1, 1, math.nan, math.nan).endswith("(nan examples/sec; nan sec/batch)")


def test_the_evaluators_line():
    assert evaluator_line(NOW, 1230, "precision_at_1", 0.86, 10000, "ema") == (
        "2026-11-21 20:21:07.427302: step 1230: precision @ 1 = 0.860 (10000 examples, EMA weights)"
    )
    assert evaluator_line(NOW, 7, "mse", 0.00077, 360, "raw") == (
        "2026-11-21 20:21:07.427302: step 7: mse = 0.00077 (360 examples, raw weights)"
    )
    with pytest.raises(ValueError, match="weights 'EMA': must be 'ema' or 'raw'"):
        evaluator_line(NOW, 1230, "mse", 0.86, 10000, "EMA")


@pytest.mark.parametrize(
    "seconds, shown",
    [
        (0, "0 s"), (0.4, "0 s"), (45, "45 s"), (59.6, "1 min"), (125, "2 min 5 s"), (3600, "1 h"),
        (3659, "1 h"), (4980, "1 h 23 min"), (5039.7, "1 h 24 min"), (273600, "3 d 4 h"), (86460, "1 d"),
        (-3, "0 s"), (math.nan, "unknown"), (math.inf, "unknown"),
    ],
)  # fmt: skip
def test_durations(seconds, shown):
    assert duration(seconds) == shown


class Screen:
    """A stream that keeps what each write() brought, and shows what a terminal of one endless page would."""

    def __init__(self, *, terminal=True):
        self.writes, self._terminal = [], terminal

    def isatty(self):
        return self._terminal

    def write(self, text):
        self.writes.append(text)

    def flush(self):
        pass

    def lines(self):
        shown = [""]
        for part in re.findall(r"\r\x1b\[K|\n|[^\r\n]+", "".join(self.writes)):
            if part == "\n":
                shown.append("")
            elif part.startswith("\r"):
                shown[-1] = ""
            else:
                shown[-1] += part
        return shown


@pytest.mark.parametrize("mode, terminal", [("lines", True), ("lines", False), ("auto", False)])
def test_lines_prints_every_line(mode, terminal):
    screen = Screen(terminal=terminal)
    console = Console(mode, screen, clock=lambda: 0.0)
    console.message("start")
    console.log("one", 1, 3, "unseen")
    console.log("two", 2, 3, "unseen")
    console.message("end")
    console.close()
    assert screen.writes == ["start\n", "one\n", "two\n", "end\n"]


def test_none_prints_messages_only():
    screen = Screen()
    console = Console("none", screen)
    console.message("start")
    console.log("one", 1, 3, "unseen")
    console.close()
    assert screen.writes == ["start\n"]


@pytest.mark.parametrize("mode, terminal", [("bar", True), ("bar", False), ("auto", True)])
def test_the_bar_stays_below_the_messages(mode, terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen(terminal=terminal)
    clock = iter(range(100))
    console = Console(mode, screen, clock=lambda: next(clock))
    console.message("start")
    console.log("one", 300, 1200, "loss 1.08, 3 min left")
    assert screen.lines() == ["start", "step 300/1200 [#####               ] 25 % loss 1.08, 3 min left"]
    console.message("saved")
    assert screen.lines()[:2] == ["start", "saved"]
    assert screen.lines()[2:] == ["step 300/1200 [#####               ] 25 % loss 1.08, 3 min left"]
    console.log("two", 1200, 1200, "done")
    console.close()
    console.message("end")
    assert screen.lines() == ["start", "saved", "step 1200/1200 [####################] 100 % done", "end", ""]


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    screen = Screen()
    Console("auto", screen).log("one", 1, 3, "unseen")
    assert screen.writes == ["one\n"]


@pytest.mark.parametrize("columns", [10, 40, 60])
def test_the_bar_never_wraps(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    screen = Screen()
    console = Console("bar", screen)
    console.log("one", 1, 3, "words " * 30)
    console.message("a message")
    console.log("one", 3, 3, "two\nlines " * 30)
    console.close()
    bars = [line for line in screen.lines() if line.startswith("step")]
    assert [len(bar) for bar in bars] == [columns - 1]
    assert all(len(line) < columns for line in screen.lines())


def test_the_bar_is_drawn_ten_times_a_second_at_most_and_always_at_the_end():
    screen, seconds = Screen(), 0.0
    console = Console("bar", screen, clock=lambda: seconds)
    for step in range(1, 1001):
        seconds += 0.001
        console.log("line", step, 1001, f"at {step}")
    assert 9 <= len(screen.writes) <= 11
    console.message("note")  # brings the status up to date
    assert screen.lines()[-1].endswith("at 1000")
    console.log("line", 1001, 1001, "at 1001")
    assert screen.lines()[-1].endswith("at 1001")


def test_messages_of_many_threads_do_not_tear(monkeypatch):
    class Slow(Screen):
        def write(self, text):  # a terminal takes its time: other threads run between two characters
            for character in text:
                super().write(character)

    monkeypatch.setenv("COLUMNS", "80")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    screen = Slow()
    console = Console("bar", screen)
    console.log("line", 1, 3, "status")
    target = lambda: [console.message("whole") for _ in range(100)]  # noqa: E731
    threads = [threading.Thread(target=target) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    bar = "step 1/3 [######              ] 33 % status"
    assert screen.lines() == ["whole"] * 400 + [bar]


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="progress 'bars': must be auto, bar, lines or none"):
        Console("bars", Screen())
