"""Decodes image files of strangers: bounded in memory, none of it is run, and what is wrong is said in words.

    images.decode_any(data)               # bytes of one file to uint8 [h, w, c], eagerly; Unreadable says why not
    images.decode_square(data, 224)       # a string tensor to uint8 [224, 224, 3]: fast, in a graph

PNG, JPEG, BMP and GIF (its first frame), told apart by their first bytes, not by their name. The size that a header
states is looked at before anything is decoded. TensorFlow is imported by what decodes, not by this module.
"""

from __future__ import annotations

import functools
import re
import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif")  # of the names of such files, in any case
FORMATS = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP", b"GIF8": "GIF"}
MAX_PIXELS = 50_000_000  # of an image once decoded: 150 MB as RGB
RATIOS = (1, 2, 4, 8)  # by which a JPEG can be decoded smaller
DCT = "INTEGER_ACCURATE"  # as other programs decode JPEG; TensorFlow's default differs by some units and is no faster


class Unreadable(ValueError):
    """Why bytes are no image that can be read; without the file's name."""


def kind(data: bytes) -> str | None:
    """The format that the first bytes tell, a value of FORMATS."""
    return next((kind for magic, kind in FORMATS.items() if data.startswith(magic)), None)


def check_size(height: int, width: int) -> None:
    """Unreadable where an image of this size is too large to be decoded."""
    if abs(height * width) > MAX_PIXELS:
        raise Unreadable(f"has {height} x {width} pixels, at most {MAX_PIXELS} are decoded")


def decode_any(data: bytes, channels: int = 0) -> np.ndarray:
    """The image in `data`, uint8 [h, w, c]; c is `channels`, 1 or 3, or with 0 the file's own. Unreadable says why not.

    As TensorFlow decodes it: grey becomes RGB by repetition, CMYK becomes RGB, 16 bits become 8, transparency is
    dropped where `channels` leaves no room for it. A GIF is always RGB. EXIF's orientation is not looked at.
    """
    import tensorflow as tf
    found = kind(data)
    if found is None:
        raise Unreadable(f"is none of {', '.join(FORMATS.values())}" if data else "is empty")
    try:
        if found == "PNG":
            width, height = struct.unpack_from(">II", data, 16)
        elif found == "BMP":
            width, height = struct.unpack_from("<ii", data, 18)  # a negative height: rows from the top
            _check_bmp(data)
        elif found == "GIF":
            data, height, width = _first_frame(data)  # TensorFlow would decode the others, too, and drop them
        else:
            height, width, _ = (int(size) for size in tf.io.extract_jpeg_shape(data))
        check_size(height, width)
        if found == "JPEG":
            return tf.io.decode_jpeg(data, channels, dct_method=DCT).numpy()
        return tf.io.decode_image(data, channels, expand_animations=False).numpy()
    except (struct.error, IndexError):
        raise Unreadable(f"is a {found} file that ends too early") from None
    except tf.errors.OpError as error:
        raise Unreadable(f"is a damaged {found} file: {_words(error)}") from None


def decode_square(data: tf.Tensor, size: int) -> tf.Tensor:
    """The central square of the image in `data`, a string tensor [], as uint8 [size, size, 3] (RGB, as `decode_any`).

    Resized bilinearly to `size`, after averages where it is at least twice too large: of a JPEG, only the square is
    decoded, then at 1/2, 1/4 or 1/8 of its size. Raises tf.errors.InvalidArgumentError where it cannot be decoded;
    `check_square` has better words.
    """
    import tensorflow as tf
    return _squares(size)(data) if tf.executing_eagerly() else _square(data, size)


def check_square(data: bytes, size: int) -> None:
    """Unreadable, which says why, where `decode_square` cannot decode `data`."""
    import tensorflow as tf
    try:
        decode_square(tf.constant(data), size)
    except tf.errors.OpError as error:
        decode_any(data, channels=3)
        raise Unreadable(f"cannot be decoded: {_words(error)}") from None


def _words(error) -> str:
    """The message of one of TensorFlow's errors in one line, without the names of operations."""
    return " ".join(re.sub(r"\{\{.*?\}\}|\[Op:.*", "", error.message).split())


def _magic(kind: str) -> bytes:
    return next(magic for magic, name in FORMATS.items() if name == kind)


@functools.cache
def _squares(size: int):
    """`_square` for code outside a graph."""
    import tensorflow as tf
    return tf.function(lambda data: _square(data, size), autograph=False,
                       input_signature=[tf.TensorSpec([], tf.string)])


def _square(data, size):
    import tensorflow as tf
    first = tf.strings.substr(data, 0, 3)
    square = _choose(tf.cast(first != _magic("JPEG"), tf.int32), data, lambda data: _jpeg(data, size),
                     lambda data: _other(data, first, size))
    # By now it is less than twice too large: bilinear weights leave no pixel out. Averages over areas would take as
    # long as all else together, tf.image.resize(antialias=True) three times as long.
    exact = tf.cast(tf.shape(square)[0] != size, tf.int32)
    resize = functools.partial(_resized, tf.raw_ops.ResizeBilinear, size=size, half_pixel_centers=True)
    return tf.ensure_shape(_choose(exact, square, lambda square: square, resize), [size, size, 3])


