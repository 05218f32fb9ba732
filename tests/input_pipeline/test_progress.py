"""Laws of `input_pipeline.progress`: one open line on a terminal, few whole lines elsewhere, none if not wanted.

Mutations, each of which turned tests here red: a line every call; no clock for the bar; a note inside the bar's line.
"""

import io

from input_pipeline.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_ten_percent_lines_in_a_file_and_one_bar_on_a_terminal():
    seconds = iter(range(1000))
    for stream, lines in ((io.StringIO(), 11), (Terminal(), 1)):
        progress = Progress(stream, clock=lambda: next(seconds))
        for received in range(0, 2_000_001, 20_000):
            progress.advance("small.tar.gz", received, 2_000_000)
        assert stream.getvalue().count("\n") == lines
        assert "2.0 of 2.0 MB, 0.0 MB/s" in stream.getvalue()
    assert stream.getvalue().count("\r") == 101 and "[" + "#" * 15 + "." * 15 + "]" in stream.getvalue()


def test_a_note_begins_its_own_line_beside_a_bar():
    stream = Terminal()
    progress = Progress(stream)
    progress.advance("small.tar.gz", 10, 100)
    progress.note("again in 1 s")
    assert stream.getvalue().endswith("\nagain in 1 s\n")
