"""Laws of `input_pipeline.download`: a data set is whole or absent, verified, and a kill loses only time.

Mutations, each of which turned tests here red: no digest check; digest check after unpacking; no Range
header; a 206 taken without looking at Content-Range; append to the part after a 200; no cap on bytes
received; sizes not compared; no lock; no second look under the lock; unpacking straight into the folder;
leftovers not removed; a longer part kept; the retry counter reset by every byte; the mirror ignored; half a
folder taken for the whole.
"""

import pathlib
import threading

import pytest
from loopback import TOP, Server, archive_of, cifar_like, killed, start, until

from input_pipeline import download
from input_pipeline.progress import Progress

CONTENT = cifar_like()
PATH = "/small.tar.gz"
PART = f".download/small{PATH.replace('/', '.')}.part"
FETCH = """
import sys
from input_pipeline import download
from loopback import archive_of
content = open(sys.argv[1], "rb").read()
print(download.fetch(archive_of(content, sys.argv[2]), sys.argv[3]))
"""


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "LOCKSTEP_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server():
    with Server({PATH: CONTENT}) as running:
        yield running


def fetch(server, data_dir, **changes):
    waits = changes.pop("waits", [])

    def wait(seconds):
        waits.append(seconds)
        assert len(waits) < 50, "it never gives up"

    archive = archive_of(CONTENT, server.url + PATH, **changes)
    return download.fetch(archive, data_dir, progress=Progress(), wait=wait)


def assert_whole(data_dir: pathlib.Path) -> None:
    names = sorted(path.name for path in (data_dir / TOP).iterdir())
    assert names == ["batches.meta.txt", "data_batch_1.bin"]
    assert (data_dir / TOP / "data_batch_1.bin").stat().st_size == 300_000
    assert (data_dir / TOP / "batches.meta.txt").read_text() == "airplane\n"
    assert sorted(path.name for path in data_dir.iterdir()) == [".download", TOP]
    assert [path.name for path in (data_dir / ".download").iterdir()] == ["small.lock"]


def assert_absent(data_dir: pathlib.Path, *, part: bool) -> None:
    assert [path.name for path in data_dir.iterdir()] == [".download"]
    assert (data_dir / PART).exists() == part


def test_a_whole_download_is_published_and_not_asked_for_again(server, tmp_path):
    assert fetch(server, tmp_path) == tmp_path / TOP
    assert_whole(tmp_path)
    assert fetch(server, tmp_path) == tmp_path / TOP
    assert server.requests == [(PATH, None)]


def test_what_a_person_unpacked_is_there(server, tmp_path):
    (tmp_path / TOP).mkdir()
    (tmp_path / TOP / "data_batch_1.bin").write_bytes(b"mine")
    fetch(server, tmp_path, holds=("data_batch_1.bin",))
    assert server.requests == [] and not (tmp_path / ".download").exists()


def test_half_of_a_data_set_is_named_and_left_alone(server, tmp_path):
    (tmp_path / TOP).mkdir()
    (tmp_path / TOP / "data_batch_1.bin").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="holds no batches.meta.txt: complete it, or move it away"):
        fetch(server, tmp_path, holds=("data_batch_1.bin", "batches.meta.txt"))
    assert server.requests == [] and (tmp_path / TOP / "data_batch_1.bin").read_bytes() == b"mine"


def test_an_empty_folder_is_filled_and_a_file_in_its_place_is_named(server, tmp_path):
    (tmp_path / TOP).mkdir()
    fetch(server, tmp_path)
    assert_whole(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / TOP).write_text("a file")
    with pytest.raises(FileExistsError, match="is not a folder"):
        fetch(server, other)


def test_a_cut_connection_is_resumed_at_the_byte(server, tmp_path):
    server.cut += [100_000, 50_000]
    waits = []
    fetch(server, tmp_path, waits=waits)
    assert_whole(tmp_path)
    assert server.requests == [(PATH, None), (PATH, "bytes=100000-"), (PATH, "bytes=150000-")]
    assert len(waits) == 2


def test_a_part_of_an_earlier_run_is_resumed(server, tmp_path):
    (tmp_path / ".download").mkdir()
    (tmp_path / PART).write_bytes(CONTENT[:123_456])
    fetch(server, tmp_path)
    assert_whole(tmp_path)
    assert server.requests == [(PATH, "bytes=123456-")]


def test_a_whole_part_needs_no_network(server, tmp_path):
    (tmp_path / ".download").mkdir()
    (tmp_path / PART).write_bytes(CONTENT)
    fetch(server, tmp_path)
    assert_whole(tmp_path)
    assert server.requests == []


