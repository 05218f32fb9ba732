"""Laws of `input_pipeline.archives`: every file is pinned by a digest or checked for its format."""

import re

import pytest

from input_pipeline import archives

NOAA = b"""# File Creation: Sat Sep  5 03:55:38 2026
#
year,month,decimal date,average,deseasonalized,ndays,sdev,unc
""" + b"".join(
    b"%d,%d,%.4f,%.2f,314.44,-1,-9.99,-0.99\n"
    % (1958 + month // 12, month % 12 + 1, 1958 + month / 12, 315 + month / 10) for month in range(2, 30))


def test_every_file_has_a_digest_or_a_format_and_a_name_of_its_own_on_a_mirror():
    files = [remote for archive in archives.ARCHIVES.values() for remote in archive.files]
    for remote in files:
        assert remote.url.startswith("https://") and remote.size > 0
        assert bool(remote.sha256) != bool(remote.convert)
        assert remote.sha256 is None or re.fullmatch("[0-9a-f]{64}", remote.sha256)
    assert len({remote.url.rsplit("/", 1)[1] for remote in files}) == len(files)
    assert len({remote.sha256 for remote in files if remote.sha256}) == 6


def test_caps_leave_room_for_the_data_and_not_much_more():
    for archive in archives.ARCHIVES.values():
        packed = sum(remote.size for remote in archive.files)
        assert packed <= archive.unpacked_limit <= 1.4 * packed
        assert len(archive.holds) <= archive.members_limit
        assert archive.kind == "tar" or set(archive.holds) == {remote.name for remote in archive.files}
    cifar = archives.ARCHIVES["cifar10"]
    assert cifar.unpacked_limit > 6 * 10_000 * 3_073    # the label and 32 x 32 x 3 pixels of 60,000 photos


def test_noaas_months_become_one_line_each_with_the_average_third():
    lines = archives.monthly_means(NOAA).decode().splitlines()
    assert lines[0] == "Date,Decimal Date,Average,deseasonalized,ndays,sdev,unc"
    assert lines[1] == "1958-03,1958.1667,315.20,314.44,-1,-9.99,-0.99"
    assert [line.split(",")[0] for line in lines[9:12]] == ["1958-11", "1958-12", "1959-01"]
    assert len(lines) == 29


@pytest.mark.parametrize("old, new, message", [
    (b"year,month", b"jahr,monat", "begin with # comments and the header"),
    (b"1958,7,", b"1958,9,", "does not follow the month before it"),
    (b"315.60", b"-99.99", "is not between 100 and 1000 ppm"),
    (b"315.60", b"nan", "is not between 100 and 1000 ppm"),
    (b"1958,7,", b"1958,July,", "is not year,month,decimal date,average"),
    (b",315.60,314.44,-1,-9.99,-0.99\n", b"\n", "is not year,month,decimal date,average"),
])
def test_what_is_not_noaas_format_is_refused(old, new, message):
    assert old in NOAA
    with pytest.raises(ValueError, match=message):
        archives.monthly_means(NOAA.replace(old, new))


@pytest.mark.parametrize("content", [b"", b"<html>502 Bad Gateway</html>", b"\xff\xfe\x00", NOAA[:200]])
def test_another_page_is_refused(content):
    with pytest.raises(ValueError, match="not NOAA's monthly means"):
        archives.monthly_means(content)
