"""Flag files: the flags in them stand in their place; what is no small text file gets one line, at once and at no cost.

Mutations: the file is opened before it is looked at; no bound on how many are read.
"""
import os

import pytest

from input_pipeline import flag_files


def test_the_flags_stand_in_the_place_of_the_file(tmp_path):
    (tmp_path / "more").write_text("// faster\n\n  --xla \n--augment=\n")
    (tmp_path / "file").write_text(f"# mine\n--seed=1\n-flagfile={tmp_path / 'more'}\n")
    assert flag_files.expanded(["--a", "1", f"--flagfile={tmp_path / 'file'}", "--b"]) == [
        "--a", "1", "--seed=1", "--xla", "--augment=", "--b"]
    assert flag_files.expanded(["--flagfile", str(tmp_path / "more"), "x"]) == ["--xla", "--augment=", "x"]


def test_after_two_dashes_nothing_is_a_flag():
    assert flag_files.expanded(["--a", "--", "--flagfile=absent"]) == ["--a", "--", "--flagfile=absent"]


def test_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "f").write_text("--seed=1")
    assert flag_files.expanded(["--flagfile=~/f"]) == ["--seed=1"]


def pipe(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


def endless(path):
    with open(path, "wb") as file:
        file.truncate(1 << 40)


def circular(path):
    path.write_text(f"--seed=1\n--flagfile={path}\n")


def bomb(path):
    """2 to the power of 40 lines, were they all read."""
    for k in range(40):
        path.with_name(f"{path.name}{k}").write_text(f"--flagfile={path}{k + 1}\n" * 2)
    path.with_name(f"{path.name}40").write_text("--seed=1\n")
    path.write_text(f"--flagfile={path}0\n")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make, said", [
    (lambda path: None, "No such file or directory"), (lambda path: path.mkdir(), "is a folder"), (pipe, "is no file"),
    (device, "is no file"), (endless, "more than 1,048,576 bytes"), (lambda path: path.symlink_to(path), "symbolic links"),
    (lambda path: path.write_bytes(b"--seed=\xff"), "is no text"), (circular, "circular"), (bomb, "more than 100")])
def test_what_is_no_small_text_file_is_named(tmp_path, make, said):
    path = tmp_path / "f"
    make(path)
    with pytest.raises(ValueError, match=f"one flag a line: .*f\\d* .*{said}|{said}") as caught:
        flag_files.expanded(["--seed=1", f"--flagfile={path}"])
    assert str(caught.value).startswith("--flagfile must name a text file with one flag a line: ")


@pytest.mark.parametrize("arguments", [["--flagfile"], ["--flagfile="], ["--flagfile=a\0b"]])
def test_no_name_is_none(arguments):
    with pytest.raises(ValueError, match="--flagfile must name a text file"):
        flag_files.expanded(arguments)
