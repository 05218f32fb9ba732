"""Law 3, file by file: whatever is done to a checkpoint's files, it is noticed, named, and never fatal while a whole one is
left.

Mutations: the digests are not compared; a manifest that is nested without end ends the run; a name is taken as it stands.
"""
import hashlib
import json
import os
import shutil

import pytest

from trainer import manifest
from trainer.config import UserError

STEPS = (10, 20, 30)
DATA, INDEX, MANIFEST = "data-00000-of-00001", "index", "json"


def publish(folder, step):
    """Something that is whole by its manifest, in the form in which publish writes it."""
    files = {}
    for path in manifest.files_of(folder, step):
        content = hashlib.sha512(path.name.encode()).digest() * 4
        path.write_bytes(content)
        files[path.name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest.manifest_of(folder, step).write_text(json.dumps({"step": step, "files": files}, indent=1) + "\n")


@pytest.fixture
def folder(tmp_path):
    for step in STEPS:
        publish(tmp_path, step)
    return tmp_path


def file(folder, ending, step=30):
    return folder / f"ckpt-{step:08d}.{ending}"


def content(change):
    """Damages by changing a file's bytes."""
    return lambda path: path.write_bytes(change(path.read_bytes()))


def another_steps(path):
    shutil.copy(path.with_name(path.name.replace("30", "20")), path)


def a_folder(path):
    path.unlink()
    path.mkdir()


def a_link_to_nothing(path):
    path.unlink()
    path.symlink_to("nothing")


def a_pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGES = {
    "emptied": content(lambda data: b""), "first byte left": content(lambda data: data[:1]),
    "half": content(lambda data: data[:len(data) // 2]), "last byte lost": content(lambda data: data[:-1]),
    "first bit flipped": content(lambda data: bytes([data[0] ^ 1]) + data[1:]),
    "middle bit flipped": content(lambda data: data[:100] + bytes([data[100] ^ 32]) + data[101:]),
    "last bit flipped": content(lambda data: data[:-1] + bytes([data[-1] ^ 128])),
    "zeroed": content(lambda data: bytes(len(data))), "another step's": another_steps,
    "deleted": lambda path: path.unlink(), "a folder": a_folder, "a link to nothing": a_link_to_nothing, "a pipe": a_pipe,
}


@pytest.mark.parametrize("ending", [DATA, INDEX, MANIFEST])
@pytest.mark.parametrize("damage", DAMAGES)
def test_any_damage_to_any_file(folder, damage, ending):
    """The one before is taken, the note names the file, and the damaged one can be set aside."""
    if (damage, ending) == ("last byte lost", MANIFEST):
        return  # the end of its last line: it says the same
    DAMAGES[damage](file(folder, ending))
    step, notes = manifest.newest_whole(folder)
    assert step == 20
    if (damage, ending) == ("deleted", MANIFEST):
        assert notes == []  # no manifest, no checkpoint
        return
    named = ending if ending != MANIFEST else ""  # a manifest that changed may accuse another file
    assert len(notes) == 1 and notes[0].startswith(f"checkpoint 30 is damaged: ckpt-00000030.{named}")
    manifest.set_aside(folder, 30)
    assert manifest.newest_whole(folder) == (20, []) and manifest.published(folder) == [10, 20]


def test_appended_bytes_are_noticed(folder):
    for ending in (DATA, INDEX):
        content(lambda data: data + b"\0")(file(folder, ending))
    assert "ckpt-00000030.data-00000-of-00001 has 257 bytes, 256 were written" in manifest.damage(folder, 30)


def test_every_byte_at_which_a_manifest_can_end(folder):
    path = file(folder, MANIFEST)
    whole = path.read_bytes()
    for size in range(len(whole) - 1):  # without the last line's end it says the same
        path.write_bytes(whole[:size])
        assert manifest.damage(folder, 30), size
    path.write_bytes(whole)
    assert manifest.damage(folder, 30) == ""


def test_every_bit_of_a_manifest(folder):
    """Nothing in a manifest can change without a difference (three bits of each byte)."""
    path = file(folder, MANIFEST)
    whole = path.read_bytes()
    for place in range(len(whole) - 1):
        for bit in (0, 5, 7):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1:])
            assert manifest.damage(folder, 30), (place, bit)


def altered(**changes):
    """The manifest's entry with other facts of its data file."""
    def change(entry):
        facts = entry["files"][f"ckpt-00000030.{DATA}"]
        facts.update(changes)
        return entry
    return change


def named(name):
    def change(entry):
        entry["files"][name] = entry["files"].pop(f"ckpt-00000030.{DATA}")
        return entry
    return change


ENTRIES = {
    "nested without end": lambda entry: None, "a list": lambda entry: [entry], "null": lambda entry: None,
    "a number": lambda entry: 30, "no step": lambda entry: {"files": entry["files"]}, "no files": lambda entry: {"step": 30},
    "files a list": lambda entry: entry | {"files": list(entry["files"])}, "no file in it": lambda entry: entry | {"files": {}},
    "one file missing": lambda entry: entry | {"files": dict(list(entry["files"].items())[:1])},
    "one file more": lambda entry: entry | {"files": entry["files"] | {"x": {"size": 1, "sha256": ""}}},
    "step as text": lambda entry: entry | {"step": "30"}, "step as a fraction": lambda entry: entry | {"step": 30.0},
    "another step": lambda entry: entry | {"step": 20}, "a file called step": lambda entry: entry | {"files": {
        **entry["files"], "step": {"size": 1, "sha256": ""}}},
    "size as text": altered(size="256"), "size as a fraction": altered(size=256.0), "size negative": altered(size=-256),
    "size huge": altered(size=10**40), "size null": altered(size=None), "size true": altered(size=True),
    "digest null": altered(sha256=None), "digest a list": altered(sha256=["0" * 64]), "digest in capitals": lambda entry: altered(
        sha256=entry["files"][f"ckpt-00000030.{DATA}"]["sha256"].upper())(entry),
    "a path": named(f"../{30}/ckpt-00000030.{DATA}"), "an absolute path": named("/etc/passwd"), "a dotted name": named(
        f"./ckpt-00000030.{DATA}"), "a name of control characters": named("\x1b[2J\n\0"), "a long name": named("x" * 100_000),
    "facts a list": lambda entry: entry | {"files": {name: [256] for name in entry["files"]}},
}


@pytest.mark.parametrize("change", ENTRIES)
def test_a_manifest_that_says_anything(folder, change):
    """Wrong types, other names, paths out of the folder: it belongs to no checkpoint, and nothing outside is looked at."""
    path = file(folder, MANIFEST)
    entry = ENTRIES[change](json.loads(path.read_text()))
    path.write_text("[" * 100_000 if change == "nested without end" else json.dumps(entry))
    wrong = manifest.damage(folder, 30)
    assert wrong.startswith("ckpt-00000030.") and len(wrong) < 300 and wrong.isprintable(), wrong
    assert manifest.newest_whole(folder)[0] == 20


def test_a_huge_manifest_is_not_read(folder):
    with open(file(folder, MANIFEST), "ab") as manifest_file:
        manifest_file.truncate(1 << 40)  # no room is taken
    assert "more than" in manifest.damage(folder, 30)


@pytest.mark.parametrize("name", ["ckpt-000000030.json", "ckpt-30.json", "ckpt-00000040.json~", "ckpt-00000040.json.damaged",
                                  "ckpt-٣٣٣٣٣٣٣٣.json", "xckpt-00000040.json", "ckpt-00000040.index", ".writing",
                                  f"ckpt-{'9' * 100}.json", "ckpt-00000040.data-00001-of-00002"])
def test_other_names_are_no_checkpoints(folder, name):
    (folder / name).write_text("{}")
    assert manifest.published(folder) == [10, 20, 30]


def test_all_damaged_is_an_error_that_names_each(folder):
    """No fresh start, and nothing is touched."""
    for step in STEPS:
        content(lambda data: data[:-1])(file(folder, INDEX, step))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match="no whole checkpoint is left") as caught:
        manifest.newest_whole(folder)
    assert all(f"ckpt-000000{step}.index has 255 bytes" in str(caught.value) for step in STEPS)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_nothing_published_is_no_error(tmp_path, folder):
    assert manifest.newest_whole(tmp_path / "none") == (None, [])
    for step in STEPS:
        file(folder, MANIFEST, step).unlink()
    assert manifest.newest_whole(folder) == (None, [])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file cannot be read: Not a directory"):
        manifest.newest_whole(tmp_path / "file")


def test_setting_aside_ends_anywhere(folder, monkeypatch):
    """All three files keep their content under another name; after a kill in between the rest is no checkpoint."""
    class Kill(BaseException):
        pass

    before = {path.name: path.read_bytes() for path in folder.glob("ckpt-00000030.*")}
    rename = type(folder).rename
    for number in range(3):
        left = [number]

        def counted(path, target):
            if not left[0]:
                raise Kill
            left[0] -= 1
            return rename(path, target)

        monkeypatch.setattr(type(folder), "rename", counted)
        with pytest.raises(Kill):
            manifest.set_aside(folder, 30)
        assert manifest.published(folder) == ([10, 20, 30] if number == 0 else [10, 20])
        monkeypatch.undo()
        for path in folder.glob("*.damaged"):
            path.rename(path.with_suffix(""))
    manifest.set_aside(folder, 30)
    assert {path.name.removesuffix(".damaged"): path.read_bytes() for path in folder.glob("ckpt-00000030.*")} == before
    assert len(list(folder.glob("*.damaged"))) == 3