@pytest.mark.parametrize("name", [PART, ".download/small.lock"])
def test_what_a_link_leads_to_is_not_written(server, tmp_path, name):
    """The folder may come from a stranger."""
    theirs, data_dir = tmp_path / "theirs", tmp_path / "data"
    theirs.write_bytes(b"theirs")
    (data_dir / ".download").mkdir(parents=True)
    (data_dir / name).symlink_to(theirs)
    fetch(server, data_dir)
    assert_whole(data_dir)
    assert theirs.read_bytes() == b"theirs"


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.ranges = False
    server.cut += [100_000]
    fetch(server, tmp_path)
    assert_whole(tmp_path)
    assert server.requests == [(PATH, None), (PATH, "bytes=100000-")]


def test_another_range_than_asked_for_is_not_taken(server, tmp_path):
    server.wrong_range = True
    server.cut += [100_000]
    fetch(server, tmp_path)
    assert_whole(tmp_path)
    assert server.requests == [(PATH, None), (PATH, "bytes=100000-"), (PATH, None)]


def test_a_part_longer_than_the_file_is_thrown_away(server, tmp_path):
    (tmp_path / ".download").mkdir()
    (tmp_path / PART).write_bytes(CONTENT + b"more")
    fetch(server, tmp_path)
    assert_whole(tmp_path)
    assert server.requests == [(PATH, None)]


def test_passing_errors_are_tried_again_with_growing_pauses(server, tmp_path):
    server.status += [503, 429, 500]
    waits = []
    fetch(server, tmp_path, waits=waits)
    assert_whole(tmp_path)
    assert waits == [1, 2, 4]


@pytest.mark.parametrize("trouble, attempts, message", [
    ("gone", 1, "answers 404 Not Found"),
    ("broken", download.ATTEMPTS, "answers 503 Service Unavailable, after 0 bytes and 4 attempts"),
    ("cuts at one place", 5, "the connection ended after 100,000 bytes"),
])
def test_an_unreachable_file_is_given_up_in_one_line(server, tmp_path, monkeypatch, trouble, attempts,
                                                     message):
    monkeypatch.setattr(download, "PROGRESS_BYTES", 1000)
    if trouble == "gone":
        del server.files[PATH]
    elif trouble == "broken":
        server.status += [503] * 100
    else:
        server.ranges = False      # every attempt brings bytes, but none further ones
        server.cut += [100_000] * 100
    with pytest.raises(ConnectionError, match=message) as caught:
        fetch(server, tmp_path)
    assert f"{server.url}{PATH}: " in str(caught.value) and "LOCKSTEP_MIRROR" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(server.requests) == attempts
    assert_absent(tmp_path, part=trouble == "cuts at one place")


def test_a_refused_connection_is_given_up(tmp_path):
    with Server({}) as closed:
        pass
    with pytest.raises(ConnectionError, match="no connection: .*refused, after 0 bytes and 4 attempts"):
        fetch(closed, tmp_path)


def test_a_server_that_says_nothing_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.05)
    server.hold_after = 1000
    with pytest.raises(ConnectionError, match="timed out"):
        fetch(server, tmp_path)
    assert len(server.requests) == download.ATTEMPTS


def test_a_wrong_digest_is_named_and_never_unpacked(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "unpack_tar", lambda *_, **__: pytest.fail("unpacked before the check"))
    with pytest.raises(ValueError, match=f"small.tar.gz: sha256 [0-9a-f]{{64}}, expected {'0' * 64}"):
        fetch(server, tmp_path, sha256="0" * 64)
    assert_absent(tmp_path, part=False)


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("difference", [-7, 7])
def test_another_size_than_published_is_refused(server, tmp_path, length, difference):
    server.length = length
    if length:
        error, message = ValueError, "the server offers .* but the published file has exactly"
    elif difference > 0:
        error, message = ValueError, "the server sends more bytes"
    else:
        error, message = ConnectionError, "the server's file is shorter than bytes=30"
    with pytest.raises(error, match=message):
        fetch(server, tmp_path, size=len(CONTENT) - difference)
    part = tmp_path / PART
    assert_absent(tmp_path, part=part.exists())
    assert not part.exists() or part.stat().st_size <= len(CONTENT) - difference


def test_an_endless_answer_is_stopped_at_the_declared_size(server, tmp_path):
    server.length = False
    server.files[PATH] = bytes(50_000_000)
    with pytest.raises(ValueError, match="more bytes than the published file has .exactly"):
        fetch(server, tmp_path)
    assert_absent(tmp_path, part=False)


def test_a_name_that_is_no_archive_lists_those_that_are(tmp_path):
    with pytest.raises(ValueError, match="'cifar' cannot be downloaded: it must be one of cifar10, mnist"):
        download.fetch("cifar", tmp_path)


def test_too_little_space_is_said_before_the_download(server, tmp_path):
    with pytest.raises(OSError, match="small needs 1,000,000,000,000 MB, and [0-9,]+ MB are free"):
        fetch(server, tmp_path, unpacked_limit=10**18)
    assert server.requests == []


