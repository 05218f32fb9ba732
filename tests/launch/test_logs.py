"""Log files and the console: whole lines, nothing lost, and no folder for a command that was wrong."""
import io

from launch.logs import LONGEST_LINE, Logs


def lines(path):
    return path.read_bytes().split(b"\n")[1:-1]  # without the line that says when it started


def test_the_file_has_everything_and_the_console_its_selection(tmp_path):
    console = io.StringIO()
    logs = Logs(tmp_path / "logs", console)
    chief, other = logs.open("worker-0", everything=True), logs.open("worker-1", everything=False)
    for log in (chief, other):
        log.feed(b"step 1\nst", error=False)
        log.feed(b"bad\n", error=True)
        log.feed(b"ep 2\nunfinished", error=False)
        log.close()
    for log in (chief, other):
        assert lines(log.path) == [b"step 1", b"bad", b"step 2", b"unfinished"]
        assert log.last() == ["step 1", "bad", "step 2", "unfinished"]
    assert console.getvalue().splitlines() == ["worker-0 | step 1", "worker-0 | bad", "worker-0 | step 2",
                                               "worker-0 | unfinished", "worker-1 | bad"]


def test_after_the_first_failure_errors_that_follow_from_it_are_only_in_the_files(tmp_path):
    console = io.StringIO()
    logs = Logs(tmp_path, console)
    log = logs.open("worker-1", everything=False)
    logs.muted = True
    log.feed(b"UnavailableError\n", error=True)
    assert console.getvalue() == "" and lines(log.path) == [b"UnavailableError"]


def test_nothing_is_made_until_the_run_has_its_folder(tmp_path):
    """And then the first lines are there too."""
    there = []
    log = Logs(tmp_path / "m" / "logs", io.StringIO(), ready=lambda: bool(there)).open("worker-0", everything=True)
    log.feed(b"first\n", error=False)
    assert not (tmp_path / "m").exists()
    there.append(1)
    log.feed(b"second\n", error=False)
    assert lines(log.path) == [b"first", b"second"]


def test_a_restart_continues_the_file(tmp_path):
    logs = Logs(tmp_path, io.StringIO())
    for word in (b"one", b"two"):
        log = logs.open("worker-0", everything=True)
        log.feed(word, error=False)
        log.close()
    found = log.path.read_bytes().split(b"\n")
    assert found[1] == b"one" and found[3] == b"two" and found[0].startswith(b"--- started 20") and len(found) == 5


def test_any_bytes_and_endless_lines(tmp_path):
    log = Logs(tmp_path, io.StringIO()).open("worker-0", everything=True)
    data = b"\xff\x00" * LONGEST_LINE
    for k in range(0, len(data), 4096):
        log.feed(data[k:k + 4096], error=False)
    log.close()
    assert [len(line) for line in lines(log.path)] == [LONGEST_LINE, LONGEST_LINE]
    assert b"".join(lines(log.path)) == data


class Closed(io.StringIO):
    """A console that nobody reads."""

    def write(self, _):
        raise BrokenPipeError


def test_a_closed_console_and_a_full_disk_end_nothing(tmp_path):
    log = Logs(tmp_path, Closed()).open("worker-0", everything=True)
    log.feed(b"a\n", error=False)
    assert lines(log.path) == [b"a"]
    (tmp_path / "file").write_text("")
    console = io.StringIO()
    log = Logs(tmp_path / "file" / "logs", console).open("worker-0", everything=True)
    for _ in range(2):
        log.feed(b"b\n", error=False)
    log.close()
    said = console.getvalue().splitlines()
    assert said[0] == "worker-0 | b" and said[2:] == ["worker-0 | b"]
    assert "worker-0.log cannot be written (Not a directory); the run goes on" in said[1]
