"""TFRecord files record by record: their framing, and the index that lets any record be read at once.

A record is its length (8 bytes, little-endian), the masked crc32c of these 8 bytes, its content, and the masked
crc32c of the content (TensorFlow, `core/lib/io/record_writer.h`). Records follow each other without gaps, so
their lengths say where each begins. The index of a shard is a file beside it, `<shard>.index`:

    8 bytes     LSINDEX1
    5 x int64   bytes of the shard, when it was changed (`storage.Status`), number of records, largest label (-1: not
                looked for)
    n x uint32  the records' lengths
    uint32      crc32c of everything before

An index is believed for the very file that it was made of on this machine, as an invented one could send a reader
anywhere; a copy of the shard gets a new one.

    index = record_index.scan("train-00000-of-00001.tfrecord")          # reads 12 bytes a record
    record_index.save("train-00000-of-00001.tfrecord.index", index)
    index = record_index.load("train-00000-of-00001.tfrecord.index", storage.status("train-00000-of-00001.tfrecord"))
    with storage.Reader("train-00000-of-00001.tfrecord") as file:
        record_index.content(file, offset, length)                      # both checksums right, or ValueError
"""

import array
import dataclasses
import struct
from collections.abc import Callable

import google_crc32c
import numpy as np

from input_pipeline import storage

SUFFIX = ".index"
MAX_RECORD_BYTES = 1 << 26  # of one record's content; an image of more is a mistake or an attack
MAX_RECORDS = 1 << 26       # of one shard
HEADER_BYTES, FOOTER_BYTES = 12, 4
FRAME_BYTES = HEADER_BYTES + FOOTER_BYTES
_MAGIC = b"LSINDEX1"
_HEAD = struct.Struct("<8s5q")
_CRC = struct.Struct("<I")
_LENGTH = struct.Struct("<Q")
_AGAIN = "the file was changed or damaged: get it again"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """The records of the shard that `shard` says: uint32 `lengths` [n]; largest_label: -1 where nobody looked."""

    shard: storage.Status
    lengths: np.ndarray
    largest_label: int = -1

    @property
    def offsets(self) -> np.ndarray:
        """Where each record, its header first, begins: int64 [n]."""
        ends = np.cumsum(self.lengths.astype(np.int64) + FRAME_BYTES)
        return np.concatenate([np.zeros(1, np.int64), ends[:-1]])


def masked_crc(content: bytes) -> int:
    """The checksum that TFRecord files hold."""
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def framed(content: bytes) -> bytes:
    """`content` as a record."""
    length = _LENGTH.pack(len(content))
    return b"".join((length, _CRC.pack(masked_crc(length)), content, _CRC.pack(masked_crc(content))))


def scan(path: str, advance: Callable[[int], None] = lambda done: None) -> Index:
    """The index of the shard `path`, from its records' headers alone.

    `advance(bytes)` is called now and then with how far it is. ValueError, which names the shard, the record and
    the rule: a wrong checksum of a length, a length of 0, beyond the file or beyond MAX_RECORD_BYTES.
    """
    shard, offset, lengths = storage.status(path), 0, array.array("I")
    with storage.Reader(path) as file:
        while offset < shard.size:
            lengths.append(_length_at(file, offset, len(lengths), shard.size))
            offset += lengths[-1] + FRAME_BYTES
            if len(lengths) > MAX_RECORDS:
                raise ValueError(f"{path}: has more than {MAX_RECORDS:,} records; divide it into smaller shards")
            if len(lengths) % 4096 == 0:
                advance(offset)
    if not lengths:
        raise ValueError(f"{path}: is empty; a shard has at least one record. Get the file again, or remove it")
    return Index(shard=shard, lengths=np.array(lengths, np.uint32))


