"""Laws of `input_pipeline.progress`: one bar on a terminal, few whole lines elsewhere, nothing if not wanted.

Mutations, each of which turned tests here red: a line at every call; a bar at every call; a bar in a file;
a note in the bar's line.
"""

import io
import itertools

from input_pipeline.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(stream, *, seconds: float = 0.02) -> str:
    """What `stream` holds after 101 calls for 0, 20 kB ... 2 MB, so many seconds apart."""
    clock = itertools.count(0.0, seconds)
    progress = Progress(stream, clock=lambda: next(clock))
    for received in range(0, 2_000_001, 20_000):
        progress.advance("small.tar.gz", received, 2_000_000)
    return stream.getvalue()


def test_a_file_gets_a_line_every_ten_percent():
    lines = shown(io.StringIO()).splitlines()
    percents = [line.split(" (")[0] for line in lines]
    assert percents == [f"small.tar.gz: {part:3d} %" for part in range(0, 101, 10)]
    assert lines[-1] == "small.tar.gz: 100 % (2.0 of 2.0 MB, 1.0 MB/s)"


def test_a_terminal_gets_one_line_that_is_redrawn_ten_times_a_second_at_most():
    text = shown(Terminal())
    assert text.count("\n") == 1 and text.endswith("[" + "#" * 30 + "] 2.0 of 2.0 MB, 1.0 MB/s\x1b[K\n")
    assert 15 <= text.count("\r") <= 22 and "[" + "#" * 15 + "." * 15 + "]" in text


def test_nothing_is_shown_to_nobody_or_of_an_unknown_size():
    Progress().advance("small.tar.gz", 1, 2)
    Progress().note("a note")
    stream = io.StringIO()
    Progress(stream).advance("small.tar.gz", 1, None)
    assert stream.getvalue() == ""


def test_a_note_begins_its_own_line_beside_a_bar():
    stream = Terminal()
    progress = Progress(stream)
    progress.advance("small.tar.gz", 10, 100)
    progress.note("again in 1 s")
    assert stream.getvalue().endswith("\nagain in 1 s\n")


def test_images_are_counted_one_by_one():
    stream = io.StringIO()
    clock = itertools.count(0.0, 0.5)
    progress = Progress(stream, unit="images", clock=lambda: next(clock))
    for done in (1, 3_670):
        progress.advance("flowers", done, 3_670)
    assert stream.getvalue().splitlines()[-1] == "flowers: 100 % (3,670 of 3,670 images, 7,338 images/s)"