def test_leftovers_of_a_dead_process_go_and_other_folders_stay(server, tmp_path):
    for name in (f"{TOP}.part-12345", f"{TOP}.part-mine", f"{TOP}-part-1"):
        (tmp_path / name / "inner").mkdir(parents=True)
    fetch(server, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".download", TOP, f"{TOP}-part-1", f"{TOP}.part-mine"]


def test_a_failure_while_unpacking_publishes_nothing_and_loses_no_byte(server, tmp_path, monkeypatch):
    def full(_path):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(download, "_sync_one", full)
        with pytest.raises(OSError, match="No space left"):
            fetch(server, tmp_path)
    assert_absent(tmp_path, part=True)
    fetch(server, tmp_path)
    assert_whole(tmp_path)
    assert len(server.requests) == 1


def test_the_mirror_replaces_the_folder_and_nothing_else(server, tmp_path, monkeypatch):
    server.files = {"/deep/mirror/small.tar.gz": CONTENT}
    monkeypatch.setenv("LOCKSTEP_MIRROR", f"{server.url}/deep/mirror/")
    archive = archive_of(CONTENT, "https://data.invalid/somewhere/else/small.tar.gz")
    download.fetch(archive, tmp_path / "a", progress=Progress())
    assert_whole(tmp_path / "a")
    server.files["/deep/mirror/small.tar.gz"] = CONTENT[:-1] + b"x"
    with pytest.raises(ValueError, match="deep/mirror/small.tar.gz: sha256 "):
        download.fetch(archive, tmp_path / "b", progress=Progress())
    assert_absent(tmp_path / "b", part=False)


def test_the_mirror_may_be_a_folder_of_this_machine(tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "small.tar.gz").write_bytes(CONTENT)
    monkeypatch.setenv("LOCKSTEP_MIRROR", f"file://{mirror}")
    archive = archive_of(CONTENT, "https://data.invalid/small.tar.gz")
    download.fetch(archive, tmp_path / "data", progress=Progress())
    assert_whole(tmp_path / "data")
    (mirror / "small.tar.gz").unlink()
    with pytest.raises(ConnectionError, match="No such file"):
        download.fetch(archive, tmp_path / "other", progress=Progress(),
                       wait=lambda _: pytest.fail("tried again"))


@pytest.mark.parametrize("mirror", ["/mnt/mirror", "ftp://mirror", "http://a b", "file://"])
def test_a_mirror_that_is_no_url_is_refused(tmp_path, monkeypatch, mirror):
    monkeypatch.setenv("LOCKSTEP_MIRROR", mirror)
    with pytest.raises(ValueError, match="LOCKSTEP_MIRROR='.*' must be a URL that begins with http://"):
        download.fetch("cifar10", tmp_path, progress=Progress())


def test_proxies_are_those_of_the_environment(server, tmp_path, monkeypatch):
    url = "http://data.invalid/small.tar.gz"
    server.files = {url: CONTENT}
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", server.url)
    download.fetch(archive_of(CONTENT, url), tmp_path, progress=Progress())
    assert_whole(tmp_path)
    assert server.requests == [(url, None)]


@pytest.fixture
def fetching(tmp_path, server):
    """Starts processes that fetch from `server` into tmp_path/data; kills what is left of them."""
    (tmp_path / "content").write_bytes(CONTENT)
    running = []

    def begin():
        running.append(start("-c", FETCH, str(tmp_path / "content"), server.url + PATH,
                             str(tmp_path / "data")))
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def test_kill_9_in_mid_download_loses_only_time(server, tmp_path, fetching):
    server.hold_after = 131_072
    part = tmp_path / "data" / PART
    first = fetching()
    until(lambda: part.exists() and part.stat().st_size == 131_072, "half of the file")
    assert killed(first) == -9
    assert_absent(tmp_path / "data", part=True)
    server.hold_after = None
    second = fetching()
    out, _ = second.communicate(timeout=30)
    assert second.returncode == 0 and out.strip() == str(tmp_path / "data" / TOP)
    assert_whole(tmp_path / "data")
    assert server.requests == [(PATH, None), (PATH, "bytes=131072-")]


def test_of_two_processes_at_once_one_waits_for_the_other(server, tmp_path, fetching):
    server.hold_after = 65_536
    first = fetching()
    until(lambda: server.requests, "the first request")
    second = fetching()
    notes = []
    threading.Thread(target=lambda: notes.append(second.stderr.readline()), daemon=True).start()
    until(lambda: notes, "the note that another process is at work")
    assert f"process {first.pid} is fetching the same: waiting for it" in notes[0]
    server.release.set()
    assert first.wait(timeout=30) == 0 and second.wait(timeout=30) == 0
    assert_whole(tmp_path / "data")
    assert server.requests == [(PATH, None)]