def _length_at(file: storage.Reader, offset: int, number: int, size: int) -> int:
    """The length of record `number`, from its header."""
    head = file.read(offset, HEADER_BYTES)
    right = len(head) == HEADER_BYTES and head[8:] == _CRC.pack(masked_crc(head[:8]))
    if number == 0 and head[:2] == b"\x1f\x8b" and not right:
        raise ValueError(f"{file.path}: is compressed by gzip, so that no record can be read alone; decompress it "
                         "first")
    if len(head) < HEADER_BYTES:
        raise ValueError(f"{file.path}: ends within the header of record {number}, at byte {size}; get the file again")
    if not right:
        raise ValueError(f"{file.path}: record {number}, at byte {offset}: the checksum of its length is wrong; this "
                         "is no TFRecord file, or a damaged one: get it again")
    length, = _LENGTH.unpack_from(head)
    if length == 0:
        raise ValueError(f"{file.path}: record {number}, at byte {offset}, is empty; a record must hold a "
                         "tf.train.Example")
    if length > MAX_RECORD_BYTES:
        raise ValueError(f"{file.path}: record {number}, at byte {offset}, is said to have {length} bytes; "
                         f"{MAX_RECORD_BYTES} are the most")
    if offset + length + FRAME_BYTES > size:
        raise ValueError(f"{file.path}: record {number}, at byte {offset}, ends {offset + length + FRAME_BYTES - size} "
                         "bytes behind the end of the file; it was cut off: get it again")
    return length


def content(file: storage.Reader, offset: int, length: int) -> bytes:
    """What the record of `length` bytes at `offset` holds.

    ValueError, which names neither the shard nor the record, unless its length and both of its checksums are right.
    """
    frame = file.read(offset, length + FRAME_BYTES)
    if len(frame) < length + FRAME_BYTES:
        raise ValueError(f"the file ends within it, at byte {offset + len(frame)}; {_AGAIN}")
    return unframed(frame)


def unframed(frame: bytes) -> bytes:
    """What the record in `frame`, all bytes of it, holds. ValueError unless its length and both of its checksums are right."""
    length, inside = len(frame) - FRAME_BYTES, frame[HEADER_BYTES:-FOOTER_BYTES]
    problem = None
    if length < 0:
        problem = "the file ends within it"
    elif _LENGTH.unpack_from(frame)[0] != length:
        problem = f"its length is not the {length} bytes that it had"
    elif _CRC.unpack_from(frame, 8)[0] != masked_crc(frame[:8]):
        problem = "the checksum of its length is wrong"
    elif _CRC.unpack_from(frame, len(frame) - 4)[0] != masked_crc(inside):
        problem = "the checksum of its content is wrong"
    if problem:
        raise ValueError(f"{problem}; {_AGAIN}")
    return inside


def save(path: str, index: Index) -> None:
    """Writes the index file, whole or not at all."""
    storage.publish(path, encoded(index))


def encoded(index: Index) -> bytes:
    """The content of an index file."""
    head = _HEAD.pack(_MAGIC, *index.shard, len(index.lengths), index.largest_label)
    body = head + index.lengths.astype("<u4").tobytes()
    return body + _CRC.pack(google_crc32c.value(body))


def load(path: str, shard: storage.Status) -> Index:
    """The index file of this very shard. ValueError, which names the file, unless it is whole and fits it."""
    most = min(shard.size // (FRAME_BYTES + 1), MAX_RECORDS)
    return decoded(storage.read_whole(path, _HEAD.size + 4 * most + _CRC.size), shard, path)


def decoded(data: bytes, shard: storage.Status, path: str) -> Index:
    """The index that `data`, the content of `path`, holds of this very shard. ValueError as from `load`."""
    def require(condition: bool, rule: str) -> None:
        if not condition:
            raise ValueError(f"{path}: {rule}; remove it, it is made again, or get the shard again")

    require(len(data) >= _HEAD.size + _CRC.size and data[:8] == _MAGIC, f"does not begin with {_MAGIC.decode()}")
    require(_CRC.unpack_from(data, len(data) - 4)[0] == google_crc32c.value(data[:-4]), "its checksum is wrong")
    _, *of, records, largest_label = _HEAD.unpack_from(data)
    require(tuple(of) == tuple(shard), f"is the index of another file: of size and times {of}, not {list(shard)}")
    require(records > 0 and len(data) == _HEAD.size + 4 * records + _CRC.size,
            f"has {len(data)} bytes, which do not fit {records} records")
    lengths = np.frombuffer(data, "<u4", records, _HEAD.size).astype(np.uint32)
    require(int(lengths.min()) > 0 and int(lengths.max()) <= MAX_RECORD_BYTES,
            f"lengths of records must be 1 to {MAX_RECORD_BYTES} bytes")
    together = int(lengths.sum(dtype=np.int64)) + FRAME_BYTES * records
    require(together == shard.size, f"its records have {together} bytes together, and the shard has {shard.size}")
    require(largest_label >= -1, f"its largest label is {largest_label}")
    return Index(shard=shard, lengths=lengths, largest_label=largest_label)