def _choose(which, data, *branches):
    """What the branch numbered `which` makes of `data`; the others do nothing.

    Within tf.data each tf.cond and tf.switch_case costs 50 to 100 microseconds, since it calls a function there. These
    are the operations that they are made of elsewhere.
    """
    import tensorflow as tf
    results = [branch(tf.raw_ops.Switch(data=data, pred=tf.equal(which, number)).output_true)
               for number, branch in enumerate(branches)]
    return tf.raw_ops.Merge(inputs=results).output


def _jpeg(data, size):
    """The central square of a JPEG, with a side of at least `size` where the image has that."""
    import tensorflow as tf
    shape = tf.io.extract_jpeg_shape(data)[:2]
    place = tf.reduce_sum(tf.cast(tf.reduce_min(shape) >= size * np.array(RATIOS[1:], np.int32), tf.int32))
    ratio = tf.bitwise.left_shift(1, place)
    scaled = (shape + ratio - 1) // ratio  # as libjpeg rounds
    side = tf.reduce_min(scaled)
    window = tf.concat([(scaled - side) // 2, [side, side]], 0)
    decoders = (functools.partial(tf.io.decode_and_crop_jpeg, crop_window=window, channels=3, ratio=ratio,
                                  dct_method=DCT) for ratio in RATIOS)
    return _choose(tf.where(_is_bounded(shape), place, len(RATIOS)), data, *decoders, _rare)


def _other(data, first, size):
    """The central square of what is no JPEG, at `size` where it is at least twice as large. first: bytes."""
    import tensorflow as tf
    png = (first == _magic("PNG")[:3]) & (tf.strings.length(data) >= 24)
    image = _choose(tf.cast(png, tf.int32), data, _rare, _png)
    shape = tf.shape(image)[:2]
    side = tf.reduce_min(shape)
    top, left = tf.unstack((shape - side) // 2)
    return _choose(tf.cast(side >= 2 * size, tf.int32), image[top:top + side, left:left + side], lambda square: square,
                   functools.partial(_resized, tf.raw_ops.ResizeArea, size=size))


def _png(data):
    import tensorflow as tf
    shape = tf.io.decode_raw(tf.strings.substr(data, 16, 8), tf.int32, little_endian=False)
    return _choose(tf.cast(_is_bounded(shape), tf.int32), data, _rare,
                   functools.partial(tf.io.decode_png, channels=3))


def _is_bounded(shape):
    """Whether an image of `shape`, int32 [2], may be decoded. `_rare` has the words where not."""
    import tensorflow as tf
    # A condition and no assertion: TensorFlow makes assertions wait for each other, those of other branches too.
    return tf.reduce_prod(tf.cast(shape, tf.int64)) <= MAX_PIXELS


def _rare(data):
    """Other formats, in Python."""
    import tensorflow as tf
    image = tf.numpy_function(lambda data: decode_any(data, channels=3), [data], tf.uint8, stateful=False)
    return tf.ensure_shape(image, [None, None, 3])


def _resized(operation, square, *, size, **options):
    """`square`, uint8 [n, n, 3], as uint8 [size, size, 3]."""
    import tensorflow as tf
    values = operation(images=square[tf.newaxis], size=[size, size], **options)
    return tf.cast(values[0] + 0.5, tf.uint8)


def _check_bmp(data: bytes) -> None:
    """Unreadable for a BMP of other bits a pixel than TensorFlow decodes, or with a palette of colours, which it would take
    for shades of grey."""
    header_size, bits = struct.unpack_from("<I10xH", data, 14)
    if bits not in (8, 24, 32):
        raise Unreadable(f"is a BMP file of {bits} bits a pixel, 8, 24 and 32 are read; make it PNG")
    palette = data[14 + header_size:14 + header_size + 4 * 256]
    if bits == 8 and not palette[0::4] == palette[1::4] == palette[2::4] == bytes(range(256)):
        raise Unreadable("is a BMP file with a palette, which is not read; make it PNG")


def _first_frame(data: bytes) -> tuple[bytes, int, int]:
    """A GIF cut after its first frame, and that frame's height and width. IndexError where it ends before.

    GIF89a specification, sections 17 to 23: blocks up to the first image descriptor, and its data.
    """
    def after_colors(flags: int, position: int) -> int:
        return position + (3 << (flags & 7) + 1 if flags & 0x80 else 0)

    def after_parts(position: int) -> int:
        while data[position]:
            position += data[position] + 1
        return position + 1

    position = after_colors(data[10], 13)
    while data[position] == ord("!"):  # an extension
        position = after_parts(position + 2)
    if data[position] != ord(","):
        raise Unreadable("is a GIF file without a frame")
    width, height = struct.unpack_from("<HH", data, position + 5)
    end = after_parts(after_colors(data[position + 9], position + 10) + 1)
    return data[:end] + b";", height, width
