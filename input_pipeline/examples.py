"""The serialised tf.train.Example of one image: written, and read from whoever wrote it.

Reads the wire format itself (protobuf.dev, "Encoding"): only what is asked for, without building objects of the
rest, so that a hostile record costs no more memory than its own bytes, and every fault is a ValueError.

    record = examples.encode(image=jpeg_bytes, label=3, name="tulips/1.jpg")
    examples.names(record)                                   # ["image/class/label", "image/filename", "image/encoded"]
    examples.image_and_label(record, "image/encoded", "image/class/label", classes=5)     # (jpeg_bytes, 3)

Errors name neither file nor record.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

IMAGE, LABEL, NAME = "image/encoded", "image/class/label", "image/filename"
MAX_FEATURES = 1000  # of an Example
_PARTS = 16          # fields of any other message; more are an attack on the reader's time
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_KINDS = {1: "bytes", 2: "float", 3: "int64"}  # fields of tf.train.Feature


class _Values(NamedTuple):
    """A list of values within a record: its kind, and where it begins and ends."""

    kind: str
    start: int
    end: int


def encode(*, image: bytes, label: int, name: str) -> bytes:
    """An Example with an encoded image, its label and the name of the file that it comes from."""
    features = ((LABEL, _message(3, _message(1, _varint(label)))),
                (NAME, _message(1, _message(1, name.encode("utf-8", "surrogateescape")))),
                (IMAGE, _message(1, _message(1, image))))
    return _message(1, b"".join(_message(1, _message(1, key.encode()) + _message(2, feature))
                                for key, feature in features))


def names(data: bytes) -> list[str]:
    """The names of all features. ValueError: it is no Example."""
    return [name.decode("utf-8", "backslashreplace") for name in _find(data, None)]


def image_and_label(data: bytes, image: str, label: str, classes: int) -> tuple[bytes, int]:
    """The encoded image in feature `image` and the label in feature `label`.

    ValueError, which names the feature: one is not there, or is not one value of bytes, one int64 of 0 to classes - 1.
    """
    found = _find(data, (image.encode(), label.encode()))
    first, last = _named(image, _one_bytes, data, found.get(image.encode()))
    return data[first:last], _named(label, _one_label, data, found.get(label.encode()), classes)


def label_only(data: bytes, label: str, classes: int) -> int:
    """The label in feature `label`; see `image_and_label`."""
    found = _find(data, (label.encode(),))
    return _named(label, _one_label, data, found.get(label.encode()), classes)


def _named(feature: str, read, *arguments):
    try:
        return read(*arguments)
    except ValueError as error:
        raise ValueError(f"feature {feature}: {error}") from None


def _one_bytes(data: bytes, values: _Values | None) -> tuple[int, int]:
    _check_kind(values, "bytes")
    found = [(first, last) for _, first, last in _messages(data, values.start, values.end, {1})]
    if len(found) != 1:
        raise ValueError(f"holds {len(found)} values; it must hold one")
    return found[0]


def _one_label(data: bytes, values: _Values | None, classes: int) -> int:
    _check_kind(values, "int64")
    found: list[int] = []
    for number, wire, first, last in _fields(data, values.start, values.end):
        if number == 1 and wire == _VARINT:
            found.append(first)
        elif number == 1 and wire == _BYTES:  # packed
            while first < last and len(found) < 2:
                value, first = _read_varint(data, first, last)
                found.append(value)
    if len(found) != 1:
        raise ValueError(f"holds {'several' if found else 'no'} values; it must hold one")
    value = found[0] - (1 << 64) if found[0] >> 63 else found[0]
    if not 0 <= value < classes:
        raise ValueError(f"holds {value}; labels must be 0 to {classes - 1}")
    return value


def _check_kind(values: _Values | None, kind: str) -> None:
    if values is None:
        raise ValueError("is not there")
    if values.kind != kind:
        raise ValueError(f"holds {values.kind}; it must hold {kind}")


def _find(data: bytes, wanted: tuple[bytes, ...] | None) -> dict[bytes, _Values]:
    """Where the values of the features `wanted` lie, or of all. ValueError: it is no Example."""
    found = {}
    for _, first, last in _messages(data, 0, len(data), {1}):
        for _, entry, entry_end in _messages(data, first, last, {1}, MAX_FEATURES):
            parts = {number: (a, b) for number, a, b in _messages(data, entry, entry_end, {1, 2})}
            a, b = parts.get(1, (0, 0))
            if wanted is None or data[a:b] in wanted:
                kind = _Values("nothing", 0, 0)
                for number, first_value, end_value in _messages(data, *parts.get(2, (0, 0)), _KINDS):
                    kind = _Values(_KINDS[number], first_value, end_value)
                found[data[a:b]] = kind
    return found


def _messages(data: bytes, start: int, end: int, wanted, most: int = _PARTS) -> Iterator[tuple[int, int, int]]:
    """(field number, start, end) of the fields of data[start:end] whose numbers are `wanted`: bytes or messages."""
    for number, wire, a, b in _fields(data, start, end, most):
        if number in wanted:
            if wire != _BYTES:
                raise ValueError("is no tf.train.Example")
            yield number, a, b


def _fields(data: bytes, start: int, end: int, most: int = _PARTS) -> Iterator[tuple[int, int, int, int]]:
    """(field number, wire type, start, end) of each field of data[start:end]; of a number its value as start."""
    for _ in range(most + 1):
        if start >= end:
            return
        tag = data[start]
        start += 1
        if tag > 0x7F:  # rare, and a call costs more than all the rest
            tag, start = _read_varint(data, start - 1, end)
        wire, value, stop = tag & 7, start, start
        if wire == _BYTES:
            length, value = _read_varint(data, start, end)
            stop = value + length
        elif wire == _VARINT:
            value, stop = _read_varint(data, start, end)
        elif wire in (_FIXED32, _FIXED64):
            stop = start + (4 if wire == _FIXED32 else 8)
        else:
            raise ValueError("is no tf.train.Example")
        if stop > end or not 8 <= tag < 1 << 32:
            raise ValueError("is no tf.train.Example")
        yield tag >> 3, wire, value, stop
        start = stop
    raise ValueError(f"has more than {most} {'features' if most == MAX_FEATURES else 'values in one place'}")


def _read_varint(data: bytes, start: int, end: int) -> tuple[int, int]:
    """(value, where it ends); values are 64 bits, as protobuf cuts them."""
    if start < end and data[start] < 0x80:
        return data[start], start + 1
    value = shift = 0
    for position in range(start, min(end, start + 10)):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position + 1
        shift += 7
    raise ValueError("is no tf.train.Example")


def _varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _message(number: int, content: bytes) -> bytes:
    """A field of bytes."""
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content
