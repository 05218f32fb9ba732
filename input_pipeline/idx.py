"""Reads IDX files, MNIST's format, plain or gzip-compressed, from whoever wrote them: strictly and in bounded memory.

The format (LeCun, "The MNIST database of handwritten digits", section "FILE FORMATS"): two zero bytes, one for the
type of the numbers, one for the number of dimensions, each dimension as a big-endian 32-bit number, then the numbers,
big-endian, those of the last dimension next to each other.

    idx.header("train-images-idx3-ubyte.gz")    # (dtype("uint8"), (60000, 28, 28)); reads nothing more
    idx.read("train-images-idx3-ubyte.gz")      # uint8 [60000, 28, 28]

Both raise ValueError, which names the file, what is wrong, and the rule.
"""

import contextlib
import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from input_pipeline import storage

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_DIMENSIONS = 4
MAX_BYTES = 2**31  # of the numbers of one file
MAX_INFLATION = 1032  # deflate makes at most so many bytes of one (zlib, "Technical Details")
_GZIP = b"\x1f\x8b"
_DAMAGE = (gzip.BadGzipFile, EOFError, zlib.error)


def header(path: str) -> tuple[np.dtype, tuple[int, ...]]:
    """The type and the dimensions that the header of `path` states, where the file may be large enough for them."""
    with _open(path) as stream:
        kind, sizes = _header(path, stream)
    return kind.newbyteorder("="), sizes


def read(path: str) -> np.ndarray:
    """The numbers of `path`, in the machine's byte order and the header's shape."""
    with _open(path) as stream:
        kind, sizes = _header(path, stream)
        wanted = math.prod(sizes) * kind.itemsize
        content = stream.read(wanted)
        if len(content) < wanted:
            raise ValueError(f"{path}: ends after {len(content)} of the {wanted} bytes of numbers that its header "
                             f"states ({_shown(sizes)}); get the file again")
        if stream.read(1):
            raise ValueError(f"{path}: has more than the {wanted} bytes of numbers that its header states "
                             f"({_shown(sizes)}); get the file again")
    return np.frombuffer(content, kind).reshape(sizes).astype(kind.newbyteorder("="), copy=False)


@contextlib.contextmanager
def _open(path: str) -> Iterator[BinaryIO]:
    """The file's content, uncompressed whatever its name; damage found while it is open becomes ValueError."""
    with storage.open_file(path) as file:
        packed = file.read(2) == _GZIP
        file.seek(0)
        try:
            with gzip.GzipFile(fileobj=file) if packed else contextlib.nullcontext(file) as stream:
                yield stream
        except _DAMAGE as error:
            raise ValueError(f"{path}: is damaged ({' '.join(str(error).split())}); get the file again") from None


def _header(path: str, stream: BinaryIO) -> tuple[np.dtype, tuple[int, ...]]:
    """The type of the numbers and the dimensions, after a look at whether the file can hold them."""
    head = stream.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in TYPES or not 1 <= head[3] <= MAX_DIMENSIONS:
        raise ValueError(f"{path}: begins with bytes {head.hex(' ') or 'none'}; an IDX file has 00 00, the type of its "
                         f"numbers ({', '.join(f'{code:02x}' for code in TYPES)}) and 1 to {MAX_DIMENSIONS} dimensions")
    sizes = stream.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise ValueError(f"{path}: ends within its header; get the file again")
    sizes = struct.unpack(f">{head[3]}I", sizes)
    kind = np.dtype(TYPES[head[2]])
    wanted = math.prod(sizes) * kind.itemsize
    # Before a byte is allocated: no file unpacks to more than this.
    possible = min(MAX_BYTES, MAX_INFLATION * storage.status(path).size)
    if not 0 < wanted <= possible:
        raise ValueError(f"{path}: its header states {_shown(sizes)}, {wanted} bytes of numbers; this file can hold 1 "
                         f"to {possible}")
    return kind, sizes


def _shown(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))
