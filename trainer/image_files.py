"""Reads image files of strangers as a network takes them: bounded in memory, and nothing in them is run.

    image_files.check("cat.png")                            # plain Python: is it there, is it small enough
    image, note = image_files.read("cat.png", (32, 32, 3))  # float32 [32, 32, 3] in the file's own units

PNG, JPEG, BMP, GIF (its first frame) and NumPy's .npy, told apart by their first bytes. Both functions raise
Unreadable.
"""
import os
import re
import stat
import struct

import numpy as np

MAX_BYTES = 64 * 2**20  # of a file
MAX_PIXELS = 50_000_000  # of an image once decoded: 600 MB as RGB in float32
FORMATS = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP", b"GIF8": "GIF",
           b"\x93NUMPY": "npy"}


class Unreadable(ValueError):
    """Why a file is no image that can be read; without its name."""


def check(path: str) -> None:
    """Unreadable unless `path` is a file that exists and is not too large."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise Unreadable(getattr(error, "strerror", None) or str(error)) from None
    if not stat.S_ISREG(facts.st_mode):
        raise Unreadable("is a folder" if stat.S_ISDIR(facts.st_mode) else "is no regular file")
    if facts.st_size > MAX_BYTES:
        raise Unreadable(f"has {facts.st_size} bytes, at most {MAX_BYTES} are read")


def read(path: str, shape: tuple[int, int, int]) -> tuple[np.ndarray, str]:
    """The image as float32 of `shape` (height, width, channels), and a note if its size was changed, else "".

    Values stay as they are in the file. Grey becomes RGB by repetition, RGB becomes grey by its luma (ITU-R
    BT.601); transparency is dropped. Another size is resized bilinearly, with antialiasing.
    """
    check(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES)
        kind = next((kind for magic, kind in FORMATS.items() if data.startswith(magic)), None)
        if kind is None:
            raise Unreadable(f"is none of {', '.join(FORMATS.values())}")
        image = _array(path) if kind == "npy" else _decode(data, kind)
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from None
    with np.errstate(over="ignore"):  # looked for below
        image = _channels(image, shape[2]).astype(np.float32)
    if not np.isfinite(image).all():
        raise Unreadable("has values that are not finite in float32")
    if image.shape == tuple(shape):
        return image, ""
    import tensorflow as tf
    resized = tf.image.resize(image, shape[:2], method="bilinear", antialias=True).numpy()
    return resized, f"{image.shape[0]}x{image.shape[1]} was resized to {shape[0]}x{shape[1]}"


def _array(path: str) -> np.ndarray:
    """[h, w, c] of any number type."""
    try:
        # Mapped, since a header may promise more than the file holds.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise Unreadable(f"is no npy file of numbers: {' '.join(str(error).split())}") from None
    if array.dtype.kind not in "buif" or array.ndim not in (2, 3) or 0 in array.shape:
        raise Unreadable(f"holds {array.dtype} {list(array.shape)}; it must be numbers, [h, w] or "
                         "[h, w, channels]")
    _check_size(*array.shape[:2])
    return array if array.ndim == 3 else array[..., np.newaxis]


def _decode(data: bytes, kind: str) -> np.ndarray:
    """uint8 [h, w, c], c being the file's own. Its size is looked at before anything is decoded."""
    import tensorflow as tf
    try:
        if kind == "PNG":
            width, height = struct.unpack_from(">II", data, 16)
        elif kind == "BMP":
            width, height = struct.unpack_from("<ii", data, 18)  # a negative height: rows from the top
        elif kind == "GIF":
            data, height, width = _first_frame(data)  # TensorFlow would decode the others, too, and drop them
        else:
            height, width, _ = (int(size) for size in tf.io.extract_jpeg_shape(data))
        _check_size(height, width)
        return tf.io.decode_image(data, expand_animations=False).numpy()
    except (struct.error, IndexError):
        raise Unreadable(f"is a {kind} file that ends too early") from None
    except tf.errors.OpError as error:
        reason = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", error.message)
        raise Unreadable(f"is a damaged {kind} file: {' '.join(reason.split())}") from None


def _check_size(height: int, width: int) -> None:
    if abs(height * width) > MAX_PIXELS:
        raise Unreadable(f"has {height} x {width} pixels, at most {MAX_PIXELS} are decoded")


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


def _channels(image: np.ndarray, wanted: int) -> np.ndarray:
    """[h, w, wanted] of grey, RGB, or either with transparency."""
    if image.shape[2] in (2, 4) and image.shape[2] != wanted:
        image = image[..., :-1]
    if image.shape[2] == wanted:
        return image
    if (image.shape[2], wanted) == (1, 3):
        return np.repeat(image, 3, axis=2)
    if (image.shape[2], wanted) == (3, 1):
        return image @ np.array([[0.299], [0.587], [0.114]], np.float32)
    raise Unreadable(f"has {image.shape[2]} channels, the network takes {wanted}")
