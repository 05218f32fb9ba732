"""Small files: read within a bound, replaced as a whole; locks that the dead do not hold; what a failing disk says."""
import errno
import fcntl
import os
import subprocess
import sys

import pytest

from trainer import files
from trainer.config import UserError
from trainer.writers import JsonLines

HOLDER = """
import sys
from trainer import files
with files.exclusive(sys.argv[1], "another works"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock tmp_path/.lock until its input ends."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / ".lock"], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("content, said", [
    (b"", "Expecting value"), (b"{", "Expecting property"), (b'"\xff\xff"', "codec can't decode"), (b"[" * 100_000, "nested"),
    (b" " * (files.LARGEST_BYTES + 1), "more than 1048576 bytes"), (b"\0" * 9, ".")])
def test_what_is_no_json_is_a_value_error_in_words(tmp_path, content, said):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        files.read_json(tmp_path / "f")


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(ValueError, match="not a file|Is a directory"):
            files.read_json(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        files.read_json(tmp_path / "absent")


@pytest.mark.parametrize("operation", ["write", "fsync", "rename"])
def test_a_small_file_is_the_old_one_or_the_new_one(tmp_path, monkeypatch, operation):
    """Whatever fails, the old content is there and nothing else. Mutation: write in place."""
    files.write_whole(tmp_path / "f", "old")

    def fail(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if operation == "write":
        monkeypatch.setattr("builtins.open", lambda *a, **o: open_and_fail(*a, **o))
        real = os.open

        def open_and_fail(path, mode, **_):
            os.close(real(path, os.O_CREAT | os.O_WRONLY))
            fail()
    else:
        monkeypatch.setattr(*{"fsync": (os, "fsync"), "rename": (type(tmp_path), "rename")}[operation], fail)
    with pytest.raises(UserError, match=r"f cannot be written: No space left on device; make room"):
        files.write_whole(tmp_path / "f", "new")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["f"] and (tmp_path / "f").read_text() == "old"
    files.write_whole(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text() == "new"


def locked(path):
    with files.exclusive(path, "another works"):
        pass


WRITERS = {"f": locked, ".f.writing": lambda path: files.write_whole(path.with_name("f"), "ours"),
           "f.jsonl": lambda path: JsonLines(path).append({"step": 1}),
           "f.jsonl.tmp": lambda path: JsonLines(path.with_suffix("")).drop_after(-1)}


@pytest.mark.parametrize("name", WRITERS)
def test_what_a_link_leads_to_is_not_written(tmp_path, name):
    """A run's folder may come from a stranger: a link in the place of a file would lead the writing out of it. Mutation: it is
    followed."""
    theirs, folder = tmp_path / "theirs", tmp_path / "run"
    theirs.write_text('{"step": 0}\n')
    folder.mkdir()
    (folder / "f.jsonl").write_text('{"step": 0}\n')
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(theirs)
    with pytest.raises(UserError, match=rf"{name} cannot be written: it is a link, which is not followed; "):
        WRITERS[name](folder / name)
    assert theirs.read_text() == '{"step": 0}\n' and (folder / "f.jsonl").read_text() == '{"step": 0}\n'


@pytest.mark.parametrize("number, fix", [(errno.ENOSPC, "make room"), (errno.EDQUOT, "make room"), (errno.EROFS, "writable"),
                                         (errno.EACCES, "writable"), (errno.EIO, "look after the disk")])
def test_an_error_of_the_disk_is_one_line_with_file_reason_and_fix(number, fix):
    with pytest.raises(UserError) as caught, files.writing("/m/train"):
        raise OSError(number, os.strerror(number), "/m/train/f")
    assert str(caught.value).startswith(f"/m/train/f cannot be written: {os.strerror(number)}; ") and fix in str(caught.value)


def test_the_words_of_tensorflow():
    error = files.cannot_write("/m/ckpt-1", "{{function_node x}} /m/.writing/ckpt_temp/part; No space left on device [Op:SaveV2]")
    assert str(error).startswith("/m/ckpt-1 cannot be written: No space left on device; make room, then")


def test_a_lock_is_held_by_the_living_only(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE_SECS", 0)
    path = tmp_path / ".lock"
    with pytest.raises(UserError, match=rf"^another works \(process {holder.pid} on {os.uname().nodename}\); wait for it"):
        with files.exclusive(path, "another works", patience=0.1):
            pass
    assert files.held(path)
    holder.kill()
    holder.wait()
    assert not files.held(path)
    with files.exclusive(path, "another works"):
        assert path.read_text() == f"{os.getpid()} on {os.uname().nodename}\n"


def test_who_is_just_ending_is_waited_for(tmp_path, holder, monkeypatch):
    """The holder ends after the first try: the second process gets the lock. Mutation: no patience."""
    tries, flock = [], fcntl.flock

    def counted(file, kind):
        tries.append(kind)
        if len(tries) == 2:
            holder.stdin.close()
            holder.wait()
        return flock(file, kind)

    monkeypatch.setattr(fcntl, "flock", counted)
    with files.exclusive(tmp_path / ".lock", "another works", patience=60):
        assert len(tries) >= 2


@pytest.mark.parametrize("content", [b"", b"\xff\xff", b"9" * 100_000, b"12; rm -rf\n", b"\n\n1 on x\n"])
def test_a_lock_file_with_anything_in_it(tmp_path, content):
    """What a lock file says of its holder is shown only if it can be a process; the lock itself does not depend on it."""
    path = tmp_path / ".lock"
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(content)
        file.flush()
        with pytest.raises(UserError, match=r"^busy \(process unknown\); wait"):
            with files.exclusive(path, "busy", patience=0):
                pass
    with files.exclusive(path, "busy", patience=0):
        pass


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(UserError, match=r"\.lock cannot be locked: No locks available; keep --model_dir on a file system"):
        with files.exclusive(tmp_path / ".lock", "busy"):
            pass


def test_a_lock_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "train").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="train cannot be written: (File exists|Not a directory)"):
        with files.exclusive(tmp_path / "train" / ".lock", "busy"):
            pass
    assert not files.held(tmp_path / "train" / ".lock") and not files.held(tmp_path / "absent" / ".lock")
