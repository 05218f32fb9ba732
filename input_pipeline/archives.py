"""What can be downloaded: for each data set the files, where they lie, and how they are known to be right.

Sizes and digests are those that tensorflow_datasets publishes (`checksums.tsv` and `url_checksums/` of its
repository). NOAA's carbon dioxide series grows by a line every month and has no fixed digest: there only the
size is capped and the format checked.

    ARCHIVES["cifar10"].files[0].sha256
"""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remote:
    """One file on a server."""

    url: str
    name: str                                         # of the file here
    size: int                                         # bytes: exactly; without sha256, at most
    sha256: str | None = None                         # None: the content changes; the file is never resumed
    convert: Callable[[bytes], bytes] | None = None   # to its content here; ValueError: not the format

    @property
    def size_rule(self) -> str:
        return f"{'exactly' if self.sha256 else 'at most'} {self.size:,} bytes"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Archive:
    """A data set that appears as `<data_dir>/<folder>`."""

    name: str
    folder: str
    kind: str                       # "tar": one gzip-compressed tar, all below `folder`; "files": as they are
    files: tuple[Remote, ...]
    holds: tuple[str, ...] = ()     # paths below `folder` without which it is not the data set
    unpacked_limit: int             # bytes of all files together
    members_limit: int              # files and folders


def monthly_means(content: bytes) -> bytes:
    """NOAA's monthly CSV as lines `1958-03,1958.2027,315.71,...`: month, date in years, average [ppm], more.

    NOAA writes `#` comments, a header, and `year,month,decimal date,average,...`. ValueError: months are
    missing or repeated, or an average is not between 100 and 1000 ppm (a missing one is -99.99).
    """
    lines = content.decode("utf-8", errors="replace").splitlines()
    rows = [line.split(",") for line in lines if line.strip() and not line.startswith("#")]
    if len(rows) < 13 or rows[0][:2] != ["year", "month"]:
        raise ValueError("not NOAA's monthly means, which begin with # comments and the header year,month")
    made = [",".join(["Date", "Decimal Date", "Average", *rows[0][4:]])]
    before = None
    for row in rows[1:]:
        shown = ",".join(row)[:80]
        try:
            month = int(row[0]) * 12 + int(row[1]) - 1
            average = float(row[3])
        except (ValueError, IndexError):
            raise ValueError(f"the line {shown!r} is not year,month,decimal date,average,...") from None
        if before is not None and month != before + 1:
            raise ValueError(f"the line {shown!r} does not follow the month before it")
        if not 100 <= average <= 1000:
            raise ValueError(f"the average in {shown!r} is not between 100 and 1000 ppm")
        made.append(",".join([f"{month // 12:04d}-{month % 12 + 1:02d}", *row[2:]]))
        before = month
    return ("\n".join(made) + "\n").encode()


def _mnist(name: str, size: int, sha256: str) -> Remote:
    return Remote(url=f"https://storage.googleapis.com/cvdf-datasets/mnist/{name}", name=name, size=size,
                  sha256=sha256)


def _noaa(series: str) -> Remote:
    return Remote(url=f"https://gml.noaa.gov/webdata/ccgg/trends/co2/co2_mm_{series}.csv",
                  name=f"co2-mm-{series}.csv", size=1_000_000, convert=monthly_means)


_ALL = (
    Archive(
        name="cifar10", folder="cifar-10-batches-bin", kind="tar",
        files=(Remote(
            url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", name="cifar-10-binary.tar.gz",
            size=170_052_171, sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),),
        holds=(*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin", "batches.meta.txt"),
        unpacked_limit=190_000_000, members_limit=16),
    Archive(
        name="mnist", folder="mnist", kind="files",
        files=(
            _mnist("train-images-idx3-ubyte.gz", 9_912_422,
                   "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
            _mnist("train-labels-idx1-ubyte.gz", 28_881,
                   "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
            _mnist("t10k-images-idx3-ubyte.gz", 1_648_877,
                   "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
            _mnist("t10k-labels-idx1-ubyte.gz", 4_542,
                   "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6")),
        holds=("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz",
               "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
        unpacked_limit=12_000_000, members_limit=4),
    Archive(
        name="flowers", folder="flower_photos", kind="tar",
        files=(Remote(
            url="https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz",
            name="flower_photos.tgz", size=228_813_984,
            sha256="4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c"),),
        holds=("daisy", "dandelion", "roses", "sunflowers", "tulips"),
        unpacked_limit=300_000_000, members_limit=4_000),
    Archive(
        name="co2", folder="co2", kind="files", files=(_noaa("mlo"), _noaa("gl")),
        holds=("co2-mm-mlo.csv", "co2-mm-gl.csv"), unpacked_limit=2_000_000, members_limit=2),
)
ARCHIVES = {archive.name: archive for archive in _ALL}
