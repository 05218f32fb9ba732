"""Laws of `input_pipeline.unpack`: a hostile archive writes nothing outside its folder, publishes nothing,
and is refused with ValueError before it costs more disk than it may.

Mutations, each of which turned tests here red: `tar.extractall` instead; no check of the member's type; of
`..`; of the folder at the top; of the number; of the size; of the bytes in headers; of a name that comes
twice.
"""

import gzip
import io
import random
import tarfile
import tracemalloc

import pytest
from loopback import TOP, Server, archive_of, cifar_like, member, tar_gz

from input_pipeline import download
from input_pipeline.progress import Progress
from input_pipeline.unpack import unpack_tar

GOOD = member(f"{TOP}/good.bin", b"good")


def sparse(size: int) -> tuple:
    info, _ = member(f"{TOP}/sparse.bin")
    info.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(size),
                        "GNU.sparse.map": "0,1"}
    return info, b""


def long_header(size: int) -> bytes:
    """A tar whose first header announces a path of `size` bytes, which compresses to almost nothing."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, size
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + b"a" * size, compresslevel=1)


def header_chain(length: int) -> bytes:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1
    return gzip.compress((info.tobuf(tarfile.GNU_FORMAT) + b"a".ljust(512, b"\0")) * length, compresslevel=1)


HOSTILE = {
    "parent": (tar_gz(GOOD, member(f"{TOP}/../escaped", b"x")), "lies outside its folder"),
    "parent at the top": (tar_gz(GOOD, member("../escaped", b"x")), "lies outside its folder"),
    "absolute": (tar_gz(GOOD, member("/escaped", b"x")), "lies outside its folder"),
    "absolute below the folder's name": (tar_gz(member(f"/{TOP}/escaped", b"x")), "lies outside its folder"),
    "another folder": (tar_gz(GOOD, member("escaped/file", b"x")), "lies outside its folder"),
    "a file as the folder": (tar_gz(member(TOP, b"x")), "lies outside its folder"),
    "symbolic link": (tar_gz(GOOD, member(f"{TOP}/link", kind=tarfile.SYMTYPE, link="/etc")), "is a link"),
    "file through a link": (tar_gz(member(f"{TOP}/link", kind=tarfile.SYMTYPE, link=".."),
                                   member(f"{TOP}/link/escaped", b"x")), "is a link"),
    "hard link": (tar_gz(GOOD, member(f"{TOP}/hard", kind=tarfile.LNKTYPE, link="/etc/passwd")), "is a link"),
    "hard link inside": (tar_gz(GOOD, member(f"{TOP}/hard", kind=tarfile.LNKTYPE, link=GOOD[0].name)),
                         "is a link"),
    "character device": (tar_gz(GOOD, member(f"{TOP}/null", kind=tarfile.CHRTYPE)), "a device"),
    "block device": (tar_gz(GOOD, member(f"{TOP}/disk", kind=tarfile.BLKTYPE)), "a device"),
    "fifo": (tar_gz(GOOD, member(f"{TOP}/fifo", kind=tarfile.FIFOTYPE)), "not a file or folder"),
    "contiguous file": (tar_gz(GOOD, member(f"{TOP}/odd", b"x", kind=tarfile.CONTTYPE)),
                        "not a file or folder"),
    "sparse file": (tar_gz(GOOD, sparse(10**15)), "not a file or folder"),
    "too many files": (tar_gz(*(member(f"{TOP}/{number}", b"x") for number in range(11))),
                       "more than 10 files"),
    "too many folders": (tar_gz(*(member(f"{TOP}/{number}", kind=tarfile.DIRTYPE) for number in range(11))),
                         "more than 10 files"),
    "one file too large": (tar_gz(GOOD, member(f"{TOP}/bomb", bytes(1_000_001))),
                           "more than 1,000,000 bytes"),
    "files too large together": (tar_gz(*(member(f"{TOP}/{number}", bytes(400_000)) for number in range(3))),
                                 "more than 1,000,000 bytes"),
    "bomb in a header": (long_header(20_000_000), "more bytes than it may"),
    "chain of headers": (header_chain(3000), "more bytes than it may|is damaged"),
    "twice": (tar_gz(GOOD, GOOD), "twice"),
    "file and folder of one name": (tar_gz(GOOD, member(f"{GOOD[0].name}/inner", b"x")),
                                    "as file and folder"),
    "folder over a file": (tar_gz(GOOD, member(GOOD[0].name, kind=tarfile.DIRTYPE)), "as file and folder"),
    "too deep": (tar_gz(member(TOP + "/a" * 50, b"x")), "too deep"),
    "too long a name": (tar_gz(member(f"{TOP}/{'a' * 300}", b"x")), "too long a name"),
    "name with control characters": (tar_gz(member(f"{TOP}/\x1b[2J", b"x")), "cannot be printed"),
    "not compressed": (gzip.decompress(tar_gz(GOOD)), "is damaged"),
    "not a tar": (gzip.compress(b"hello " * 1000), "is damaged"),
    "empty": (b"", "is damaged"),
    "truncated": (cifar_like()[:150_000], "is damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_publishes_nothing_and_writes_nothing_outside(name, tmp_path):
    content, message = HOSTILE[name]
    data_dir = tmp_path / "data"
    (data_dir / ".download").mkdir(parents=True)
    (data_dir / ".download" / "small.small.tar.gz.part").write_bytes(content)   # whole: no network is needed
    archive = archive_of(content, "http://data.invalid/small.tar.gz")
    with pytest.raises(ValueError, match=message) as caught:
        download.fetch(archive, data_dir, progress=Progress())
    assert "data.invalid/small.tar.gz: the archive" in str(caught.value) and "\n" not in str(caught.value)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == ["data", "data/.download", "data/.download/small.lock"]


def test_a_bomb_is_stopped_before_it_is_written(tmp_path):
    bomb = tar_gz(GOOD, member(f"{TOP}/bomb", bytes(50_000_000)))
    assert len(bomb) < 500_000
    with pytest.raises(ValueError, match="more than 1,000,000 bytes, at '.*/bomb'"):
        unpack_tar(io.BytesIO(bomb), tmp_path, top=TOP, bytes_limit=1_000_000, members_limit=10)
    assert [path.name for path in tmp_path.iterdir()] == ["good.bin"]


def test_a_header_bomb_costs_no_memory(tmp_path):
    bomb = long_header(50_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="more bytes than it may"):
            unpack_tar(io.BytesIO(bomb), tmp_path, top=TOP, bytes_limit=1_000_000, members_limit=10)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_exactly_at_the_limits_is_unpacked(tmp_path):
    content = tar_gz(member(f"./{TOP}/a/b.bin", bytes(600_000)), member(f"{TOP}/c.bin", bytes(400_000)),
                     member(f"{TOP}/a", kind=tarfile.DIRTYPE), member(f"{TOP}/empty.bin"))
    unpack_tar(io.BytesIO(content), tmp_path, top=TOP, bytes_limit=1_000_000, members_limit=4)
    sizes = {str(path.relative_to(tmp_path)): path.stat().st_size for path in tmp_path.rglob("*.bin")}
    assert sizes == {"a/b.bin": 600_000, "c.bin": 400_000, "empty.bin": 0}


def test_modes_and_owners_of_the_archive_are_not_taken_over(tmp_path):
    info, content = member(f"{TOP}/program", b"x")
    info.mode, info.uid, info.mtime = 0o6777, 12345, 0
    unpack_tar(io.BytesIO(tar_gz((info, content))), tmp_path, top=TOP, bytes_limit=10, members_limit=1)
    ours = tmp_path / "ours"
    ours.touch()
    made = (tmp_path / "program").stat()
    assert (made.st_mode, made.st_uid) == (ours.stat().st_mode, ours.stat().st_uid)


def test_random_damage_is_a_value_error_or_harmless(tmp_path):
    generator = random.Random(0)
    plain = bytearray(gzip.decompress(tar_gz(
        GOOD, member(f"{TOP}/{'long/' * 5}{'x' * 150}", b"y"), sparse(1), member(f"{TOP}/c", b"z" * 700))))
    refused = 0
    for number in range(400):
        damaged = bytearray(plain)
        for _ in range(generator.randint(1, 4)):
            damaged[generator.randrange(len(plain))] = generator.choice((0, 0x2F, 0x2E, 0x80, 0xFF, 0x39))
        if number % 2:     # with a right checksum in the first header the damage goes further
            damaged[148:156] = b"%06o\0 " % (256 + sum(damaged[:148]) + sum(damaged[156:512]))
        target = tmp_path / str(number)
        target.mkdir()
        try:
            unpack_tar(io.BytesIO(gzip.compress(damaged, 1)), target, top=TOP, bytes_limit=10_000,
                       members_limit=9)
        except ValueError:
            refused += 1
    assert refused > 100
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(str(number) for number in range(400))
    assert all((path.is_file() or path.is_dir()) and not path.is_symlink() for path in tmp_path.rglob("*"))


def test_a_hostile_archive_over_the_network_is_refused_too(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("LOCKSTEP_MIRROR", raising=False)
    content, message = HOSTILE["parent"]
    with Server({"/small.tar.gz": content}) as server:
        with pytest.raises(ValueError, match=message):
            download.fetch(archive_of(content, f"{server.url}/small.tar.gz"), tmp_path, progress=Progress())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".download"]
