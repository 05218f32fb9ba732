"""Laws of `input_pipeline.storage`: parts of files as they are, and what is published is whole or absent."""

import os

import pytest

from input_pipeline import storage


def test_what_lies_beyond_the_end_is_not_made_up(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    with storage.Reader(str(tmp_path / "a")) as file:
        assert file.read(2, 3) == b"234" and file.read(8, 5) == b"89" and file.read(20, 5) == b""
    with pytest.raises(FileNotFoundError), storage.Reader(str(tmp_path / "b")):
        pass


def test_a_reader_leaves_no_file_open(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ZeroDivisionError), storage.Reader(str(tmp_path / "a")):
        1 / 0
    assert os.listdir("/proc/self/fd") == before


def test_a_file_is_published_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a"
    storage.publish(str(path), b"first")

    def full(*_):
        raise OSError(28, "No space left on device")

    for name in ("fsync", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(OSError, match="No space"):
                storage.publish(str(path), b"second")
        assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["a"]
    storage.publish(str(path), b"second")
    assert path.read_bytes() == b"second"


def test_a_whole_file_has_a_limit(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert storage.read_whole(str(tmp_path / "a"), 5) == b"12345"
    with pytest.raises(ValueError, match="a: has more than 4 bytes"):
        storage.read_whole(str(tmp_path / "a"), 4)
    (tmp_path / "folder").mkdir()
    assert storage.listing(str(tmp_path)) == ["a"]
